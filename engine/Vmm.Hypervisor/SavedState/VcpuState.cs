using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.SavedState;

/// <summary>A vCPU between two instructions.</summary>
public sealed record VcpuState
{
    /// <summary>The registers that a VM exit leaves in the processor.</summary>
    public required ProcessorState Processor { get; init; }

    /// <summary>The VMCS that runs L1, and has L1's registers.</summary>
    public required VmcsState Vmcs01 { get; init; }

    /// <summary>Whether L2 is active.</summary>
    public required bool IsGuestMode { get; init; }

    /// <summary>L1's VMX operation.</summary>
    public required NestedState Nested { get; init; }

    /// <summary>What it is doing.</summary>
    public required VcpuActivity Activity { get; init; }

    /// <summary>What is to be done before the next VM entry.</summary>
    public required VcpuRequest Requests { get; init; }

    /// <summary>The page of the start-up message that is among <see cref="Requests"/>.</summary>
    public required byte StartUpPage { get; init; }

    /// <summary>Instructions that L0 has executed in the guest's stead.</summary>
    public required ulong InstructionsEmulated { get; init; }

    /// <summary>The event that is injected with the next entry before anything else, or null.</summary>
    public QueuedEventState? Event { get; init; }

    /// <summary>Non-maskable interrupts that wait, 0 to 2.</summary>
    public required int PendingNmis { get; init; }

    /// <summary>Whether an INIT waits for VMX root operation to end.</summary>
    public required bool IsInitBlocked { get; init; }

    /// <summary>Whether the next instruction is to execute with the APIC-access page out of the way.</summary>
    public required bool StepsApicAccess { get; init; }

    /// <summary>APICv.</summary>
    public required VcpuApicvState Apicv { get; init; }

    /// <summary>The local APIC.</summary>
    public required LocalApicState Apic { get; init; }

    /// <summary>The model-specific registers that L0 keeps.</summary>
    public required VcpuMsrsState Msrs { get; init; }

    /// <summary>System-management mode; null where it is as after power-up.</summary>
    public SystemManagementState? SystemManagement { get; init; }

    /// <summary>HV_X64_MSR_VP_ASSIST_PAGE.</summary>
    public ulong AssistPage { get; init; }
}

/// <summary>An event to be injected, in the form of the VM-entry fields (SDM volume 3, table 25-17).</summary>
public sealed record QueuedEventState
{
    /// <summary>The interruption information.</summary>
    public required uint Information { get; init; }

    /// <summary>The exception error code.</summary>
    public required uint ErrorCode { get; init; }

    /// <summary>The instruction length.</summary>
    public required uint InstructionLength { get; init; }
}

/// <summary>APICv on a vCPU.</summary>
public sealed record VcpuApicvState
{
    /// <summary>Whether vmcs01 has it on.</summary>
    public required bool IsActive { get; init; }

    /// <summary>Whether a refresh of vmcs01 waits for L2 to be left.</summary>
    public required bool IsDeferred { get; init; }

    /// <summary>The generation of the inhibits that vmcs01 agrees with.</summary>
    public required ulong AppliedGeneration { get; init; }
}

/// <summary>The model-specific registers that L0 keeps.</summary>
public sealed record VcpuMsrsState
{
    /// <summary>IA32_MISC_ENABLE.</summary>
    public required ulong MiscEnable { get; init; }

    /// <summary>IA32_MCG_CTL.</summary>
    public required ulong McgControl { get; init; }

    /// <summary>IA32_MCG_STATUS.</summary>
    public required ulong McgStatus { get; init; }

    /// <summary>IA32_MC0_CTL, STATUS, ADDR and MISC, and so on for each bank.</summary>
    public required ulong[] MachineCheckBanks { get; init; }

    /// <summary>IA32_TSC_ADJUST.</summary>
    public required ulong TscAdjust { get; init; }

    /// <summary>IA32_MTRR_DEF_TYPE.</summary>
    public required ulong MtrrDefaultType { get; init; }

    /// <summary>The eleven fixed-range MTRRs, in the order of their addresses.</summary>
    public required ulong[] MtrrFixed { get; init; }

    /// <summary>IA32_MTRR_PHYSBASE0, PHYSMASK0 and so on.</summary>
    public required ulong[] MtrrVariable { get; init; }
}
