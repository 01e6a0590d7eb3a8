using Vmm.Processor.Memory;
using Vmm.Processor.State;

namespace Vmm.Processor.Execution;

public sealed unsafe partial class LogicalProcessor
{
    private const int ExecutedPages = 4096;

    // Which linear pages (hashed) the jump cache may hold traces of, so that INVLPG of data costs it nothing.
    private readonly bool[] _executedPages = new bool[ExecutedPages];
    private TraceMode _traceMode;
    private ulong _codeBase;
    private uint _codeLimit;
    private ulong _generation = 1;
    private bool _breakpointsArmed;

    /// <summary>How many events were delivered: tells a single step from an INT.</summary>
    public ulong EventsDelivered { get; set; }

    /// <summary>Whether some data breakpoint is armed.</summary>
    internal bool HasWatchpoints { get; private set; }

    /// <summary>
    /// After a change of a register that the translation or dispatch depends on (CR0, CR3, CR4, EFER, CPL, CS, RFLAGS.AC or VM,
    /// segment D/L bits): recomputes the mode, the address-space tag, the translation-cache set and the jump key.
    /// </summary>
    public void ModeChanged()
    {
        CpuState* s = State;
        if (_codeBase != s->Cs.Base || (s->CodeSize != 64 && _codeLimit != s->Cs.Limit))
        {
            _codeBase = s->Cs.Base;
            _codeLimit = s->Cs.Limit;
            if (s->CodeSize != 64 || _codeBase != 0)
                CodeMappingChanged();
        }
        TraceMode mode = s->CodeSize == 64 ? TraceMode.Code64 : s->CodeSize == 32 ? TraceMode.Code32 : TraceMode.Code16;
        bool emulated = (s->Cr0 & Cr0.Em) != 0;
        bool switched = (s->Cr0 & Cr0.Ts) != 0;
        if (emulated || switched)
            mode |= TraceMode.FpuUnavailable;
        if (switched && (s->Cr0 & Cr0.Mp) != 0)
            mode |= TraceMode.WaitUnavailable;
        if (emulated || (s->Cr4 & Cr4.Osfxsr) == 0)
            mode |= TraceMode.SseUndefined;
        if (switched)
            mode |= TraceMode.TaskSwitched;
        if (emulated)
            mode |= TraceMode.Emulated;
        if ((s->Cr4 & Cr4.Osxsave) == 0)
            mode |= TraceMode.NoXsave;
        _traceMode = mode;
        AddressSpaceChanged();
    }

    /// <summary>After the current address space was given another tag: chooses tag and translation-cache set, and the jump key.</summary>
    internal void AddressSpaceChanged()
    {
        Mmu.SelectAddressSpace();
        UpdateJumpKey();
    }

    /// <summary>After a write of DR7 or DR0 to DR3: arms what they ask for.</summary>
    public void DebugRegistersChanged()
    {
        CpuState* s = State;
        bool armed = false;
        bool watch = false;
        for (int k = 0; k < 4; k++)
        {
            if ((s->Dr7 >> (k * 2) & 3) == 0)
                continue;
            armed = true;
            watch |= (s->Dr7 >> (16 + k * 4) & 3) != 0;
        }
        bool changed = watch || HasWatchpoints;
        _breakpointsArmed = armed;
        HasWatchpoints = watch;
        if (changed)
            Mmu.FlushEverything();
        UpdateJumpKey();
    }

    /// <summary>The mapping of some code, or the base of CS, has changed: the jump cache is no longer good.</summary>
    internal void CodeMappingChanged()
    {
        Array.Clear(_executedPages);
        _generation++;
        if ((_generation & 0x3F_FFFF_FFFF) == 0)
            ClearJumpCache();
        UpdateJumpKey();
    }

    /// <summary>The mapping of one page has changed.</summary>
    internal void CodeMappingChanged(ulong linear)
    {
        if (_executedPages[(int)(linear >> 12 & (ExecutedPages - 1))])
            CodeMappingChanged();
    }

    /// <summary>Empties the jump cache.</summary>
    internal void ClearJumpCache() => new Span<JumpCacheEntry>(State->JumpCache, JumpCache.Entries).Clear();

    /// <summary>Whether a linear address lies in a page with an armed data breakpoint, which must not be cached.</summary>
    internal bool IsWatched(ulong linear)
    {
        if (!HasWatchpoints)
            return false;
        for (int k = 0; k < 4; k++)
        {
            if (IsArmedForData(k) && (State->Dr[k] ^ linear) >> 12 == 0)
                return true;
        }
        return false;
    }

    /// <summary>Notes the data breakpoints that an access hits; the trap follows the instruction (SDM volume 3, section 17.2.5).</summary>
    internal void MatchWatchpoints(ulong linear, int size, bool write)
    {
        for (int k = 0; k < 4; k++)
        {
            if (!IsArmedForData(k))
                continue;
            uint kind = (uint)(State->Dr7 >> (16 + k * 4)) & 3;
            if (kind == 2 || (kind == 1 && !write))
                continue;
            ulong length = (State->Dr7 >> (18 + k * 4) & 3) switch { 0 => 1UL, 1 => 2, 2 => 8, _ => 4 };
            ulong first = State->Dr[k] & ~(length - 1);
            if (linear < first + length && first < linear + (ulong)size)
                State->PendingDebug |= 1UL << k | DebugStatus.EnabledBreakpoint;
        }
    }

    private bool IsArmedForData(int k) => (State->Dr7 >> (k * 2) & 3) != 0 && (State->Dr7 >> (16 + k * 4) & 3) != 0;

    private bool MatchesBreakpoint(CpuState* s, out ulong hit)
    {
        hit = 0;
        ulong linear = s->CodeSize == 64 ? s->Rip : (uint)(s->Cs.Base + s->Rip);
        for (int k = 0; k < 4; k++)
        {
            if ((s->Dr7 >> (k * 2) & 3) != 0 && (s->Dr7 >> (16 + k * 4) & 3) == 0 && s->Dr[k] == linear)
                hit |= 1UL << k;
        }
        return hit != 0;
    }

    // Bits 11:0 address space, 19:12 mode, 20 user, 21 stepping (nothing may chain then), the rest generation.
    private void UpdateJumpKey() =>
        State->JumpKey = State->TlbContext | (ulong)_traceMode << 12 | (State->Cpl == 3 ? 1UL << 20 : 0)
            | (_breakpointsArmed ? 1UL << 21 : 0) | _generation << 22;
}

/// <summary>Bits of IA32_DEBUGCTL (SDM volume 4, table 2-2).</summary>
public static class DebugControl
{
    /// <summary>LBR and BTF: a debug exception clears both (SDM volume 3, sections 18.4.1 and 18.4.4).</summary>
    public const ulong LastBranch = 1 << 0, BranchStep = 1 << 1;
}

/// <summary>Bits of DR6 (SDM volume 3, section 17.2.3).</summary>
public static class DebugStatus
{
    public const ulong AccessDetected = 1 << 13, SingleStep = 1 << 14, TaskSwitch = 1 << 15;

    /// <summary>B0 to B3.</summary>
    public const ulong Breakpoints = 15;

    /// <summary>Of VMX's pending debug exceptions alone: some breakpoint among B0 to B3 is enabled (SDM volume 3, table 25-4).</summary>
    public const ulong EnabledBreakpoint = 1 << 12;
}
