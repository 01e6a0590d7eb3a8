using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.SavedState;

/// <summary>L1's VMX operation on a vCPU.</summary>
public sealed record NestedState
{
    /// <summary>The VMXON pointer; null outside VMX operation.</summary>
    public ulong? VmxonPointer { get; init; }

    /// <summary>The current-VMCS pointer; null for none.</summary>
    public ulong? CurrentPointer { get; init; }

    /// <summary>The active enlightened VMCS; null for none.</summary>
    public ulong? EnlightenedPointer { get; init; }

    /// <summary>In system-management mode: whether the SMI has interrupted VMX operation.</summary>
    public bool IsOnBeforeSmi { get; init; }

    /// <summary>In system-management mode: whether the SMI has interrupted L2.</summary>
    public bool IsGuestModeBeforeSmi { get; init; }

    /// <summary>Whether the current VMCS is launched.</summary>
    public required bool IsLaunched { get; init; }

    /// <summary>Whether the current VMCS is a shadow VMCS.</summary>
    public required bool IsShadow { get; init; }

    /// <summary>Whether L1 has entered L2 and the hardware has not yet.</summary>
    public required bool RunPending { get; init; }

    /// <summary>The current VMCS, or what was last in its cache.</summary>
    public required VmcsState Vmcs12 { get; init; }

    /// <summary>The VMCS on which the hardware runs L2.</summary>
    public required VmcsState Vmcs02 { get; init; }

    /// <summary>The VMCS that L2's own VMREAD and VMWRITE reach; null where they reach none.</summary>
    public VmcsState? Shadow { get; init; }

    /// <summary>The time-stamp counter, without offset, at which the VMX-preemption timer runs out.</summary>
    public required ulong PreemptionDeadline { get; init; }

    /// <summary>When that wakes the vCPU.</summary>
    public TimerState? PreemptionTimer { get; init; }

    /// <summary>The registers that L2 reads without an exit, where vmcs02 uses MSR bitmaps.</summary>
    public required uint[] MsrReadsAllowed { get; init; }

    /// <summary>The registers that L2 writes without an exit.</summary>
    public required uint[] MsrWritesAllowed { get; init; }
}
