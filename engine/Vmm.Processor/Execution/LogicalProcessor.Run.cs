using System.Runtime.CompilerServices;
using Vmm.Processor.Events;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Execution;

public sealed unsafe partial class LogicalProcessor
{
    /// <summary>Marks, in <see cref="CpuState.InterruptShadow"/>, a shadow that the instruction now executing will end.</summary>
    private const uint ShadowEnding = 0x100;

    /// <summary>Executes guest code until a VM exit is recorded.</summary>
    private void Run()
    {
        CpuState* s = State;
        while (true)
        {
            if (!Boundary(s))
                return;
            if (Package.Code.Translator is { HasCompiled: true } translator)
                translator.Install();
            // Single steps, interrupt shadows, RF and breakpoints need the processor to look around after each instruction.
            bool tracing = (s->ProcControls & ProcControls.MonitorTrapFlag) != 0;
            bool stepping = (s->SystemFlags & (Rflags.Tf | Rflags.Rf)) != 0 || s->InterruptShadow != 0 || _breakpointsArmed || tracing;
            if (stepping ? !Step(s) : !RunTraces(s))
                return;
            _trapPending = tracing;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool RunTraces(CpuState* s)
    {
        Trace* trace = Lookup(s);
        if (trace == null)
            return Stopped(s);
        s->TraceRip = s->Rip;
        if (s->Budget < trace->Length)
        {
            Advance(s, trace, s->Budget);
            return Stopped(s);
        }
        Insn* i = Trace.First(trace);
        do
        {
            i = i->Handler(s, i);
        }
        while (i != null);
        return Stopped(s);
    }

    /// <summary>Executes one instruction with everything that may surround it.</summary>
    private bool Step(CpuState* s)
    {
        bool trap = (s->SystemFlags & Rflags.Tf) != 0;
        bool resume = (s->SystemFlags & Rflags.Rf) != 0;
        s->SystemFlags &= ~Rflags.Rf;
        if (!resume && _breakpointsArmed && (s->InterruptShadow & 2) == 0 && MatchesBreakpoint(s, out ulong hit))
        {
            s->FaultAddress = hit;
            Fault.Record(s, Vector.Db);
            s->Stop = StopReason.Fault;
            return Stopped(s);
        }
        if (s->InterruptShadow != 0)
            s->InterruptShadow |= ShadowEnding;
        ulong events = EventsDelivered;
        ulong rip = s->Rip, next = rip;
        Trace* trace = Lookup(s);
        if (trace != null)
        {
            s->TraceRip = rip;
            next = Flow.Wrap(s, rip + Trace.First(trace)->Length);
            Advance(s, trace, 1);
        }
        if (s->Stop == StopReason.Fault && s->FaultVector == Vector.VmExit && !Mmu.ConvertExit())
            LeaveForAccess(s);
        if ((s->InterruptShadow & ShadowEnding) != 0)
            s->InterruptShadow = s->Stop == StopReason.VmExit ? s->InterruptShadow & ~ShadowEnding : 0;
        // A MOV or POP to SS suppresses its own single-step trap; the shadowed instruction brings about the next one.
        bool suppressed = (s->InterruptShadow & 2) != 0;
        // With IA32_DEBUGCTL.BTF a step goes to the next branch that is taken (SDM volume 3, section 18.4.3).
        bool stepped = (s->DebugCtl & DebugControl.BranchStep) == 0 || (s->Rip != next && s->Rip != rip);
        if (s->Stop == StopReason.Dispatch && trap && stepped && !suppressed && EventsDelivered == events)
            s->PendingDebug |= DebugStatus.SingleStep;
        return Stopped(s);
    }

    /// <summary>Executes up to <paramref name="count"/> instructions of one trace, one at a time.</summary>
    private static void Advance(CpuState* s, Trace* trace, long count)
    {
        Insn* i = Trace.First(trace);
        Handler handler = trace->FirstHandler;
        while (true)
        {
            Insn* next = handler(s, i);
            if (next == null)
                return;
            if (next != i + 1)
            {
                // A branch has chained into another trace, settling the budget and that trace's RIP.
                s->Rip = s->TraceRip;
                s->Stop = StopReason.Dispatch;
                return;
            }
            if (--count == 0 || TraceBuilder.IsEnd(next))
            {
                s->Rip = Flow.Wrap(s, s->TraceRip + next->Offset);
                s->Budget -= i->Count;
                s->Stop = StopReason.Dispatch;
                return;
            }
            i = next;
            handler = i->Handler;
        }
    }

    /// <summary>Acts on why the inner loop stopped. False after a VM exit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool Stopped(CpuState* s) => s->Stop == StopReason.Dispatch || (s->Stop != StopReason.VmExit && DeliverFault(s));

    private bool DeliverFault(CpuState* s)
    {
        if (s->FaultVector == Vector.VmExit && !Mmu.ConvertExit())
        {
            LeaveForAccess(s);
            return false;
        }
        // A fault retires nothing, but a guest whose handlers fault for ever must come to the end of its budget.
        s->Budget--;
        s->BudgetGranted--;
        return EventDelivery.Dispatch(this, new GuestEvent(s->FaultVector, EventType.HardwareException, s->FaultHasError, s->FaultError));
    }

    /// <summary>
    /// The VM exit that EPT has called for in the middle of an instruction, which starts again with the next entry: RF is saved set
    /// so that an instruction breakpoint does not fire twice (SDM volume 3, section 28.3.3).
    /// </summary>
    private void LeaveForAccess(CpuState* s)
    {
        Mmu.SettleExit(delivering: false);
        s->SystemFlags |= Rflags.Rf;
    }

    /// <summary>The trace at RIP; null after a fault of the fetch, which is settled.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Trace* Lookup(CpuState* s)
    {
        bool wide = s->CodeSize == 64;
        ulong rip = s->Rip;
        ulong linear = wide ? rip : (uint)(s->Cs.Base + rip);
        s->Stop = StopReason.Fault;
        if (!wide && rip > s->Cs.Limit)
        {
            Fault.Record(s, Vector.Gp, 0);
            return null;
        }
        if (!Mmu.TranslateFetch(linear, out ulong physical))
            return null;
        Trace* trace = Package.Code.Find(physical, _traceMode);
        if (trace == null && (trace = LookupCrossing(s, linear, physical)) == null)
            return null;
        if (!wide && rip + (ulong)trace->Bytes - 1 > s->Cs.Limit)
            return LimitTrace(s, trace, rip);
        Remember(s, rip, linear, trace);
        return trace;
    }

    private Trace* LookupCrossing(CpuState* s, ulong linear, ulong physical)
    {
        if (Environment.Memory.Page(physical) == null)
            return FetchFromDevice(s, linear, physical);
        ulong next = (linear & ~0xFFFUL) + 4096;
        if (s->CodeSize != 64)
            next = (uint)next;
        if (!Mmu.TranslateFetch(next, out ulong second))
            return null;
        Trace* trace = Package.Code.FindCrossing(physical, second & ~0xFFFUL, _traceMode);
        return trace != null ? trace : FetchFromDevice(s, linear, physical);
    }

    /// <summary>Fetches one instruction byte by byte from what is not RAM.</summary>
    private Trace* FetchFromDevice(CpuState* s, ulong linear, ulong physical)
    {
        byte* bytes = stackalloc byte[16];
        int count = 0;
        while (count < 15)
        {
            ulong at = linear + (ulong)count;
            if (count > 0 && !Mmu.TranslateFetch(at, out physical))
                break;
            if (!Environment.Memory.TryRead(physical, new Span<byte>(bytes + count, 1)))
                bytes[count] = (byte)Environment.Bus.ReadMemory(physical, 1);
            count++;
        }
        // Where the instruction runs into an unmapped page, that page fault is recorded, and null goes back.
        return Package.Code.DecodeOnce(bytes, count, 0, _traceMode);
    }

    /// <summary>A trace that runs beyond the limit of CS: what lies within it is executed one instruction at a time.</summary>
    private Trace* LimitTrace(CpuState* s, Trace* trace, ulong rip)
    {
        if (rip + Trace.First(trace)->Length - 1 > s->Cs.Limit)
        {
            Fault.Record(s, Vector.Gp, 0);
            return null;
        }
        return Package.Code.FindSingle(trace);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Remember(CpuState* s, ulong rip, ulong linear, Trace* trace)
    {
        // A trace that is good for one execution has no address.
        if (trace->Physical == 0)
            return;
        JumpCacheEntry* entry = s->JumpCache + JumpCache.Slot(rip);
        entry->Rip = rip;
        entry->Key = s->JumpKey;
        entry->First = Trace.First(trace);
        entry->Length = trace->Length;
        _executedPages[(int)(linear >> 12 & (ExecutedPages - 1))] = true;
        if (trace->SecondPage != 0)
            _executedPages[(int)((linear >> 12) + 1 & (ExecutedPages - 1))] = true;
    }
}
