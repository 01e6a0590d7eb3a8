namespace Vmm.Hypervisor.Apic;

/// <summary>What a local APIC asks of the vCPU that it belongs to. Each call only leaves a note: the vCPU acts on it before its next instruction.</summary>
public interface ILocalApicOwner
{
    /// <summary>There may be a maskable interrupt to take.</summary>
    void InterruptPending();

    /// <summary>A non-maskable interrupt arrived.</summary>
    void NonMaskableInterrupt();

    /// <summary>A system-management interrupt arrived.</summary>
    void SystemManagementInterrupt();

    /// <summary>An INIT arrived.</summary>
    void Init();

    /// <summary>A start-up message arrived.</summary>
    /// <param name="page">Bits 19:12 of the address to start at.</param>
    void StartUp(byte page);

    /// <summary>IA32_APIC_BASE has changed.</summary>
    void ModeChanged();

    /// <summary>The task-priority register changed: CR8 shows its upper half.</summary>
    void TaskPriorityChanged(uint priority);

    /// <summary>What the guest's time-stamp counter is ahead of the machine's clock in nanoseconds (both count at 1 GHz).</summary>
    ulong TscOffset { get; }
}
