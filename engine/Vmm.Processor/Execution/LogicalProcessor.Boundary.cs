using System.Runtime.CompilerServices;
using Vmm.Processor.Events;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Execution;

/// <content>What happens between two instructions, in the order of its priorities.</content>
public sealed unsafe partial class LogicalProcessor
{
    private const ProcControls Windows = ProcControls.InterruptWindowExiting | ProcControls.NmiWindowExiting;

    private bool _trapPending;
    private bool _timerRuns;
    private long _withheld;

    /// <summary>
    /// The time-stamp counter, without offset and scaling, at which the VMX-preemption timer of the last entry expires (SDM volume 3,
    /// section 26.5.1); all ones where it does not run. A guest that halts with the timer running is to be entered again by then.
    /// </summary>
    public ulong PreemptionTimerDeadline { get; private set; } = ulong.MaxValue;

    /// <summary>An exit for the monitor trap flag is pending: it comes before anything else executes (SDM volume 3, section 26.5.2).</summary>
    internal void PendMonitorTrap() => _trapPending = true;

    /// <summary>Begins with the entry: nothing is pending, and the timer runs if the controls say so.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void BeginBoundaries(Vmcs vmcs)
    {
        _trapPending = false;
        _pausing = false;
        if (_timerRuns || (State->PinControls & PinControls.PreemptionTimer) != 0)
            StartTimer(vmcs);
    }

    private void StartTimer(Vmcs vmcs)
    {
        _withheld = 0;
        _timerRuns = (State->PinControls & PinControls.PreemptionTimer) != 0;
        if (!_timerRuns)
        {
            PreemptionTimerDeadline = ulong.MaxValue;
            return;
        }
        int shift = Environment.Vmx.PreemptionTimerShift;
        PreemptionTimerDeadline = (HostTimeStamp >> shift) + vmcs.Read32(VmcsField.PreemptionTimerValue) << shift;
    }

    /// <summary>What is left on the VMX-preemption timer.</summary>
    internal uint PreemptionTimerRemaining
    {
        get
        {
            int shift = Environment.Vmx.PreemptionTimerShift;
            ulong now = HostTimeStamp >> shift, end = PreemptionTimerDeadline >> shift;
            return now >= end ? 0 : (uint)Math.Min(end - now, uint.MaxValue);
        }
    }

    /// <summary>The time-stamp counter as the guest that has exited, or runs, would read it now.</summary>
    public ulong GuestTimeStamp => ToGuestTimeStamp(HostTimeStamp);

    /// <summary>What the guest reads for a value of the counter: scaled and offset (SDM volume 3, section 26.3).</summary>
    internal ulong ToGuestTimeStamp(ulong value)
    {
        if ((State->ProcControls & ProcControls.TscOffsetting) == 0)
            return value;
        if ((State->SecondaryControls & SecondaryControls.TscScaling) != 0)
            value = (ulong)((UInt128)value * Vmcs![VmcsField.TscMultiplier] >> 48);
        return value + Vmcs![VmcsField.TscOffset];
    }

    /// <summary>The time-stamp counter as root operation reads it.</summary>
    internal ulong HostTimeStamp => Environment.TimeStampCounter.Read(InstructionsRetired);

    private const ulong VirtualInterruptDue = Rflags.Vm | Rflags.Vif | Rflags.Vip;

    /// <summary>
    /// What happens between instructions before the next one may start (SDM volume 3, table 6-2 and section 27.7). False after a VM
    /// exit.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool Boundary(CpuState* s)
    {
        if (s->Attention == AttentionBoundary)
            Interlocked.CompareExchange(ref s->Attention, 0, AttentionBoundary);
        if ((s->ApicEvents & ApicEvents.Exit) != 0)
        {
            VirtualApic.Leave();
            return false;
        }
        if (_trapPending)
            return LeaveForMonitorTrap(s);
        if (s->PendingDebug != 0 && (s->InterruptShadow & 2) == 0)
        {
            s->FaultAddress = s->PendingDebug;
            s->PendingDebug = 0;
            if (!EventDelivery.Dispatch(this, new GuestEvent(Vector.Db, EventType.HardwareException)))
                return false;
            if ((s->ProcControls & ProcControls.MonitorTrapFlag) != 0)
                return LeaveForMonitorTrap(s);
        }
        if (_timerRuns && !RunTimer(s))
            return false;
        if ((s->ProcControls & Windows) != 0 && LeavesByWindow(s))
            return false;
        if (s->Budget <= 0 || s->Attention != 0 || (s->Activity != ActivityState.Active && !(s->Activity == ActivityState.Hlt && VirtualApic.MayDeliver)))
        {
            s->Attention = 0;
            VmExit.Record(s, ExitReason.BudgetExhausted);
            return false;
        }
        if ((s->ApicEvents & ApicEvents.Interrupt) == 0 || !VirtualApic.MayDeliver)
            return (s->SystemFlags & VirtualInterruptDue) != VirtualInterruptDue || FaultByVirtualInterrupt(s);
        return VirtualApic.Deliver() && ((s->ProcControls & ProcControls.MonitorTrapFlag) == 0 || LeaveForMonitorTrap(s));
    }

    /// <summary>A virtual-8086 task was entered with a virtual interrupt allowed and pending (SDM volume 3, section 20.3.2): with VME, #GP.</summary>
    private bool FaultByVirtualInterrupt(CpuState* s)
    {
        if ((s->Cr4 & Cr4.Vme) == 0)
            return true;
        return EventDelivery.Dispatch(this, new GuestEvent(Vector.Gp, EventType.HardwareException, HasError: true))
            && ((s->ProcControls & ProcControls.MonitorTrapFlag) == 0 || LeaveForMonitorTrap(s));
    }

    private static bool LeavesByWindow(CpuState* s)
    {
        if (s->InterruptShadow != 0 || s->Activity == ActivityState.WaitForSipi)
            return false;
        if ((s->ProcControls & ProcControls.NmiWindowExiting) != 0 && !s->NmiBlocked)
            VmExit.Record(s, ExitReason.NmiWindow);
        else if ((s->ProcControls & ProcControls.InterruptWindowExiting) != 0 && (s->SystemFlags & Rflags.If) != 0
            && s->Activity != ActivityState.Shutdown)
            VmExit.Record(s, ExitReason.InterruptWindow);
        else
            return false;
        return true;
    }

    private bool LeaveForMonitorTrap(CpuState* s)
    {
        _trapPending = false;
        VmExit.Record(s, ExitReason.MonitorTrapFlag);
        return false;
    }

    /// <summary>
    /// Exits where the VMX-preemption timer has expired; else holds back so much of the budget that execution comes back here by
    /// then. A processor that waits for SIPI does not leave.
    /// </summary>
    private bool RunTimer(CpuState* s)
    {
        Withhold(s, -_withheld);
        ulong retired = InstructionsRetired;
        ulong now = Environment.TimeStampCounter.Read(retired);
        if (now >= PreemptionTimerDeadline)
        {
            if (s->Activity == ActivityState.WaitForSipi)
                return true;
            VmExit.Record(s, ExitReason.PreemptionTimer);
            return false;
        }
        ulong left = PreemptionTimerDeadline - now;
        long allowed = (long)Math.Min(left, int.MaxValue);
        // A counter that follows the instructions tells how far it will be then. One that follows the host's time does not: at some
        // instructions for each count, a look now and then keeps the delay small.
        if (Environment.TimeStampCounter.Read(retired + (ulong)allowed) == now)
            allowed = Math.Max(allowed / 4, 64);
        while (allowed > 1 && Environment.TimeStampCounter.Read(retired + (ulong)allowed) > PreemptionTimerDeadline)
            allowed /= 2;
        if (s->Budget > allowed)
            Withhold(s, s->Budget - allowed);
        return true;
    }

    private void Withhold(CpuState* s, long instructions)
    {
        s->Budget -= instructions;
        s->BudgetGranted -= instructions;
        _withheld += instructions;
    }
}
