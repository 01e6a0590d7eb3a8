namespace Vmm.Hypervisor.Vcpus;

/// <summary>What is to be done on a vCPU before its next VM entry. Requests of one kind coalesce.</summary>
[Flags]
public enum VcpuRequest : uint
{
    None = 0,

    /// <summary>A maskable interrupt may have become deliverable.</summary>
    Interrupt = 1 << 0,

    /// <summary>A non-maskable interrupt arrived.</summary>
    Nmi = 1 << 1,

    /// <summary>An INIT arrived.</summary>
    Init = 1 << 2,

    /// <summary>A start-up message arrived; its page is kept beside.</summary>
    StartUp = 1 << 3,

    /// <summary>Cached translations are to be dropped.</summary>
    TlbFlush = 1 << 4,

    /// <summary>The event-injection fields and window controls are to be looked at again.</summary>
    Event = 1 << 5,

    /// <summary>vmcs01 is to be brought into agreement with the APICv inhibits.</summary>
    ApicvUpdate = 1 << 6,

    /// <summary>A system-management interrupt arrived.</summary>
    Smi = 1 << 7,
}

/// <summary>What a vCPU is doing, as far as scheduling is concerned.</summary>
public enum VcpuActivity
{
    /// <summary>Executes instructions.</summary>
    Active,

    /// <summary>Executed HLT and waits for an interrupt.</summary>
    Halted,

    /// <summary>Waits for a start-up message.</summary>
    WaitForSipi,

    /// <summary>L2 is in the shutdown activity state and waits for an NMI: L1 entered it so.</summary>
    NestedShutdown,

    /// <summary>Shut down after a triple fault.</summary>
    Shutdown,
}

/// <summary>Why <see cref="Vcpu.Run"/> came back.</summary>
public enum VcpuOutcome
{
    /// <summary>The budget is used up.</summary>
    BudgetUsed,

    /// <summary>Someone asked for the vCPU's thread by <see cref="Vcpu.RequestExit"/>.</summary>
    ExitRequested,

    /// <summary>The guest spins in a PAUSE loop: another vCPU should have the rest of the slice.</summary>
    Yielded,

    /// <summary>The vCPU waits: see <see cref="Vcpu.Activity"/>.</summary>
    Waiting,

    /// <summary>The vCPU shut down after a triple fault.</summary>
    TripleFault,
}
