using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;
using Vmm.Processor.Translation;

namespace Vmm.Processor.Execution;

/// <summary>
/// The decoded code of one virtual machine, keyed by physical address and mode, with a record of which 64-byte blocks of RAM
/// hold decoded code so that a write there makes it stale.
/// </summary>
public sealed unsafe class TraceCache : IDisposable
{
    private const int Buckets = 1 << 16;
    private const int ArenaBlock = 1 << 20;

    /// <summary>Native memory for traces at most; beyond, everything is dropped and decoded anew.</summary>
    private const long ArenaLimit = 192L << 20;

    private readonly PhysicalMemory _memory;
    private readonly ProcessorPackage _package;
    private readonly TraceBuilder _builder;
    private readonly List<nint> _arena = [];
    private readonly Trace** _buckets;
    private readonly Trace** _pages;
    private readonly Trace** _secondPages;
    private readonly ulong* _blocks;
    private byte* _free;
    private byte* _freeEnd;
    // Taken once: two pointers to the same function need not be equal.
    private static readonly nint InterruptedHandler = (nint)(Handler)(&Interrupted);

    private Insn* _interrupted;
    private Handler _interruptedHandler;
    private bool _disposed;

    internal TraceCache(PhysicalMemory memory, ProcessorPackage package)
    {
        _memory = memory;
        _package = package;
        _builder = new TraceBuilder(package.Environment.Features);
        if (package.Environment.Translation is { } translation)
            Translator = new Translator(this, translation);
        nuint pages = (nuint)memory.PageCount;
        _buckets = (Trace**)NativeMemory.AllocZeroed(Buckets, (nuint)sizeof(Trace*));
        _pages = (Trace**)NativeMemory.AllocZeroed(pages, (nuint)sizeof(Trace*));
        _secondPages = (Trace**)NativeMemory.AllocZeroed(pages, (nuint)sizeof(Trace*));
        _blocks = (ulong*)NativeMemory.AllocZeroed(pages, sizeof(ulong));
    }

    /// <summary>Raised by every wholesale or partial invalidation: how often code became stale.</summary>
    public ulong Invalidations { get; private set; }

    /// <summary>Traces decoded so far.</summary>
    public ulong Decoded { get; private set; }

    /// <summary>What compiles hot traces; null where only the interpreter runs.</summary>
    internal Translator? Translator { get; }

    /// <summary>Changes whenever the memory of all traces is given back.</summary>
    internal int Generation { get; private set; }

    /// <summary>
    /// Whether a page may be written without a word to anyone: no code was decoded from it, and no log waits for a write. The pointer is one
    /// that <see cref="PhysicalMemory.Page"/> gave.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool AllowsFastWrites(byte* page)
    {
        int index = _memory.PageIndex(page);
        return _blocks[index] == 0 && !_memory.AwaitsWrite(index);
    }

    /// <summary>Tells that bytes in one page were written.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Written(byte* host, int size)
    {
        int page = _memory.PageIndex(host);
        _memory.NoteWritten(page);
        if (_blocks[page] != 0)
            WrittenInPage(page, (int)((ulong)host & 0xFFF), size);
    }

    /// <summary>Tells that a physical range was written.</summary>
    public void Written(ulong physical, ulong size)
    {
        while (size > 0)
        {
            ulong step = Math.Min(size, 4096 - (physical & 0xFFF));
            int page = _memory.PageIndex(physical);
            if (page >= 0)
            {
                _memory.NoteWritten(page);
                if (_blocks[page] != 0)
                    WrittenInPage(page, (int)(physical & 0xFFF), (int)step);
            }
            physical += step;
            size -= step;
        }
    }

    /// <summary>Makes all decoded code stale. While no processor executes.</summary>
    public void Forget()
    {
        for (int page = 0; page < _memory.PageCount; page++)
        {
            if (_blocks[page] != 0)
                WrittenInPage(page, 0, PhysicalMemory.PageSize);
        }
    }

    /// <summary>The trace at a physical address, decoded if need be. Null where the code is not in RAM or crosses out of its page: see <see cref="FindCrossing"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal Trace* Find(ulong physical, TraceMode mode)
    {
        Trace* known = FindDecoded(physical, mode);
        return known != null ? known : Decode(physical, mode);
    }

    private Trace* Decode(ulong physical, TraceMode mode)
    {
        uint bucket = Bucket(physical, mode);
        byte* page = _memory.Page(physical);
        if (page == null)
            return null;
        int offset = (int)(physical & 0xFFF);
        Trace* room = Reserve();
        int count = _builder.Decode(page + offset, 4096 - offset, mode, TraceBuilder.LongestTrace, Trace.First(room), out int length);
        if (count == 0)
            return null;
        Decoded++;
        Commit(room, physical, mode, count, length);
        MarkCode(physical, length);
        Link(ref _pages[_memory.PageIndex(physical)], room, &room->NextInPage);
        Link(ref _buckets[bucket], room, &room->NextInBucket);
        return room;
    }

    /// <summary>The trace within one page at a physical address that has been decoded already, or null.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal Trace* FindDecoded(ulong physical, TraceMode mode)
    {
        for (Trace* trace = _buckets[Bucket(physical, mode)]; trace != null; trace = trace->NextInBucket)
        {
            if (trace->Physical == physical && trace->Mode == mode && trace->SecondPage == 0)
                return trace;
        }
        return null;
    }

    /// <summary>The bytes that a trace within one page was decoded from, as they are now.</summary>
    internal ReadOnlySpan<byte> BytesOf(Trace* trace) => new(_memory.Page(trace->Physical) + (trace->Physical & 0xFFF), trace->Bytes);

    /// <summary>The trace of the single instruction at a physical address that ends in another page.</summary>
    internal Trace* FindCrossing(ulong physical, ulong secondPage, TraceMode mode)
    {
        uint bucket = Bucket(physical, mode);
        for (Trace* trace = _buckets[bucket]; trace != null; trace = trace->NextInBucket)
        {
            if (trace->Physical == physical && trace->Mode == mode && trace->SecondPage == secondPage)
                return trace;
        }
        byte* first = _memory.Page(physical);
        byte* second = _memory.Page(secondPage);
        if (first == null || second == null)
            return null;
        int offset = (int)(physical & 0xFFF);
        byte* bytes = stackalloc byte[32];
        int inFirst = 4096 - offset;
        Unsafe.CopyBlockUnaligned(bytes, first + offset, (uint)inFirst);
        Unsafe.CopyBlockUnaligned(bytes + inFirst, second, 15);
        Trace* room = Reserve();
        int count = _builder.Decode(bytes, inFirst + 15, mode, 1, Trace.First(room), out int length);
        if (count == 0)
            return null;
        Decoded++;
        Commit(room, physical, mode, count, length);
        room->SecondPage = secondPage;
        MarkCode(physical, inFirst);
        MarkCode(secondPage, Math.Max(1, length - inFirst));
        Link(ref _pages[_memory.PageIndex(physical)], room, &room->NextInPage);
        Link(ref _secondPages[_memory.PageIndex(secondPage)], room, &room->NextInSecondPage);
        Link(ref _buckets[bucket], room, &room->NextInBucket);
        return room;
    }

    /// <summary>The first instruction of a trace by itself, good for one execution.</summary>
    internal Trace* FindSingle(Trace* trace)
    {
        if (trace->Length == 1)
            return trace;
        byte* page = _memory.Page(trace->Physical);
        return DecodeOnce(page + (trace->Physical & 0xFFF), trace->Bytes, 0, trace->Mode);
    }

    /// <summary>Decodes a single instruction that is fetched from a device: it is good for one execution.</summary>
    internal Trace* DecodeOnce(byte* bytes, int available, ulong physical, TraceMode mode)
    {
        Trace* room = Reserve();
        int count = _builder.Decode(bytes, available, mode, 1, Trace.First(room), out int length);
        if (count == 0)
            return null;
        Describe(room, physical, mode, count, length);
        return room;
    }

    /// <summary>Makes every processor come back to its dispatcher soon, without leaving the guest. From any thread, until disposal.</summary>
    internal void RequestBoundary() => _package.RequestBoundary();

    /// <summary>
    /// Makes the running trace end after an instruction whose handler is about to return the next one: a device that it wrote to
    /// wants the dispatcher's attention before another instruction executes.
    /// </summary>
    internal void InterruptAfter(Insn* i)
    {
        ForgetInterruption();
        _interrupted = i + 1;
        _interruptedHandler = _interrupted->Handler;
        _interrupted->Handler = (Handler)InterruptedHandler;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Translator?.Dispose();
        foreach (nint block in _arena)
            NativeMemory.AlignedFree((void*)block);
        NativeMemory.Free(_buckets);
        NativeMemory.Free(_pages);
        NativeMemory.Free(_secondPages);
        NativeMemory.Free(_blocks);
    }

    private static uint Bucket(ulong physical, TraceMode mode) =>
        (uint)((physical * 0x9E37_79B9_7F4A_7C15 >> 40) ^ (ulong)mode * 0x9E5) & (Buckets - 1);

    private static void Link(ref Trace* head, Trace* trace, Trace** next)
    {
        *next = head;
        head = trace;
    }

    /// <summary>Room for the longest trace at the end of the arena; taken only as far as <see cref="Commit"/> says.</summary>
    private Trace* Reserve()
    {
        int most = sizeof(Trace) + (TraceBuilder.LongestTrace + 1) * sizeof(Insn);
        if (_freeEnd - _free < most)
        {
            if (_arena.Count * (long)ArenaBlock >= ArenaLimit)
                DropAll();
            _free = (byte*)NativeMemory.AlignedAlloc(ArenaBlock, 64);
            _freeEnd = _free + ArenaBlock;
            _arena.Add((nint)_free);
        }
        var trace = (Trace*)_free;
        *trace = default;
        return trace;
    }

    private void Commit(Trace* trace, ulong physical, TraceMode mode, int count, int length)
    {
        Describe(trace, physical, mode, count, length);
        _free += sizeof(Trace) + (count + 1) * sizeof(Insn);
        Translator?.Watch(trace);
    }

    private static void Describe(Trace* trace, ulong physical, TraceMode mode, int count, int length)
    {
        trace->Physical = physical;
        trace->Mode = mode;
        trace->Length = (ushort)count;
        trace->Bytes = (ushort)length;
        trace->FirstHandler = Trace.First(trace)->Handler;
    }

    private void MarkCode(ulong physical, int length)
    {
        int page = _memory.PageIndex(physical);
        if (_blocks[page] == 0)
        {
            foreach (LogicalProcessor processor in _package.Processors)
                processor.Mmu.ForbidFastWrites(physical & ~0xFFFUL);
        }
        int first = (int)(physical & 0xFFF);
        _blocks[page] |= BlockMask(first, length);
    }

    private static ulong BlockMask(int offset, int size)
    {
        int first = offset >> 6;
        int last = Math.Min(63, offset + size - 1 >> 6);
        return (ulong.MaxValue << first) & (ulong.MaxValue >> (63 - last));
    }

    private void WrittenInPage(int page, int offset, int size)
    {
        if ((_blocks[page] & BlockMask(offset, size)) == 0)
            return;
        Invalidations++;
        for (Trace* trace = _pages[page]; trace != null; trace = trace->NextInPage)
            Retire(trace);
        for (Trace* trace = _secondPages[page]; trace != null; trace = trace->NextInSecondPage)
            Retire(trace);
        _pages[page] = null;
        _secondPages[page] = null;
        _blocks[page] = 0;
    }

    // A crossing trace stays in the list of its other page, marked stale, until that page is written in turn. A stale trace
    // may be running, be linked to or stand in a jump cache: all of them find handlers that leave at once.
    private void Retire(Trace* trace)
    {
        if (trace->Stale)
            return;
        trace->Stale = true;
        Translator?.Retire(trace);
        Insn* first = Trace.First(trace);
        for (int k = 0; k <= trace->Length; k++)
            first[k].Handler = &Stale;
        Unlink(ref _buckets[Bucket(trace->Physical, trace->Mode)], trace);
    }

    private static void Unlink(ref Trace* head, Trace* trace)
    {
        if (head == trace)
        {
            head = trace->NextInBucket;
            return;
        }
        for (Trace* each = head; each != null; each = each->NextInBucket)
        {
            if (each->NextInBucket == trace)
            {
                each->NextInBucket = trace->NextInBucket;
                return;
            }
        }
    }

    /// <summary>Leaves before an instruction.</summary>
    private static Insn* Stale(CpuState* s, Insn* i)
    {
        s->Rip = Flow.Wrap(s, Insn.Rip(s, i));
        // The pseudo instruction at the end counts the instructions before it; any other counts itself too.
        s->Budget -= TraceBuilder.IsEnd(i) ? i->Count : i->Count - 1;
        s->Stop = StopReason.Dispatch;
        return null;
    }

    /// <summary>
    /// Gives the instruction behind the last <see cref="InterruptAfter"/> its handler back. Where it was not reached, or has become
    /// stale or given way to another, it is left as it is.
    /// </summary>
    internal void ForgetInterruption()
    {
        if (_interrupted != null && (nint)_interrupted->Handler == InterruptedHandler)
            _interrupted->Handler = _interruptedHandler;
        _interrupted = null;
    }

    private static Insn* Interrupted(CpuState* s, Insn* i)
    {
        LogicalProcessor.Of(s).Package.Code.ForgetInterruption();
        return Stale(s, i);
    }

    private void DropAll()
    {
        _interrupted = null;
        Invalidations++;
        Generation++;
        Translator?.Forget();
        foreach (nint block in _arena)
            NativeMemory.AlignedFree((void*)block);
        _arena.Clear();
        new Span<byte>(_buckets, Buckets * sizeof(Trace*)).Clear();
        for (int page = 0; page < _memory.PageCount; page++)
        {
            if (_blocks[page] == 0)
                continue;
            _blocks[page] = 0;
            _pages[page] = null;
            _secondPages[page] = null;
        }
        foreach (LogicalProcessor processor in _package.Processors)
            processor.ClearJumpCache();
    }
}
