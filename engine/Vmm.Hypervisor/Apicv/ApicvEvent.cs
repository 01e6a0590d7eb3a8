using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Apicv;

/// <summary>What happened to APICv.</summary>
public enum ApicvEventKind
{
    /// <summary>A reason was added to the set.</summary>
    InhibitSet,

    /// <summary>A reason was taken out of the set.</summary>
    InhibitCleared,

    /// <summary>A vCPU put a change off until L2 is left.</summary>
    UpdateDeferred,

    /// <summary>A vCPU's vmcs01 agrees with the set again.</summary>
    UpdateApplied,

    /// <summary>A vCPU changed the controls of the VMCS that was current, which was vmcs02: <see cref="ApicvPolicy.UnsafeImmediate"/>.</summary>
    CurrentVmcsOverwritten,
}

/// <summary>Something that happened to APICv, as it is told to observers.</summary>
/// <param name="Kind">What.</param>
/// <param name="Vcpu">The vCPU's number; -1 for a change of the set, which concerns all.</param>
/// <param name="Changed">The reasons that were set or cleared; none for the other kinds.</param>
/// <param name="Reasons">The whole set afterwards.</param>
/// <param name="Generation">How often the set has changed.</param>
/// <param name="Active">Whether APICv is active, on the vCPU or, for a change of the set, as far as the set goes.</param>
/// <param name="Instructions">Instructions that the vCPU has executed, or for a change of the set all vCPUs together.</param>
public readonly record struct ApicvEvent(ApicvEventKind Kind, int Vcpu, ApicvInhibit Changed, ApicvInhibit Reasons, ulong Generation, bool Active, ulong Instructions)
{
    /// <summary>Where a change was applied that had been put off: the basic reason of the VM exit by which L2 left to L1. Null everywhere else.</summary>
    public ExitReason? EndedBy { get; init; }
}
