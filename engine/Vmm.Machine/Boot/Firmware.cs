using Vmm.Devices.Board;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>What firmware would have left in memory before a boot loader runs.</summary>
public static class Firmware
{
    /// <summary>Where the root pointer is: on a 16-byte boundary in the area that guests search.</summary>
    public const uint RsdpAddress = 0xF_0000;

    private const uint TablesAddress = (uint)MemoryMap.FirmwareBase;
    private const uint MultiprocessorPointerAddress = RsdpAddress + 0x40;
    private const uint MultiprocessorTableAddress = RsdpAddress + 0x80;

    /// <summary>
    /// Everything between a reset and the first instruction: resets the board, writes the firmware's own code and data and the
    /// ACPI and MP tables, starts the timer tick and loads the kernel, which may lie over the vectors and the BIOS data.
    /// Called anew for every boot; RAM keeps what a previous run left outside of what is loaded.
    /// </summary>
    /// <exception cref="InvalidMachineException">The kernel, a module or the command line is not acceptable.</exception>
    public static BootImage Boot(PcBoard board, PhysicalMemory memory, BootRequest request)
    {
        ArgumentNullException.ThrowIfNull(board);
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(request);
        bool soft = FirmwareImage.BeginsAfterInit(memory);
        board.Reset();
        board.SystemControlA.InitBit = soft;
        FirmwareImage.Install(memory);
        StartTick(board);
        var tables = new AcpiTables(AcpiOptions.Of(board));
        ulong rsdp = InstallAcpi(memory, tables);
        InstallMultiprocessorTable(memory, board.Cpus, board.MaxCpus);
        BootImage image = BootLoader.Load(request with { RsdpAddress = rsdp }, memory);
        FirmwareFiles.Publish(board, memory, request, FirmwareFiles.StateOf(image, board.Cpus), tables);
        return image;
    }

    /// <summary>Has fw_cfg tell what it told after the boot of a machine that was saved.</summary>
    internal static void Publish(PcBoard board, PhysicalMemory memory, BootRequest request, BootState boot) =>
        FirmwareFiles.Publish(board, memory, request, boot, new AcpiTables(AcpiOptions.Of(board) with { Cpus = boot.Cpus ?? board.Cpus }));

    /// <summary>The tick of 18.2 Hz that every PC has from its firmware: interrupt 0 by a square wave of the longest period.</summary>
    private static void StartTick(PcBoard board)
    {
        board.Bus.WritePort(0x43, 1, 0x36);
        board.Bus.WritePort(0x40, 1, 0);
        board.Bus.WritePort(0x40, 1, 0);
        // Interrupt 0 and the cascade.
        board.Bus.WritePort(0x21, 1, 0xFA);
    }

    /// <summary>Writes the ACPI tables between 0xE0000 and 1 MiB.</summary>
    /// <returns>The address of the root pointer.</returns>
    /// <exception cref="InvalidMachineException">There is no RAM there.</exception>
    public static ulong InstallAcpi(PhysicalMemory memory, AcpiTables tables)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(tables);
        byte[] bytes = tables.PlaceAt(TablesAddress);
        if (bytes.Length > RsdpAddress - TablesAddress)
            throw new InvalidMachineException(nameof(MachineSpec.Cpus), "The ACPI tables are too long for the firmware's area.");
        if (!memory.TryWrite(TablesAddress, bytes) || !memory.TryWrite(RsdpAddress, tables.RootPointer(TablesAddress)))
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), "A machine needs at least 1 MiB of memory.");
        return RsdpAddress;
    }

    /// <summary>Writes the table of the MultiProcessor Specification behind the ACPI root pointer.</summary>
    /// <param name="memory">RAM.</param>
    /// <param name="cpus">Virtual processors, with APIC IDs from 0.</param>
    /// <param name="maxCpus">Those that there may come to be: the table has no form for the rest, but the I/O APIC's ID leaves them room.</param>
    /// <returns>The address of its floating pointer.</returns>
    public static ulong InstallMultiprocessorTable(PhysicalMemory memory, int cpus, int maxCpus)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (!memory.TryWrite(MultiprocessorTableAddress, MultiprocessorTable.Build(cpus, maxCpus))
            || !memory.TryWrite(MultiprocessorPointerAddress, MultiprocessorTable.FloatingPointer(MultiprocessorTableAddress)))
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), "A machine needs at least 1 MiB of memory.");
        return MultiprocessorPointerAddress;
    }
}
