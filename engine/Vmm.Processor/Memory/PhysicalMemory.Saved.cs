using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Vmm.Processor.SavedState;

namespace Vmm.Processor.Memory;

/// <content>RAM as a file: the low range, then the high one, as they are mapped. Pages of zeros are holes.</content>
public sealed unsafe partial class PhysicalMemory
{
    /// <summary>Pages are written together up to so many bytes.</summary>
    private const int MostAtOnce = 1 << 20;

    /// <summary>Writes all RAM to an empty file. While no processor executes.</summary>
    /// <returns>The bytes in pages that are not zero: what the file takes on the disk, where the file system has holes.</returns>
    /// <exception cref="IOException">The file cannot be written.</exception>
    public ulong Save(SafeFileHandle file)
    {
        RandomAccess.SetLength(file, checked((long)Size));
        ulong stored = 0;
        ulong at = 0;
        while (at < Size)
        {
            int length = Run(at, Size, zero: false);
            if (length > 0)
            {
                RandomAccess.Write(file, new ReadOnlySpan<byte>(_base + at, length), (long)at);
                stored += (ulong)length;
                at += (ulong)length;
            }
            length = Run(at, Size, zero: true);
            if (length > 0)
                GiveBack(_base + at, length);
            at += (ulong)length;
        }
        return stored;
    }

    // Bytes from here on in pages that are all zero, or all not.
    private int Run(ulong at, ulong end, bool zero)
    {
        int length = 0;
        while (at + (ulong)length < end && length < MostAtOnce
            && new ReadOnlySpan<byte>(_base + at + length, PageSize).ContainsAnyExcept((byte)0) != zero)
            length += PageSize;
        return length;
    }

    /// <summary>
    /// Having looked at a page of zeros that nobody has touched makes the host count one for it, and a page that the guest has cleared is one. They go
    /// back. Where the host does not know how, nothing is lost.
    /// </summary>
    private void GiveBack(byte* pages, int length)
    {
        if (_allocation != null)
            Advise(pages, (ulong)length, Advice.DoNotNeed);
    }

    /// <summary>Tells the host something about memory that it may act on.</summary>
    private static void Advise(byte* pages, ulong length, Advice advice)
    {
        if (OperatingSystem.IsLinux())
            _ = MemoryAdvice(pages, checked((nuint)length), advice);
    }

    // madvise(2).
    private enum Advice
    {
        DoNotNeed = 4,
        HugePage = 14,
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MemoryAdvice(void* address, nuint length, Advice advice);

    private static MemoryMappedFile MapFile(FileStream file, ulong size)
    {
        long length = Checked(size);
        InvalidStateException.ThrowUnless(file.Length == length, "Memory", $"the file has {file.Length} bytes, and {length} are needed.");
        return MemoryMappedFile.CreateFromFile(file, null, length, MemoryMappedFileAccess.CopyOnWrite, HandleInheritability.None, leaveOpen: true);
    }

    private static long Checked(ulong size) => size != 0 && size % PageSize == 0 ? checked((long)size)
        : throw new ArgumentOutOfRangeException(nameof(size), size, "Guest memory must be a positive multiple of 4096 bytes.");
}
