namespace Vmm.Devices.Board;

/// <summary>Where things are on the standard board, as the ACPI tables and the memory map tell the guest.</summary>
public static class BoardLayout
{
    /// <summary>The window in which PCI memory is placed: begins where RAM below 4 GiB ends at the latest.</summary>
    public const ulong PciMemoryBase = 0xC000_0000;

    /// <summary>The length of the window of PCI memory.</summary>
    public const ulong PciMemoryLength = 0x2000_0000;

    /// <summary>PCI configuration space, memory-mapped.</summary>
    public const ulong EcamBase = 0xE000_0000;

    /// <summary>1 MiB: one bus.</summary>
    public const ulong EcamLength = 0x10_0000;

    /// <summary>The HPET's registers.</summary>
    public const ulong HpetBase = 0xFED0_0000;

    /// <summary>The ports of COM1 to COM4.</summary>
    public static IReadOnlyList<ushort> SerialPorts { get; } = [0x3F8, 0x2F8, 0x3E8, 0x2E8];

    /// <summary>The interrupts of COM1 to COM4.</summary>
    public static IReadOnlyList<int> SerialIrqs { get; } = [4, 3, 4, 3];

    /// <summary>The first of the four I/O APIC pins of PCI's INTA to INTD.</summary>
    public const int PciFirstPin = 16;

    /// <summary>The 8259 inputs of the four PCI interrupts, for guests without an I/O APIC driver.</summary>
    public static IReadOnlyList<int> PciLegacyIrqs { get; } = [10, 11, 10, 11];

    /// <summary>The I/O APIC pin of an interrupt of the ISA bus: the timer is on pin 2, as the MADT says.</summary>
    public static int PinOfIrq(int irq) => irq == 0 ? 2 : irq;
}
