using System.Runtime.CompilerServices;

namespace Vmm.Processor.Memory;

/// <content>
/// The log of the pages that are written. Whoever writes RAM says so afterwards; the processors' fast path, which does not, gets the
/// permission to write a page only once that is in the log. On the thread that runs the machine.
/// </content>
public sealed unsafe partial class PhysicalMemory
{
    private const int WordBits = 64;

    private ulong[]? _dirtyPages;

    /// <summary>Whether writes are logged.</summary>
    public bool IsDirtyLogOn => _dirtyPages != null;

    /// <summary>The guest-physical address of a page.</summary>
    /// <param name="index">Its dense index: see <see cref="PageIndex(ulong)"/>.</param>
    public ulong PageAddress(int index)
    {
        ulong offset = (ulong)index * PageSize;
        return offset < LowSize ? offset : offset - LowSize + HighBase;
    }

    /// <summary>Begins with an empty log.</summary>
    internal void StartDirtyLog() => _dirtyPages = new ulong[(PageCount + WordBits - 1) / WordBits];

    internal void StopDirtyLog() => _dirtyPages = null;

    /// <summary>The log so far, which is empty afterwards: bit n % 64 of word n / 64 is the page with the dense index n.</summary>
    internal ulong[] TakeDirtyPages()
    {
        ulong[] taken = _dirtyPages ?? throw new InvalidOperationException("Writes to memory are not logged.");
        StartDirtyLog();
        return taken;
    }

    /// <summary>Notes that something in a page was written.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void NoteWritten(int page)
    {
        if (_dirtyPages is { } log)
            log[page / WordBits] |= 1UL << (page % WordBits);
    }

    /// <summary>Whether the next write of a page must come to <see cref="NoteWritten"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool AwaitsWrite(int page) => _dirtyPages is { } log && (log[page / WordBits] >> (page % WordBits) & 1) == 0;
}
