using Vmm.Hypervisor.Apicv;

namespace Vmm.Hypervisor.SavedState;

/// <summary>L0's side of a virtual machine between two instructions.</summary>
public sealed record VirtualMachineState
{
    /// <summary>What inhibits APICv.</summary>
    public required ApicvInhibit ApicvInhibits { get; init; }

    /// <summary>How often that has changed.</summary>
    public required ulong ApicvGeneration { get; init; }

    /// <summary>The local APIC to which the last interrupt of lowest priority went; -1 for none yet.</summary>
    public required int LastLowestPriority { get; init; }

    /// <summary>The Hyper-V interface; null where it is as after power-up.</summary>
    public HypervisorInterfaceState? HyperV { get; init; }

    /// <summary>The vCPUs, by their numbers.</summary>
    public required VcpuState[] Vcpus { get; init; }
}
