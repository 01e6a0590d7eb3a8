using System.Runtime.CompilerServices;
using Google.Protobuf;
using Microsoft.Win32.SafeHandles;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>
/// A directory that workers share, with the content of snapshots: <c>chunks/{2 digits}/{digest}</c>, each chunk once however many snapshots
/// have it, and <c>contents/{uid}</c>, each snapshot's list of digests. Thread-safe, and for any number of processes.
/// </summary>
/// <remarks>
/// A chunk is durable before a list that names it appears, and a list before the record of its snapshot. Whoever adds holds the lock of
/// <c>lock</c> together with others who add, from the first look whether a chunk is there until the list is; whoever
/// removes chunks holds it alone, and removes those that no list names. A lock ends with its process, so that the death of one leaves
/// at most chunks that the next removal finds.
/// </remarks>
internal sealed class SharedSnapshots : ISnapshotSource
{
    private static readonly TimeSpan LockPoll = TimeSpan.FromMilliseconds(20);

    private readonly string _root;
    private readonly TimeProvider _time;

    /// <param name="root">The directory; it is made where it does not exist.</param>
    /// <param name="time">For waiting for the lock.</param>
    /// <exception cref="IOException">It cannot be used.</exception>
    public SharedSnapshots(string root, TimeProvider time)
    {
        _root = Path.GetFullPath(root);
        _time = time;
        foreach (string folder in (string[])[_root, ChunksFolder, ContentsFolder, TemporaryFolder])
            WorkerStore.CreatePrivateDirectory(folder);
        try
        {
            File.Open(LockPath, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite).Dispose();
        }
        catch (IOException) when (File.Exists(LockPath))
        {
            // Another worker holds it just now, and so it is there.
        }
    }

    private string ChunksFolder => Path.Combine(_root, "chunks");

    private string ContentsFolder => Path.Combine(_root, "contents");

    private string TemporaryFolder => Path.Combine(_root, "temporary");

    private string LockPath => Path.Combine(_root, "lock");

    /// <summary>Adds a snapshot. It is there, and lasts, when this returns.</summary>
    /// <param name="uid">The snapshot's.</param>
    /// <param name="folder">Its files.</param>
    /// <param name="content">Their list.</param>
    /// <exception cref="IOException">The directory does not take it; nothing shows then.</exception>
    public async Task AddAsync(string uid, SnapshotFolder folder, SnapshotContent content)
    {
        using FileStream adding = await LockAsync(alone: false);
        var changed = new HashSet<string>(StringComparer.Ordinal);
        byte[] buffer = new byte[SnapshotChunks.Bytes];
        foreach (IGrouping<int, ChunkPlace> places in SnapshotContents.Places(content).GroupBy(place => place.File))
        {
            SnapshotFile entry = content.Files[places.Key];
            using SafeFileHandle file = SnapshotContents.OpenToRead(folder.PathOf(entry.Name));
            foreach (ChunkPlace place in places)
            {
                string path = ChunkPath(place.Digest.Span);
                if (File.Exists(path))
                    continue;
                string into = Path.GetDirectoryName(path)!;
                WorkerStore.CreatePrivateDirectory(into);
                Write(path, SnapshotChunks.Compress(SnapshotContents.Read(file, buffer, entry.SizeBytes, place.Index)));
                changed.Add(into);
            }
        }

        foreach (string into in changed)
            PosixFile.FlushDirectory(into);
        Write(ContentPath(uid), content.ToByteArray());
        PosixFile.FlushDirectory(ContentsFolder);
    }

    /// <summary>Removes a snapshot, and then the chunks that no other has.</summary>
    /// <exception cref="IOException">It is there still, or some of its chunks are, which <see cref="SweepAsync"/> removes.</exception>
    public async Task RemoveAsync(string uid)
    {
        string path = ContentPath(uid);
        if (!File.Exists(path))
            return;
        var candidates = new HashSet<string>(StringComparer.Ordinal);
        if (TryParse(File.ReadAllBytes(path)) is { } content)
            candidates.UnionWith(SnapshotContents.Places(content).Select(place => ChunkPath(place.Digest.Span)));
        File.Delete(path);
        PosixFile.FlushDirectory(ContentsFolder);
        using FileStream removing = await LockAsync(alone: true);
        candidates.ExceptWith(ChunksInUse());
        foreach (string chunk in candidates)
            File.Delete(chunk);
    }

    /// <summary>Checkpoints that were added before a moment: the VMs that they are of, and their uids.</summary>
    /// <exception cref="IOException">The directory cannot be read.</exception>
    public IReadOnlyList<(string Vm, string Uid)> CheckpointsBefore(DateTimeOffset moment)
    {
        var found = new List<(string, string)>();
        foreach (string path in Directory.EnumerateFiles(ContentsFolder))
        {
            try
            {
                if (File.GetLastWriteTimeUtc(path) < moment.UtcDateTime && TryParse(File.ReadAllBytes(path)) is { Vm.Length: > 0 } content)
                    found.Add((content.Vm, Path.GetFileName(path)));
            }
            catch (FileNotFoundException)
            {
                // Its worker was quicker.
            }
        }

        return found;
    }

    /// <summary>Removes what processes that died have left: lists of this worker's that no record names, and every chunk that no list names.</summary>
    /// <param name="directory">The id of this worker's state directory.</param>
    /// <param name="known">The uids of its snapshots.</param>
    /// <exception cref="IOException">Something could not be removed.</exception>
    public async Task SweepAsync(string directory, IReadOnlySet<string> known)
    {
        using FileStream removing = await LockAsync(alone: true);
        foreach (string path in Directory.EnumerateFiles(ContentsFolder))
            if (!known.Contains(Path.GetFileName(path)) && TryParse(File.ReadAllBytes(path)) is { } content && content.Directory == directory)
                File.Delete(path);
        PosixFile.FlushDirectory(ContentsFolder);
        foreach (string path in Directory.EnumerateFiles(TemporaryFolder))
            File.Delete(path);
        HashSet<string> used = ChunksInUse();
        foreach (string path in Directory.EnumerateFiles(ChunksFolder, "*", SearchOption.AllDirectories))
            if (!used.Contains(path))
                File.Delete(path);
    }

    /// <inheritdoc/>
    public async Task<byte[]?> ReadContentAsync(Snapshot snapshot, CancellationToken cancellation)
    {
        try
        {
            string path = ContentPath(snapshot.Uid);
            if (File.Exists(path) && new FileInfo(path).Length > SnapshotContents.MostBytes)
                throw new DamagedSnapshotException("The list of its content is longer than any that is read.");
            return await File.ReadAllBytesAsync(path, cancellation);
        }
        catch (FileNotFoundException)
        {
            return null;
        }
    }

    /// <inheritdoc/>
    public async IAsyncEnumerable<ReadOnlyMemory<byte>> ReadChunksAsync(Snapshot snapshot, IReadOnlyList<ChunkPlace> places, [EnumeratorCancellation] CancellationToken cancellation)
    {
        byte[] buffer = new byte[SnapshotChunks.MostCompressed];
        foreach (ChunkPlace place in places)
            yield return await ReadChunkAsync(place, buffer, cancellation);
    }

    private async Task<ReadOnlyMemory<byte>> ReadChunkAsync(ChunkPlace place, byte[] buffer, CancellationToken cancellation)
    {
        try
        {
            using SafeFileHandle file = SnapshotContents.OpenToRead(ChunkPath(place.Digest.Span));
            if (RandomAccess.GetLength(file) > buffer.Length)
                throw new DamagedSnapshotException($"Chunk {Convert.ToHexStringLower(place.Digest.Span)} is longer than any that is read.");
            return buffer.AsMemory(0, await RandomAccess.ReadAsync(file, buffer, 0, cancellation));
        }
        catch (Exception exception) when (exception is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new DamagedSnapshotException($"Chunk {Convert.ToHexStringLower(place.Digest.Span)} is not in the snapshot store.", exception);
        }
    }

    private HashSet<string> ChunksInUse()
    {
        var used = new HashSet<string>(StringComparer.Ordinal);
        foreach (string path in Directory.EnumerateFiles(ContentsFolder))
        {
            try
            {
                used.UnionWith(SnapshotContents.Places(TryParse(File.ReadAllBytes(path)) ?? throw new IOException($"{path} cannot be read, so it is unknown which chunks are in use."))
                    .Select(place => ChunkPath(place.Digest.Span)));
            }
            catch (FileNotFoundException)
            {
                // Lists go without the lock, before their chunks.
            }
        }

        return used;
    }

    private static SnapshotContent? TryParse(byte[] content)
    {
        try
        {
            SnapshotContent parsed = SnapshotContent.Parser.ParseFrom(content);
            return parsed.Files.All(file => file.Digests.Length % SnapshotChunks.DigestBytes == 0) ? parsed : null;
        }
        catch (InvalidProtocolBufferException)
        {
            return null;
        }
    }

    /// <summary>Whole and flushed, or not there. The folder's own flush is the caller's.</summary>
    private void Write(string path, ReadOnlySpan<byte> bytes)
    {
        string temporary = Path.Combine(TemporaryFolder, Guid.NewGuid().ToString("n"));
        try
        {
            using (SafeFileHandle file = File.OpenHandle(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None))
            {
                RandomAccess.Write(file, bytes, 0);
                RandomAccess.FlushToDisk(file);
            }

            File.Move(temporary, path, overwrite: true);
        }
        catch (IOException)
        {
            File.Delete(temporary);
            throw;
        }
    }

    private async Task<FileStream> LockAsync(bool alone)
    {
        while (true)
        {
            try
            {
                // .NET takes an advisory lock of the file that way: shared with other readers, or exclusive.
                return alone
                    ? new FileStream(LockPath, FileMode.Open, FileAccess.ReadWrite, FileShare.None)
                    : new FileStream(LockPath, FileMode.Open, FileAccess.Read, FileShare.Read);
            }
            catch (IOException) when (File.Exists(LockPath))
            {
                await Task.Delay(LockPoll, _time);
            }
        }
    }

    private string ChunkPath(ReadOnlySpan<byte> digest)
    {
        string name = Convert.ToHexStringLower(digest);
        return Path.Combine(ChunksFolder, name[..2], name);
    }

    private string ContentPath(string uid) =>
        Path.Combine(ContentsFolder, Guid.TryParseExact(uid, "D", out Guid id) ? id.ToString() : throw new DamagedSnapshotException("Its uid is none."));
}
