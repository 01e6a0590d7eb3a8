namespace Vmm.Machine.Boot;

/// <summary>What a range of physical addresses is for, with the numbers of E820, Multiboot and PVH alike.</summary>
public enum MemoryRegionType : uint
{
    /// <summary>Free RAM.</summary>
    Usable = 1,

    /// <summary>Not for the operating system.</summary>
    Reserved = 2,

    /// <summary>ACPI tables, free once they are read.</summary>
    AcpiReclaimable = 3,
}

/// <summary>A range of physical addresses.</summary>
public readonly record struct MemoryRegion(ulong Base, ulong Length, MemoryRegionType Type)
{
    /// <summary>The first address behind the range.</summary>
    public ulong End => Base + Length;
}

/// <summary>The layout of physical memory that every loader tells its kernel.</summary>
public static class MemoryMap
{
    /// <summary>Conventional memory ends here: 1 KiB below 640 KiB is the extended BIOS data area.</summary>
    public const ulong ConventionalEnd = 0x9_FC00;

    /// <summary>Firmware's tables begin here.</summary>
    public const ulong FirmwareBase = 0xE_0000;

    /// <summary>Firmware's tables end here, at 1 MiB.</summary>
    public const ulong FirmwareEnd = 0x10_0000;

    /// <summary>The map of a PC with RAM from 0 and from 4 GiB.</summary>
    /// <param name="lowSize">Bytes of RAM from 0, at least 1 MiB.</param>
    /// <param name="highSize">Bytes of RAM from 4 GiB.</param>
    public static IReadOnlyList<MemoryRegion> Build(ulong lowSize, ulong highSize)
    {
        var map = new List<MemoryRegion>
        {
            new(0, ConventionalEnd, MemoryRegionType.Usable),
            new(ConventionalEnd, 0xA_0000 - ConventionalEnd, MemoryRegionType.Reserved),
            new(FirmwareBase, FirmwareEnd - FirmwareBase, MemoryRegionType.Reserved),
        };
        if (lowSize > FirmwareEnd)
            map.Add(new(FirmwareEnd, lowSize - FirmwareEnd, MemoryRegionType.Usable));
        map.Add(new(Devices.Board.BoardLayout.EcamBase, Devices.Board.BoardLayout.EcamLength, MemoryRegionType.Reserved));
        map.Add(new(FirmwareImage.RomBase, FirmwareImage.Size, MemoryRegionType.Reserved));
        if (highSize > 0)
            map.Add(new(Processor.Memory.PhysicalMemory.HighBase, highSize, MemoryRegionType.Usable));
        return map;
    }
}
