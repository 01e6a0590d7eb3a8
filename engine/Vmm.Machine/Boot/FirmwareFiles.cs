using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Board;
using Vmm.Devices.Platform;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>
/// What fw_cfg offers beside the machine's size: kernel, initial RAM disk and command line, the memory map, and the ACPI
/// tables in the relocatable form with the script that places them (QEMU's docs/specs/fw_cfg and the linker/loader's
/// description there).
/// </summary>
internal static class FirmwareFiles
{
    private const string TablesFile = "etc/acpi/tables";
    private const string RootFile = "etc/acpi/rsdp";
    private const string ScriptFile = "etc/table-loader";

    private const int CommandSize = 128;
    private const int NameSize = 56;
    private const uint Allocate = 1;
    private const uint AddPointer = 2;
    private const uint AddChecksum = 3;
    private const byte HighZone = 1;
    private const byte FirmwareSegmentZone = 2;

    /// <summary>Where a boot has put what it loaded, and the processors that there were.</summary>
    internal static BootState StateOf(BootImage image, int cpus) => new()
    {
        Cpus = cpus,
        KernelAddress = image.KernelAddress,
        KernelEntry = image.Processor.Rip,
        CommandLineAddress = image.CommandLineAddress,
        ModuleAddress = image.Modules.Count > 0 ? image.Modules[0].Address : null,
        ModuleLength = image.Modules.Count > 0 ? image.Modules[0].Length : 0,
    };

    internal static void Publish(PcBoard board, PhysicalMemory memory, BootRequest request, BootState image, AcpiTables tables)
    {
        FirmwareConfiguration target = board.FirmwareConfiguration;
        byte[] commandLine = BootMemory.EncodeString(request.CommandLine, nameof(MachineSpec.CommandLine));
        target.SetItem(FirmwareItem.KernelAddress, (uint)image.KernelAddress);
        target.SetItem(FirmwareItem.KernelEntry, (uint)image.KernelEntry);
        target.SetItem(FirmwareItem.KernelSize, (uint)request.Kernel.Length);
        target.SetItem(FirmwareItem.KernelData, request.Kernel);
        target.SetItem(FirmwareItem.CommandLineAddress, (uint)image.CommandLineAddress);
        target.SetItem(FirmwareItem.CommandLineSize, (uint)commandLine.Length);
        target.SetItem(FirmwareItem.CommandLineData, commandLine);
        if (request.Modules.Count > 0 && image.ModuleAddress is { } module)
        {
            target.SetItem(FirmwareItem.InitrdAddress, (uint)module);
            target.SetItem(FirmwareItem.InitrdSize, (uint)image.ModuleLength);
            target.SetItem(FirmwareItem.InitrdData, request.Modules[0].Content);
        }
        target.SetFile("etc/e820", MemoryFile(memory));
        target.SetFile(RootFile, tables.RootPointer(0));
        target.SetFile(TablesFile, tables.Relocatable);
        target.SetFile(ScriptFile, LoaderScript(tables));
    }

    /// <summary>RAM and reservations of the board in entries of 20 bytes, without what firmware itself takes.</summary>
    private static byte[] MemoryFile(PhysicalMemory memory)
    {
        var regions = new List<MemoryRegion>
        {
            new(0, memory.LowSize, MemoryRegionType.Usable),
            new(BoardLayout.EcamBase, BoardLayout.EcamLength, MemoryRegionType.Reserved),
        };
        if (memory.HighSize > 0)
            regions.Add(new(PhysicalMemory.HighBase, memory.HighSize, MemoryRegionType.Usable));
        byte[] file = new byte[regions.Count * 20];
        for (int i = 0; i < regions.Count; i++)
        {
            Span<byte> entry = file.AsSpan(i * 20, 20);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, regions[i].Base);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], regions[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)regions[i].Type);
        }
        return file;
    }

    private static byte[] LoaderScript(AcpiTables tables)
    {
        var script = new List<byte>();
        void Command(uint command, Action<byte[]> fill)
        {
            byte[] bytes = new byte[CommandSize];
            BinaryPrimitives.WriteUInt32LittleEndian(bytes, command);
            fill(bytes);
            script.AddRange(bytes);
        }
        void AllocateFile(string name, uint alignment, byte zone) => Command(Allocate, bytes =>
        {
            Encoding.ASCII.GetBytes(name, bytes.AsSpan(4, NameSize));
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(60), alignment);
            bytes[64] = zone;
        });
        void Point(string file, int offset, int size) => Command(AddPointer, bytes =>
        {
            Encoding.ASCII.GetBytes(file, bytes.AsSpan(4, NameSize));
            Encoding.ASCII.GetBytes(TablesFile, bytes.AsSpan(4 + NameSize, NameSize));
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(4 + 2 * NameSize), offset);
            bytes[4 + 2 * NameSize + 4] = (byte)size;
        });
        void Sum(string file, int offset, int start, int length) => Command(AddChecksum, bytes =>
        {
            Encoding.ASCII.GetBytes(file, bytes.AsSpan(4, NameSize));
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(60), offset);
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(64), start);
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(68), length);
        });

        AllocateFile(TablesFile, 64, HighZone);
        AllocateFile(RootFile, 16, FirmwareSegmentZone);
        foreach (AcpiPointer pointer in tables.Pointers)
            Point(TablesFile, pointer.Offset, pointer.Size);
        foreach ((int offset, int length) in tables.Tables)
            Sum(TablesFile, offset + 9, offset, length);
        Point(RootFile, 16, 4);
        Point(RootFile, 24, 8);
        Sum(RootFile, 8, 0, 20);
        Sum(RootFile, 32, 0, AcpiTables.RsdpLength);
        return [.. script];
    }
}
