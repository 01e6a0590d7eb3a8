using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Hypervisor.Vcpus;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// The VMX-preemption timer of vmcs12 (SDM volume 3, section 26.5.1). While L2 executes the hardware counts; L0 keeps the deadline,
/// so that the time counts that L2 spends halted or that L0 spends on its exits.
/// </summary>
internal sealed class NestedPreemptionTimer
{
    private readonly Vcpu _vcpu;
    private readonly IMachineTimer _timer;
    private ulong _deadline;

    internal NestedPreemptionTimer(Vcpu vcpu)
    {
        _vcpu = vcpu;
        _timer = vcpu.Machine.Clock.CreateTimer(() => vcpu.Request(VcpuRequest.Event));
    }

    /// <summary>Whether it has run down.</summary>
    public bool IsExpired => Now >= _deadline;

    /// <summary>What is left, in the timer's own unit.</summary>
    public uint Remaining
    {
        get
        {
            ulong now = Now >> Shift, end = _deadline >> Shift;
            return now >= end ? 0 : (uint)(end - now);
        }
    }

    private int Shift => _vcpu.Nested.Capabilities.PreemptionTimerShift;

    private ulong Now => _vcpu.Machine.TimeStampCounter.Read(_vcpu.Cpu.InstructionsRetired);

    /// <summary>Starts to count down from a value.</summary>
    public void Start(uint value) => _deadline = (Now >> Shift) + value << Shift;

    /// <summary>When it runs out, in units of 2^<paramref name="shift"/> cycles of L1's time-stamp counter, rounded up.</summary>
    public ulong DeadlineIn(int shift) => (_deadline + _vcpu.TscOffset + (1UL << shift) - 1) >> shift;

    /// <summary>Starts to count down to a deadline as <see cref="DeadlineIn"/> has it.</summary>
    public void StartUntil(ulong deadline, int shift) => _deadline = (deadline << shift) - _vcpu.TscOffset;

    /// <summary>Wakes the vCPU when the timer has run down: it is about to wait.</summary>
    public void WakeAtExpiry() => _timer.Arm(_deadline);

    /// <summary>Wakes nobody.</summary>
    public void Cancel() => _timer.Disarm();

    /// <summary>The counter, without the guest's offset, at which it has run down.</summary>
    public ulong Deadline => _deadline;

    /// <summary>When it wakes the vCPU.</summary>
    public TimerState? SaveWakeUp() => _timer.Save();

    /// <summary>Takes a saved state.</summary>
    public void Load(ulong deadline, TimerState? wakeUp)
    {
        _deadline = deadline;
        _timer.Load(wakeUp);
    }
}
