using Microsoft.Win32.SafeHandles;

namespace Vmm.Worker.Storage;

/// <summary>Copies of disks that take as little of the host's disk as they can.</summary>
internal static class DiskCopy
{
    private const int ChunkBytes = 256 << 10;

    /// <summary>Copies a disk and flushes the copy: sharing blocks where the file system can, else leaving holes where there are zeros.</summary>
    /// <exception cref="IOException">The host's disk is full, most likely.</exception>
    public static void Make(string source, string target)
    {
        using SafeFileHandle from = PosixFile.OpenRegardlessOfLocks(source);
        using SafeFileHandle to = File.OpenHandle(target, FileMode.CreateNew, FileAccess.Write, FileShare.None);
        if (!PosixFile.TryClone(from, to))
            CopyData(from, to);
        RandomAccess.FlushToDisk(to);
    }

    private static void CopyData(SafeFileHandle from, SafeFileHandle to)
    {
        byte[] chunk = new byte[ChunkBytes];
        long offset = 0;
        while (RandomAccess.Read(from, chunk, offset) is > 0 and int count)
        {
            if (chunk.AsSpan(0, count).ContainsAnyExcept((byte)0))
                RandomAccess.Write(to, chunk.AsSpan(0, count), offset);
            offset += count;
        }

        RandomAccess.SetLength(to, offset);
    }
}
