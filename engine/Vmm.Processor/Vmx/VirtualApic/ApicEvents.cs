namespace Vmm.Processor.Vmx.VirtualApic;

/// <summary>What APIC virtualization has for the next instruction boundary.</summary>
[Flags]
public enum ApicEvents : uint
{
    None = 0,

    /// <summary>A pending virtual interrupt has been recognized (SDM volume 3, section 30.2.1).</summary>
    Interrupt = 1 << 0,

    /// <summary>A VM exit follows the instruction that brought it about, as a trap does.</summary>
    Exit = 1 << 1,
}

/// <summary>How the APIC-access page was accessed: bits 15:12 of the exit qualification (SDM volume 3, table 28-6).</summary>
public enum ApicAccessType : uint
{
    Read = 0, Write = 1, Fetch = 2, EventDelivery = 3, GuestPhysicalEventDelivery = 10, GuestPhysical = 15,
}

/// <summary>Offsets in the virtual-APIC page of the fields that the processor acts on (SDM volume 3, section 30.1.1).</summary>
internal static class VirtualApicOffset
{
    public const uint Id = 0x020, TaskPriority = 0x080, ProcessorPriority = 0x0A0, EndOfInterrupt = 0x0B0, InService = 0x100, Request = 0x200,
        CommandLow = 0x300, CommandHigh = 0x310, SelfIpi = 0x3F0;
}
