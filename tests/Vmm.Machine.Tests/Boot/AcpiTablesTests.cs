using System.Buffers.Binary;
using System.Text;
using Vmm.Machine.Boot;
using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Machine.Tests.Boot;

public sealed class AcpiTablesTests
{
    private static byte Sum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes)
            sum += b;
        return sum;
    }

    private static byte[] Read(PhysicalMemory memory, ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Assert.True(memory.TryRead(address, bytes));
        return bytes;
    }

    private static Dictionary<string, byte[]> WalkFromRoot(PhysicalMemory memory, ulong rsdp, bool extended)
    {
        byte[] root = Read(memory, rsdp, AcpiTables.RsdpLength);
        Assert.Equal("RSD PTR ", Encoding.ASCII.GetString(root, 0, 8));
        Assert.Equal(0, Sum(root.AsSpan(0, 20)));
        Assert.Equal(0, Sum(root));
        ulong at = extended ? BinaryPrimitives.ReadUInt64LittleEndian(root.AsSpan(24)) : BinaryPrimitives.ReadUInt32LittleEndian(root.AsSpan(16));
        byte[] list = ReadTable(memory, at);
        var tables = new Dictionary<string, byte[]>();
        int size = extended ? 8 : 4;
        for (int i = 36; i < list.Length; i += size)
        {
            ulong address = extended ? BinaryPrimitives.ReadUInt64LittleEndian(list.AsSpan(i)) : BinaryPrimitives.ReadUInt32LittleEndian(list.AsSpan(i));
            byte[] table = ReadTable(memory, address);
            tables[Encoding.ASCII.GetString(table, 0, 4)] = table;
        }
        byte[] fadt = tables["FACP"];
        tables["DSDT"] = ReadTable(memory, BinaryPrimitives.ReadUInt64LittleEndian(fadt.AsSpan(140)));
        Assert.Equal("FACS", Encoding.ASCII.GetString(Read(memory, BinaryPrimitives.ReadUInt32LittleEndian(fadt.AsSpan(36)), 4)));
        return tables;
    }

    private static byte[] ReadTable(PhysicalMemory memory, ulong address)
    {
        int length = BinaryPrimitives.ReadInt32LittleEndian(Read(memory, address + 4, 4));
        byte[] table = Read(memory, address, length);
        Assert.Equal(0, Sum(table));
        return table;
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void EveryTableIsFoundFromTheRootWithAValidChecksum(bool extended)
    {
        using var memory = new PhysicalMemory(2 << 20);
        ulong rsdp = Firmware.InstallAcpi(memory, new AcpiTables(new AcpiOptions(4, HasHpet: true)));
        Dictionary<string, byte[]> tables = WalkFromRoot(memory, rsdp, extended);
        Assert.Equal(["APIC", "DSDT", "FACP", "HPET", "MCFG"], tables.Keys.Order());
        Assert.Equal(276, tables["FACP"].Length);
        // One local APIC entry for each processor, enabled, with IDs from 0.
        byte[] madt = tables["APIC"];
        var ids = new List<int>();
        for (int at = 44; at < madt.Length; at += madt[at + 1])
        {
            if (madt[at] == 0)
            {
                Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(madt.AsSpan(at + 4)));
                ids.Add(madt[at + 3]);
            }
        }
        Assert.Equal([0, 1, 2, 3], ids);
        DumpForInspection(tables);
    }

    [Fact]
    public void ProcessorsThatMayComeToBeAreOnlineCapableAndHaveDevices()
    {
        using var memory = new PhysicalMemory(2 << 20);
        ulong rsdp = Firmware.InstallAcpi(memory, new AcpiTables(new AcpiOptions(2, HasHpet: true) { MaxCpus = 16, HasCpuHotplug = true }));
        Dictionary<string, byte[]> tables = WalkFromRoot(memory, rsdp, extended: true);
        byte[] madt = tables["APIC"], fadt = tables["FACP"], dsdt = tables["DSDT"];
        var flags = new List<uint>();
        for (int at = 44; at < madt.Length; at += madt[at + 1])
        {
            if (madt[at] == 0)
                flags.Add(BinaryPrimitives.ReadUInt32LittleEndian(madt.AsSpan(at + 4)));
            // The I/O APIC's ID is none of a processor's.
            else if (madt[at] == 1)
                Assert.Equal(16, madt[at + 2]);
        }
        // ACPI 6.5, table 5.22: enabled is bit 0, online capable bit 1, and the two exclude each other. Linux heeds the second
        // from version 6.3 of the FADT on.
        Assert.Equal([1u, 1u, .. Enumerable.Repeat(2u, 14)], flags);
        Assert.Equal((5, 6, 3), (madt[8], fadt[8], fadt[131]));
        string names = Encoding.Latin1.GetString(dsdt);
        Assert.All(Enumerable.Range(0, 16), cpu => Assert.Contains($"CP{cpu:X2}", names, StringComparison.Ordinal));
        Assert.Contains("_E02", names, StringComparison.Ordinal);
        DumpForInspection(tables);

        byte[] without = WalkFromRoot(memory, Firmware.InstallAcpi(memory, new AcpiTables(new AcpiOptions(2, HasHpet: true))), extended: true)["DSDT"];
        Assert.DoesNotContain("_E02", Encoding.Latin1.GetString(without), StringComparison.Ordinal);
    }

    /// <summary>With VMM_DUMP_ACPI naming a directory, leaves the tables there for iasl -d.</summary>
    private static void DumpForInspection(Dictionary<string, byte[]> tables)
    {
        if (Environment.GetEnvironmentVariable("VMM_DUMP_ACPI") is not { Length: > 0 } directory)
            return;
        foreach ((string name, byte[] table) in tables)
            File.WriteAllBytes(Path.Combine(directory, $"{name}.aml"), table);
    }

    [Fact]
    public void SixteenProcessorsFitIntoTheFirmwareArea()
    {
        using var memory = new PhysicalMemory(1 << 20);
        ulong rsdp = Firmware.InstallAcpi(memory, new AcpiTables(new AcpiOptions(16, HasHpet: true)));
        Assert.Contains("DSDT", WalkFromRoot(memory, rsdp, extended: true));
    }

    [Fact]
    public void ProcessorsBeyondTheXapicHaveX2apicEntries()
    {
        using var memory = new PhysicalMemory(1 << 20);
        ulong rsdp = Firmware.InstallAcpi(memory, new AcpiTables(new AcpiOptions(257, HasHpet: false)));
        byte[] madt = WalkFromRoot(memory, rsdp, extended: true)["APIC"];
        var extended = new List<uint>();
        for (int at = 44; at < madt.Length; at += madt[at + 1])
        {
            if (madt[at] == 9)
                extended.Add(BinaryPrimitives.ReadUInt32LittleEndian(madt.AsSpan(at + 4)));
        }
        Assert.Equal([255u, 256u], extended);
    }
}
