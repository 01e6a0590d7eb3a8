namespace Vmm.Hypervisor.Apic;

/// <summary>How an interrupt is to be taken by its targets (SDM volume 3, section 12.6.1, the delivery mode field).</summary>
public enum DeliveryMode : byte
{
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    Nmi = 4,
    Init = 5,
    StartUp = 6,
    ExtInt = 7,
}

/// <summary>
/// One interrupt on its way to local APICs: from an I/O APIC, from an MSI or from another local APIC
/// (SDM volume 3, sections 12.6 and 12.11).
/// </summary>
/// <param name="Destination">An APIC ID (physical mode) or a set of processors (logical mode).</param>
/// <param name="Logical">Whether the destination is a logical one.</param>
/// <param name="Mode">The delivery mode.</param>
/// <param name="Vector">The vector; for a start-up message the page number of the entry point.</param>
/// <param name="LevelTriggered">Whether an end of interrupt is to be broadcast to the I/O APICs.</param>
public readonly record struct InterruptMessage(uint Destination, bool Logical, DeliveryMode Mode, byte Vector, bool LevelTriggered);

/// <summary>Where devices send interrupts: the local APICs of one virtual machine.</summary>
public interface IInterruptSink
{
    /// <summary>Delivers a message to every local APIC that it addresses. Returns false where none accepted it.</summary>
    bool Deliver(InterruptMessage message);

    /// <summary>The 8259 pair raises or lowers its INTR output, which is wired to LINT0 of the boot processor.</summary>
    void SetExternalInterrupt(bool asserted);
}

/// <summary>The 8259 pair as the local APIC of the boot processor sees it.</summary>
public interface IExternalInterruptController
{
    /// <summary>Answers an interrupt acknowledge cycle with the vector to take.</summary>
    byte Acknowledge();
}

/// <summary>Who wants to hear of an end of interrupt: the I/O APICs.</summary>
public interface IEndOfInterruptListener
{
    /// <summary>A local APIC completed a level-triggered vector.</summary>
    void EndOfInterrupt(byte vector);
}
