using Vmm.Hypervisor.Vcpus;

namespace Vmm.Hypervisor.SavedState;

/// <summary>System-management mode of a vCPU.</summary>
public sealed record SystemManagementState
{
    /// <summary>SMBASE.</summary>
    public required uint Base { get; init; }

    /// <summary>Whether an SMI waits.</summary>
    public required bool IsPending { get; init; }

    /// <summary>What the processor itself remembers of the program that an SMI has interrupted; null outside system-management mode.</summary>
    public InterruptedState? Interrupted { get; init; }
}

/// <summary>What the processor itself remembers of the program that an SMI has interrupted (SDM volume 3, section 32.14.1).</summary>
public sealed record InterruptedState
{
    /// <summary>What the vCPU was doing.</summary>
    public required VcpuActivity Activity { get; init; }

    /// <summary>The interruptibility state (SDM volume 3, table 25-3).</summary>
    public required uint Interruptibility { get; init; }

    /// <summary>The pending debug exceptions (SDM volume 3, table 25-4).</summary>
    public required ulong PendingDebugExceptions { get; init; }

    /// <summary>CR4.VMXE.</summary>
    public required bool IsVmxEnabled { get; init; }

    /// <summary>SS.DPL.</summary>
    public required int PrivilegeLevel { get; init; }

    /// <summary>RFLAGS.VM.</summary>
    public required bool IsVirtual8086 { get; init; }
}
