using System.Security.Cryptography;
using ZstdSharp;

namespace Vmm.Worker.Snapshots;

/// <summary>What was kept or sent is not what a digest stands for; the message is for the user.</summary>
internal sealed class DamagedSnapshotException(string message, Exception? cause = null) : Exception(message, cause);

/// <summary>The pieces in which snapshots are kept and sent: of one size, named by their SHA-256, compressed with Zstandard.</summary>
internal static class SnapshotChunks
{
    /// <summary>The size of a chunk. Larger ones compress better and are fewer, smaller ones are shared by more snapshots.</summary>
    public const int Bytes = 128 << 10;

    /// <summary>The length of a digest.</summary>
    public const int DigestBytes = SHA256.HashSizeInBytes;

    /// <summary>Zstandard's fastest of those that its authors recommend: memory is written once and seldom read.</summary>
    private const int Level = 1;

    /// <summary>What a chunk can have at most when it is compressed: what Zstandard makes of noise.</summary>
    public static int MostCompressed { get; } = Compressor.GetCompressBound(Bytes);

    /// <summary>How many chunks a file has.</summary>
    public static long CountOf(long fileBytes) => (fileBytes + Bytes - 1) / Bytes;

    /// <summary>The length of one of a file's chunks.</summary>
    public static int LengthOf(long fileBytes, long index) => (int)Math.Min(Bytes, fileBytes - index * Bytes);

    /// <summary>Compresses a chunk.</summary>
    public static byte[] Compress(ReadOnlySpan<byte> chunk)
    {
        using var compressor = new Compressor(Level);
        return compressor.Wrap(chunk).ToArray();
    }

    /// <summary>Expands a chunk and compares it with its digest.</summary>
    /// <param name="compressed">From anywhere.</param>
    /// <param name="chunk">As long as the chunk must be.</param>
    /// <param name="digest">What it must have.</param>
    /// <exception cref="DamagedSnapshotException">It is another, or none.</exception>
    public static void Expand(ReadOnlySpan<byte> compressed, Span<byte> chunk, ReadOnlySpan<byte> digest)
    {
        int length;
        try
        {
            using var decompressor = new Decompressor();
            length = decompressor.Unwrap(compressed, chunk);
        }
        catch (ZstdException exception)
        {
            throw new DamagedSnapshotException($"Chunk {Convert.ToHexStringLower(digest)} cannot be expanded: {exception.Message}", exception);
        }

        Span<byte> found = stackalloc byte[DigestBytes];
        SHA256.HashData(chunk, found);
        if (length != chunk.Length || !found.SequenceEqual(digest))
            throw new DamagedSnapshotException($"Chunk {Convert.ToHexStringLower(digest)} is not what its digest stands for.");
    }
}
