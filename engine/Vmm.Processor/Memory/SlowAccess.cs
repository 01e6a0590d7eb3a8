using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Memory;

/// <summary>What the fast path of <see cref="Operand"/> leaves over: misses, page crossings, MMIO, pages with code, watchpoints, faults.</summary>
public static unsafe class SlowAccess
{
    /// <summary>Reads across whatever is there.</summary>
    public static bool Read<T>(CpuState* s, Insn* i, ulong linear, out T value) where T : unmanaged => Read(s, i, linear, forWrite: false, out value);

    /// <summary>Writes across whatever is there; nothing is written where any part faults.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static bool Write<T>(CpuState* s, Insn* i, ulong linear, T value) where T : unmanaged
    {
        s->Position = i->Count - 1;
        bool done = LogicalProcessor.Of(s).Mmu.Write(linear, (byte*)&value, sizeof(T));
        s->Position = 0;
        if (s->Attention != 0)
            LogicalProcessor.Of(s).Package.Code.InterruptAfter(i);
        if (done)
            return true;
        Settle(s, i);
        return false;
    }

    /// <summary>Reads what will be written: faults as a write does.</summary>
    public static bool BeginModify<T>(CpuState* s, Insn* i, ulong linear, out T value) where T : unmanaged => Read(s, i, linear, forWrite: true, out value);

    /// <summary>Stores where <see cref="BeginModify"/> has read.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void EndModify<T>(CpuState* s, Insn* i, ulong linear, T value) where T : unmanaged
    {
        s->Position = i->Count - 1;
        LogicalProcessor.Of(s).Mmu.Write(linear, (byte*)&value, sizeof(T));
        s->Position = 0;
        if (s->Attention != 0)
            LogicalProcessor.Of(s).Package.Code.InterruptAfter(i);
    }

    /// <summary>Settles a fault that the <see cref="Mmu"/> has recorded for the instruction's memory operand.</summary>
    public static void Settle(CpuState* s, Insn* i)
    {
        // A non-canonical address is #GP(0), but #SS(0) where the access goes through the stack segment (SDM volume 1, section 3.3.7.1).
        if (s->FaultVector == Vector.Gp && i->Segment == Seg.Ss)
            s->FaultVector = Vector.Ss;
        Fault.At(s, i);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool Read<T>(CpuState* s, Insn* i, ulong linear, bool forWrite, out T value) where T : unmanaged
    {
        Unsafe.SkipInit(out value);
        Mmu mmu = LogicalProcessor.Of(s).Mmu;
        var bytes = (byte*)Unsafe.AsPointer(ref value);
        s->Position = i->Count - 1;
        bool done = forWrite ? mmu.ReadForWrite(linear, bytes, sizeof(T)) : mmu.Read(linear, bytes, sizeof(T));
        s->Position = 0;
        if (done)
            return true;
        value = default;
        Settle(s, i);
        return false;
    }

    /// <summary>The segment check in full: expand-down segments, null selectors, wrapping accesses (SDM volume 3, sections 5.3 and 5.4).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static bool CheckSegment(CpuState* s, Insn* i, int segment, ulong offset, uint size, bool write)
    {
        if (SegmentCheck.Allows(CpuState.Segment(s, segment), offset, size, write, typed: (s->Cr0 & Cr0.Pe) != 0))
            return true;
        Fault.Raise(s, i, segment == Seg.Ss ? Vector.Ss : Vector.Gp, 0);
        return false;
    }
}

/// <summary>Limit and type checks of data segments outside 64-bit mode.</summary>
public static unsafe class SegmentCheck
{
    /// <summary>Whether <paramref name="size"/> bytes at <paramref name="offset"/> may be accessed through the segment.</summary>
    /// <param name="segment">The register.</param>
    /// <param name="offset">The first byte.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="write">Whether they are written.</param>
    /// <param name="typed">Whether the segment's type counts: not in real-address mode, where code segments are written to (SDM volume 3, sections 5.1 and 21.1).</param>
    public static bool Allows(SegmentState* segment, ulong offset, uint size, bool write, bool typed = true)
    {
        uint rights = segment->Rights;
        if ((rights & SegmentRights.Unusable) != 0 || (rights & SegmentRights.Present) == 0)
            return false;
        bool code = (rights & SegmentRights.Code) != 0;
        if (typed && (write ? code || (rights & SegmentRights.Writable) == 0 : code && (rights & SegmentRights.Readable) == 0))
            return false;
        ulong last = offset + size - 1;
        if (code || (rights & SegmentRights.ExpandDown) == 0)
            return last <= segment->Limit;
        ulong top = (rights & SegmentRights.Big) != 0 ? 0xFFFF_FFFF : 0xFFFF;
        return offset > segment->Limit && last <= top;
    }
}
