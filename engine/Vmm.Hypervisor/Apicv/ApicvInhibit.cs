namespace Vmm.Hypervisor.Apicv;

/// <summary>Reasons for which APIC virtualization by the processor is not used for L1. They hold for the whole virtual machine.</summary>
[Flags]
public enum ApicvInhibit : uint
{
    None = 0,

    /// <summary>The machine has no APICv. Fixed when it is created.</summary>
    Absent = 1 << 0,

    /// <summary>APICv is switched off for the machine. Fixed when it is created.</summary>
    Disable = 1 << 1,

    /// <summary>Interrupts are being blocked for debugging.</summary>
    BlockIrq = 1 << 2,

    /// <summary>A synthetic interrupt with automatic end of interrupt is in use.</summary>
    HyperV = 1 << 3,

    /// <summary>The guest has given a local APIC in xAPIC mode another ID than the one it came with.</summary>
    ApicIdModified = 1 << 4,

    /// <summary>Two enabled local APICs have the same physical ID.</summary>
    PhysicalIdAliased = 1 << 5,

    /// <summary>A logical ID names more than one local APIC, or one has several.</summary>
    LogicalIdAliased = 1 << 6,

    /// <summary>The guest has moved the registers of a local APIC from where they are after reset.</summary>
    ApicBaseModified = 1 << 7,
}

/// <summary>What is done with an inhibit that changes while L2 is active.</summary>
public enum ApicvPolicy
{
    /// <summary>It is remembered, and vmcs01 is refreshed on nested VM exit, before L1 runs.</summary>
    Deferred,

    /// <summary>vmcs01 is refreshed on the spot; vmcs02 stays as it is.</summary>
    Switch,

    /// <summary>
    /// The controls of the current VMCS are changed on the spot, as if L1 were active: they are vmcs02's, and vmcs01 is never
    /// updated. This is a bug that a hypervisor once had, kept to watch what comes of it.
    /// </summary>
    UnsafeImmediate,
}

/// <summary>How a virtual machine uses APICv.</summary>
/// <param name="Fixed">Inhibits for the life of the machine: of <see cref="ApicvInhibit.Absent"/> and <see cref="ApicvInhibit.Disable"/>.</param>
/// <param name="Policy">What is done with changes while L2 is active.</param>
public sealed record ApicvOptions(ApicvInhibit Fixed = ApicvInhibit.None, ApicvPolicy Policy = ApicvPolicy.Deferred);
