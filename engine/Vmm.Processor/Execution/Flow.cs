using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Execution;

/// <summary>How traces end: every way from one instruction to another that is not the next one of its trace.</summary>
public static unsafe class Flow
{
    /// <summary>Completes a branch to <paramref name="rip"/> (wrapped and checked by the caller).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* To(CpuState* s, Insn* i, ulong rip)
    {
        s->Rip = rip;
        s->Budget -= i->Count;
        JumpCacheEntry* entry = s->JumpCache + JumpCache.Slot(rip);
        if (entry->Rip == rip && entry->Key == s->JumpKey && s->Budget >= entry->Length && s->Attention == 0)
        {
            s->TraceRip = rip;
            return entry->First;
        }
        s->Stop = StopReason.Dispatch;
        return null;
    }

    /// <summary>
    /// Completes a direct branch. One within its own page is linked to its target once: the mapping, mode and rights that let this
    /// trace run are those that the target needs, and a target that has become stale leaves by itself.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* ToDirect(CpuState* s, Insn* i, ulong rip)
    {
        Insn* target = i->Link;
        if (target == null)
            return ToUnlinked(s, i, rip);
        s->Budget -= i->Count;
        s->TraceRip = rip;
        if (s->Budget >= Trace.Of(target)->Length && s->Attention == 0)
            return target;
        s->Rip = rip;
        s->Stop = StopReason.Dispatch;
        return null;
    }

    private static Insn* ToUnlinked(CpuState* s, Insn* i, ulong rip)
    {
        bool samePage = ((s->Cs.Base + Insn.Rip(s, i)) ^ (s->Cs.Base + rip)) >> 12 == 0;
        Insn* target = To(s, i, rip);
        if (samePage && target != null)
            i->Link = target;
        return target;
    }

    /// <summary>Completes an instruction after which the processor must look around: interrupts, modes or mappings may have changed.</summary>
    public static Insn* Leave(CpuState* s, Insn* i)
    {
        s->Rip = Wrap(s, Insn.NextRip(s, i));
        return LeaveAt(s, i);
    }

    /// <summary>The same where the handler has set <see cref="CpuState.Rip"/> itself.</summary>
    public static Insn* LeaveAt(CpuState* s, Insn* i)
    {
        s->Budget -= i->Count;
        s->Stop = StopReason.Dispatch;
        return null;
    }

    /// <summary>Stops before this instruction has completed, to come back to it: a repeated string instruction between iterations. Costs one instruction of the budget.</summary>
    public static Insn* Again(CpuState* s, Insn* i)
    {
        s->Rip = Insn.Rip(s, i);
        s->Budget -= i->Count;
        s->Stop = StopReason.Dispatch;
        return null;
    }

    /// <summary>Wraps an instruction pointer to the code size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Wrap(CpuState* s, ulong rip) => s->CodeSize == 64 ? rip : s->CodeSize == 32 ? (uint)rip : (ushort)rip;

    /// <summary>
    /// Whether RIP may become <paramref name="rip"/>: canonical in 64-bit mode, within the limit of CS elsewhere. Records #GP(0) if not.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool CheckTarget<M>(CpuState* s, ulong rip) where M : struct, IAddressing
    {
        if (M.IsLong ? Canonical.Is(s, rip) : rip <= s->Cs.Limit)
            return true;
        return Fault.Record(s, Vector.Gp, 0);
    }
}

/// <summary>Canonical linear addresses: 48 bits, or 57 with 5-level paging (SDM volume 1, section 3.3.7.1).</summary>
public static unsafe class Canonical
{
    /// <summary>Whether the address is canonical for the current paging mode.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Is(CpuState* s, ulong linear) =>
        IsWithin(linear, 48) || ((s->Cr4 & Cr4.La57) != 0 && IsWithin(linear, 57));

    /// <summary>
    /// Whether the address is canonical for the widest linear addresses that the processor has, whether they are enabled or not:
    /// the rule for the bases of segments and descriptor tables and for address-bearing MSRs.
    /// </summary>
    public static bool IsForBase(CpuState* s, ulong linear) =>
        IsWithin(linear, Width(LogicalProcessor.Of(s).Environment.Features.Cr4Allowed));

    /// <summary>The width of linear addresses in bits under these flags of CR4, or where these can be set.</summary>
    public static int Width(ulong cr4) => (cr4 & Cr4.La57) != 0 ? 57 : 48;

    /// <summary>Whether bits 63 to <paramref name="width"/> - 1 are all the same.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsWithin(ulong linear, int width) => (long)(linear << 64 - width) >> 64 - width == (long)linear;
}

/// <summary>The cache from RIP to trace.</summary>
public static class JumpCache
{
    /// <summary>Entries.</summary>
    public const int Entries = 4096;

    /// <summary>The entry for a RIP.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Slot(ulong rip) => (uint)(rip ^ (rip >> 12)) & (Entries - 1);
}
