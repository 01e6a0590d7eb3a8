using System.Security.Cryptography;
using Google.Protobuf;
using Microsoft.Win32.SafeHandles;
using Vmm.Machine.Snapshots;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>A chunk of a snapshot that is not all zeros.</summary>
/// <param name="File">Which of the content's files.</param>
/// <param name="Index">Which of its chunks.</param>
/// <param name="Digest">Its SHA-256.</param>
internal readonly record struct ChunkPlace(int File, long Index, ReadOnlyMemory<byte> Digest);

/// <summary>From a snapshot's folder to the list of its content's digests, and what such a list may be where it comes from elsewhere.</summary>
internal static class SnapshotContents
{
    /// <summary>The longest list that is read: of a disk of the largest size and of as much memory as a machine can have.</summary>
    public const int MostBytes = 320 << 20;

    private const long MostStateBytes = 256 << 20;
    private const long MostDiskBytes = 1L << 40;

    private static ReadOnlySpan<byte> Zeros => new byte[SnapshotChunks.DigestBytes];

    /// <summary>Reads every file of a complete folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="directory">The id of the state directory that it is in; empty for a checkpoint.</param>
    /// <param name="vm">The VM of a checkpoint; empty for a snapshot.</param>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public static SnapshotContent Of(SnapshotFolder folder, string directory, string vm = "")
    {
        var content = new SnapshotContent { ChunkBytes = SnapshotChunks.Bytes, Directory = directory, Vm = vm };
        byte[] chunk = new byte[SnapshotChunks.Bytes];
        foreach (string name in folder.FileNames())
        {
            using SafeFileHandle file = OpenToRead(folder.PathOf(name));
            long size = RandomAccess.GetLength(file);
            if (size > MostDiskBytes)
                throw new IOException($"{name} has {size} bytes, and a file of a snapshot can have {MostDiskBytes}.");
            byte[] digests = new byte[SnapshotChunks.CountOf(size) * SnapshotChunks.DigestBytes];
            for (long index = 0; index < SnapshotChunks.CountOf(size); index++)
            {
                ReadOnlySpan<byte> bytes = Read(file, chunk, size, index);
                if (bytes.ContainsAnyExcept((byte)0))
                    SHA256.HashData(bytes, digests.AsSpan((int)index * SnapshotChunks.DigestBytes, SnapshotChunks.DigestBytes));
            }

            content.Files.Add(new SnapshotFile { Name = name, SizeBytes = size, Digests = UnsafeByteOperations.UnsafeWrap(digests) });
        }

        return content;
    }

    /// <summary>The digest of a serialised list.</summary>
    public static string DigestOf(ReadOnlySpan<byte> content) => Convert.ToHexStringLower(SHA256.HashData(content));

    /// <summary>Reads a list that may come from anywhere.</summary>
    /// <param name="content">Serialised.</param>
    /// <param name="snapshot">The snapshot that it must be of.</param>
    /// <exception cref="DamagedSnapshotException">It is not that list, or one that no snapshot has.</exception>
    public static SnapshotContent Parse(byte[] content, Snapshot snapshot)
    {
        if (DigestOf(content) != snapshot.ContentSha256)
            throw new DamagedSnapshotException("The list of its content is not the one that was recorded when it was taken.");
        SnapshotContent parsed;
        try
        {
            parsed = SnapshotContent.Parser.ParseFrom(content);
        }
        catch (InvalidProtocolBufferException exception)
        {
            throw new DamagedSnapshotException("The list of its content cannot be read.", exception);
        }

        if (parsed.ChunkBytes != SnapshotChunks.Bytes)
            throw new DamagedSnapshotException($"Its chunks have {parsed.ChunkBytes} bytes, and this server reads those of {SnapshotChunks.Bytes}.");
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach (SnapshotFile file in parsed.Files)
            if (file.SizeBytes < 0 || file.SizeBytes > MostBytesOf(file.Name, snapshot.Spec) || file.Digests.Length != SnapshotChunks.CountOf(file.SizeBytes) * SnapshotChunks.DigestBytes || !names.Add(file.Name))
                throw new DamagedSnapshotException("The list of its content names a file that no such snapshot has.");
        return parsed;
    }

    /// <summary>Every chunk that is not all zeros.</summary>
    public static IEnumerable<ChunkPlace> Places(SnapshotContent content)
    {
        for (int file = 0; file < content.Files.Count; file++)
        {
            ReadOnlyMemory<byte> digests = content.Files[file].Digests.Memory;
            for (int at = 0; at < digests.Length; at += SnapshotChunks.DigestBytes)
            {
                ReadOnlyMemory<byte> digest = digests.Slice(at, SnapshotChunks.DigestBytes);
                if (!digest.Span.SequenceEqual(Zeros))
                    yield return new ChunkPlace(file, at / SnapshotChunks.DigestBytes, digest);
            }
        }
    }

    /// <summary>Opens a file of a snapshot, which nobody writes any more.</summary>
    public static SafeFileHandle OpenToRead(string path) => File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);

    /// <summary>Reads a chunk.</summary>
    /// <param name="file">The file.</param>
    /// <param name="buffer">For a whole chunk.</param>
    /// <param name="size">The file's length.</param>
    /// <param name="index">Which.</param>
    /// <returns>The part of the buffer that has it.</returns>
    /// <exception cref="EndOfStreamException">The file is shorter.</exception>
    public static ReadOnlySpan<byte> Read(SafeFileHandle file, byte[] buffer, long size, long index)
    {
        Span<byte> bytes = buffer.AsSpan(0, SnapshotChunks.LengthOf(size, index));
        for (int done = 0; done < bytes.Length;)
        {
            int count = RandomAccess.Read(file, bytes[done..], index * SnapshotChunks.Bytes + done);
            done += count > 0 ? count : throw new EndOfStreamException("A file of the snapshot is shorter than it was.");
        }

        return bytes;
    }

    private static long MostBytesOf(string name, VmSpec spec) => name switch
    {
        SnapshotFormat.ManifestFile or SnapshotFormat.StateFile => MostStateBytes,
        SnapshotFormat.MemoryFile => spec.MemoryMib << 20,
        _ => SnapshotFolder.IsDisk(name, out int disk) && disk < spec.Disks.Count ? MostDiskBytes : -1,
    };
}
