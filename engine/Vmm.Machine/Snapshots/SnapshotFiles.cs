using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;

namespace Vmm.Machine.Snapshots;

/// <summary>Writing a snapshot's files, and reading them without trusting them.</summary>
internal sealed class SnapshotFiles : ISavedMachine, IDisposable
{
    private readonly FileStream _memory;

    private SnapshotFiles(SnapshotManifest manifest, MachineState state, FileStream memory)
    {
        Manifest = manifest;
        State = state;
        _memory = memory;
    }

    /// <inheritdoc/>
    public SnapshotManifest Manifest { get; }

    /// <inheritdoc/>
    public MachineState State { get; }

    /// <summary>Writes a snapshot, and has the host's disk keep it.</summary>
    /// <param name="directory">An existing, empty directory.</param>
    /// <param name="manifest">Everything but the digest and the memory stored, which are put in.</param>
    /// <param name="state">Everything but RAM.</param>
    /// <param name="memory">RAM.</param>
    /// <returns>The manifest as written.</returns>
    /// <exception cref="IOException">A file cannot be written, or the directory is not empty.</exception>
    public static SnapshotManifest Write(string directory, SnapshotManifest manifest, MachineState state, PhysicalMemory memory)
    {
        try
        {
            if (Directory.EnumerateFileSystemEntries(directory).Any())
                throw new IOException($"'{directory}' is not empty.");
            ulong stored;
            using (FileStream file = Create(directory, SnapshotFormat.MemoryFile))
            {
                stored = memory.Save(file.SafeFileHandle);
                file.Flush(flushToDisk: true);
            }
            return WriteState(directory, manifest with { MemoryBytesStored = stored }, state);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException(e.Message, e);
        }
    }

    /// <summary>Writes what makes a snapshot of a directory in which the memory already is.</summary>
    /// <param name="directory">The directory.</param>
    /// <param name="manifest">Everything but the digest, which is put in.</param>
    /// <param name="state">Everything but RAM.</param>
    /// <returns>The manifest as written.</returns>
    /// <exception cref="IOException">A file cannot be written.</exception>
    public static SnapshotManifest WriteState(string directory, SnapshotManifest manifest, MachineState state)
    {
        SavedMachine saved = SnapshotDocuments.Write(ref manifest, state);
        Write(directory, SnapshotFormat.StateFile, saved.State.Span);
        Write(directory, SnapshotFormat.ManifestFile, saved.Manifest.Span);
        return manifest;
    }

    /// <summary>Reads a snapshot, but for its RAM.</summary>
    /// <exception cref="InvalidSnapshotException">It is none, or not whole.</exception>
    public static SnapshotFiles Read(string directory)
    {
        FileStream? memory = null;
        try
        {
            (SnapshotManifest manifest, MachineState state) = SnapshotDocuments.Read(
                ReadWhole(directory, SnapshotFormat.ManifestFile, SnapshotDocuments.LongestManifest),
                () => ReadWhole(directory, SnapshotFormat.StateFile, SnapshotDocuments.LongestState));
            memory = new FileStream(Path.Combine(directory, SnapshotFormat.MemoryFile), FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            return new SnapshotFiles(manifest, state, memory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            memory?.Dispose();
            throw new InvalidSnapshotException($"The snapshot cannot be read: {e.Message}", e);
        }
    }

    /// <summary>RAM that begins as the snapshot's, copied on write.</summary>
    /// <exception cref="InvalidStateException">The file has another length.</exception>
    public PhysicalMemory TakeMemory() => new(_memory, Manifest.MemoryBytes);

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();

    private static FileStream Create(string directory, string name) =>
        new(Path.Combine(directory, name), FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 0);

    private static void Write(string directory, string name, ReadOnlySpan<byte> bytes)
    {
        using FileStream file = Create(directory, name);
        file.Write(bytes);
        file.Flush(flushToDisk: true);
    }

    private static byte[] ReadWhole(string directory, string name, long longest)
    {
        using var file = new FileStream(Path.Combine(directory, name), FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
        if (file.Length > longest)
            throw new InvalidSnapshotException($"{name} has {file.Length} bytes; at most {longest} are read.");
        byte[] bytes = new byte[file.Length];
        file.ReadExactly(bytes);
        return bytes;
    }
}
