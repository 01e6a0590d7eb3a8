namespace Vmm.Hypervisor.SavedState;

/// <summary>The registers of the Hyper-V interface that all vCPUs share.</summary>
public sealed record HypervisorInterfaceState
{
    /// <summary>HV_X64_MSR_GUEST_OS_ID.</summary>
    public required ulong GuestOsId { get; init; }

    /// <summary>HV_X64_MSR_HYPERCALL.</summary>
    public required ulong HypercallPage { get; init; }
}
