using System.IO.MemoryMappedFiles;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <summary>
/// The RAM of one virtual machine as the processor sees it: a low range from address 0 and, when there is more than fits
/// below the hole for devices, a high range from 4 GiB. Untouched pages cost nothing; the host is asked for large pages, which
/// guests that use memory far apart are a third faster with.
/// </summary>
public sealed unsafe partial class PhysicalMemory : IDisposable
{
    /// <summary>RAM below 4 GiB ends here at the latest; what lies between is for devices.</summary>
    public const ulong LowLimit = 0xC000_0000;

    /// <summary>Where RAM that does not fit below <see cref="LowLimit"/> goes on.</summary>
    public const ulong HighBase = 0x1_0000_0000;

    /// <summary>The legacy video window: never RAM.</summary>
    public const ulong VideoBase = 0xA_0000;

    /// <summary>The end of the legacy video window.</summary>
    public const ulong VideoEnd = 0xC_0000;

    /// <summary>The size of a page in bytes.</summary>
    public const int PageSize = 4096;

    private const nuint LargePage = 2 << 20;

    private readonly MemoryMappedFile? _file;
    private readonly MemoryMappedViewAccessor? _view;
    private readonly void* _allocation;
    private readonly byte* _base;
    private bool _disposed;

    /// <summary>Reserves <paramref name="size"/> bytes of zeroed guest RAM.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The size is zero or not a multiple of the page size.</exception>
    /// <exception cref="OutOfMemoryException">The host has no room for it.</exception>
    public PhysicalMemory(ulong size)
    {
        _ = Checked(size);
        (Size, LowSize) = (size, Math.Min(size, LowLimit));
        _allocation = NativeMemory.AllocZeroed(checked((nuint)size + LargePage));
        _base = (byte*)((nuint)_allocation + LargePage - 1 & ~(LargePage - 1));
        Advise(_base, size, Advice.HugePage);
    }

    /// <summary>
    /// Guest RAM that begins as a file and is copied on write: the file stays as it is, and its pages are shared with everyone else who maps
    /// it. It must not be changed or shortened while this object lives; it may be removed.
    /// </summary>
    /// <param name="file">The file, open for reading; as long as <paramref name="size"/>. It may be closed afterwards.</param>
    /// <param name="size">Bytes, a positive multiple of the page size.</param>
    /// <exception cref="ArgumentOutOfRangeException">The size is no multiple of the page size.</exception>
    /// <exception cref="InvalidStateException">The file has another length.</exception>
    /// <exception cref="IOException">The host does not map it.</exception>
    public PhysicalMemory(FileStream file, ulong size)
    {
        (Size, LowSize) = (size, Math.Min(size, LowLimit));
        _file = MapFile(file, size);
        _view = _file.CreateViewAccessor(0, checked((long)size), MemoryMappedFileAccess.CopyOnWrite);
        byte* pointer = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref pointer);
        _base = pointer;
    }

    /// <summary>All RAM, in bytes.</summary>
    public ulong Size { get; }

    /// <summary>The bytes of RAM from address 0.</summary>
    public ulong LowSize { get; }

    /// <summary>The bytes of RAM from <see cref="HighBase"/>.</summary>
    public ulong HighSize => Size - LowSize;

    /// <summary>The number of page slots (see <see cref="PageIndex"/>).</summary>
    public int PageCount => checked((int)(Size / PageSize));

    /// <summary>
    /// The host address of the page that holds <paramref name="physical"/>, or null where there is no RAM. The pointer is good
    /// for the rest of that page and for the life of this object.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Page(ulong physical)
    {
        ulong page = physical & ~0xFFFUL;
        if (page < LowSize)
            return page - VideoBase < VideoEnd - VideoBase ? null : _base + page;
        ulong high = page - HighBase;
        return high < HighSize ? _base + LowSize + high : null;
    }

    /// <summary>A dense index for the page at <paramref name="physical"/>, or -1 where there is no RAM.</summary>
    public int PageIndex(ulong physical)
    {
        byte* page = Page(physical);
        return page == null ? -1 : (int)((ulong)(page - _base) / PageSize);
    }

    /// <summary>The dense index of a page from a pointer that <see cref="Page"/> gave.</summary>
    public int PageIndex(byte* page) => (int)((ulong)(page - _base) / PageSize);

    /// <summary>Whether the whole range is RAM.</summary>
    public bool IsRam(ulong physical, ulong length)
    {
        ulong at = physical;
        ulong left = length;
        while (left > 0)
        {
            if (Page(at) == null)
                return false;
            ulong step = Math.Min(left, PageSize - (at & 0xFFF));
            at += step;
            left -= step;
        }
        return true;
    }

    /// <summary>Copies RAM out. Returns false, having copied up to there, at the first byte that is not RAM.</summary>
    public bool TryRead(ulong physical, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            byte* page = Page(physical);
            if (page == null)
                return false;
            int offset = (int)(physical & 0xFFF);
            int step = Math.Min(destination.Length, PageSize - offset);
            new ReadOnlySpan<byte>(page + offset, step).CopyTo(destination);
            destination = destination[step..];
            physical += (ulong)step;
        }
        return true;
    }

    /// <summary>
    /// Copies into RAM, without telling anyone that code there may have changed: for loaders before the machine starts. A
    /// device or a client of a running machine writes through <c>ProcessorPackage.WriteMemory</c> instead.
    /// </summary>
    /// <returns>False, having copied up to there, at the first byte that is not RAM.</returns>
    public bool TryWrite(ulong physical, ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            byte* page = Page(physical);
            if (page == null)
                return false;
            int offset = (int)(physical & 0xFFF);
            int step = Math.Min(source.Length, PageSize - offset);
            source[..step].CopyTo(new Span<byte>(page + offset, step));
            NoteWritten(PageIndex(page));
            source = source[step..];
            physical += (ulong)step;
        }
        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        FreePrivatePages();
        _view?.SafeMemoryMappedViewHandle.ReleasePointer();
        _view?.Dispose();
        _file?.Dispose();
        NativeMemory.Free(_allocation);
    }
}
