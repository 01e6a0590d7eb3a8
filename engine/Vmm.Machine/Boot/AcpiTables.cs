using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Acpi;
using Vmm.Devices.Board;
using Vmm.Devices.Interrupts;
using Vmm.Devices.Platform;
using Vmm.Devices.Timers;

namespace Vmm.Machine.Boot;

/// <summary>What the ACPI tables say about a machine.</summary>
/// <param name="Cpus">Virtual processors; their APIC IDs are 0 to Cpus - 1.</param>
/// <param name="HasHpet">Whether there is an HPET.</param>
public sealed record AcpiOptions(int Cpus, bool HasHpet)
{
    /// <summary>Virtual processors that there may come to be, with the APIC IDs that follow.</summary>
    public int MaxCpus { get; init; } = Cpus;

    /// <summary>Whether the board has the <see cref="CpuHotplug"/> block, for no more processors than it has bits.</summary>
    public bool HasCpuHotplug { get; init; }

    /// <summary>What a board has now.</summary>
    public static AcpiOptions Of(PcBoard board) => new(board.Cpus, board.HasHpet) { MaxCpus = board.MaxCpus, HasCpuHotplug = board.HasCpuHotplug };
}

/// <summary>A pointer from one place in the tables to another.</summary>
/// <param name="Offset">Where it stands in the tables.</param>
/// <param name="Size">4 or 8 bytes.</param>
/// <param name="Target">The offset that it points to.</param>
public readonly record struct AcpiPointer(int Offset, int Size, int Target);

/// <summary>
/// The ACPI tables of the standard board (ACPI 6.5, section 5.2), made in a form that can be placed anywhere: pointers hold
/// offsets until <see cref="PlaceAt"/>, and the same form goes to fw_cfg for firmware to place.
/// </summary>
public sealed class AcpiTables
{
    /// <summary>The length of the root pointer of revision 2.</summary>
    public const int RsdpLength = 36;

    /// <summary>The address of the local APICs.</summary>
    private const uint LocalApicAddress = 0xFEE0_0000;

    private const int HeaderLength = 36;
    private const int ChecksumOffset = 9;
    private const int FadtLength = 276;

    private readonly List<byte> _bytes = [];
    private readonly List<AcpiPointer> _pointers = [];
    private readonly List<(int Offset, int Length)> _tables = [];

    /// <summary>Makes the tables.</summary>
    public AcpiTables(AcpiOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        int facs = AddFacs();
        int dsdt = AddTable("DSDT", 2, DifferentiatedDescription.Build(options));
        var roots = new List<int> { AddFadt(facs, dsdt), AddTable("APIC", 5, MadtBody(options)) };
        if (options.HasHpet)
            roots.Add(AddTable("HPET", 1, HpetBody()));
        roots.Add(AddTable("MCFG", 1, McfgBody()));
        RsdtOffset = AddRoot("RSDT", 4, roots);
        XsdtOffset = AddRoot("XSDT", 8, roots);
    }

    /// <summary>The tables without the root pointer, with offsets for pointers and without checksums.</summary>
    public ReadOnlyMemory<byte> Relocatable => _bytes.ToArray();

    /// <summary>The pointers in <see cref="Relocatable"/>.</summary>
    public IReadOnlyList<AcpiPointer> Pointers => _pointers;

    /// <summary>Offset and length of each table that carries a checksum in byte 9.</summary>
    public IReadOnlyList<(int Offset, int Length)> Tables => _tables;

    /// <summary>Where the RSDT is.</summary>
    public int RsdtOffset { get; }

    /// <summary>Where the XSDT is.</summary>
    public int XsdtOffset { get; }

    /// <summary>The tables for an address, finished.</summary>
    /// <param name="address">Below 4 GiB, a multiple of 64.</param>
    public byte[] PlaceAt(uint address)
    {
        byte[] bytes = [.. _bytes];
        foreach (AcpiPointer pointer in _pointers)
        {
            Span<byte> at = bytes.AsSpan(pointer.Offset, pointer.Size);
            at.Clear();
            BinaryPrimitives.WriteUInt32LittleEndian(at, address + (uint)pointer.Target);
        }
        foreach ((int offset, int length) in _tables)
            bytes[offset + ChecksumOffset] = Checksum(bytes.AsSpan(offset, length));
        return bytes;
    }

    /// <summary>The root pointer (section 5.2.5.3).</summary>
    /// <param name="tables">Where the tables are; 0 gives the relocatable form.</param>
    public byte[] RootPointer(uint tables)
    {
        byte[] rsdp = new byte[RsdpLength];
        "RSD PTR "u8.CopyTo(rsdp);
        "VMM   "u8.CopyTo(rsdp.AsSpan(9));
        rsdp[15] = 2;
        BinaryPrimitives.WriteUInt32LittleEndian(rsdp.AsSpan(16), tables + (uint)RsdtOffset);
        BinaryPrimitives.WriteUInt32LittleEndian(rsdp.AsSpan(20), RsdpLength);
        BinaryPrimitives.WriteUInt64LittleEndian(rsdp.AsSpan(24), tables + (uint)XsdtOffset);
        if (tables != 0)
        {
            rsdp[8] = Checksum(rsdp.AsSpan(0, 20));
            rsdp[32] = Checksum(rsdp);
        }
        return rsdp;
    }

    /// <summary>What makes the sum of all bytes zero.</summary>
    private static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes)
            sum += b;
        return (byte)-sum;
    }

    private int Align(int alignment)
    {
        while (_bytes.Count % alignment != 0)
            _bytes.Add(0);
        return _bytes.Count;
    }

    private int AddTable(string signature, byte revision, byte[] body)
    {
        int offset = Align(16);
        byte[] header = new byte[HeaderLength];
        Encoding.ASCII.GetBytes(signature, header);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(4), (uint)(HeaderLength + body.Length));
        header[8] = revision;
        "VMM   "u8.CopyTo(header.AsSpan(10));
        "VMMBOARD"u8.CopyTo(header.AsSpan(16));
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(24), 1);
        "VMM "u8.CopyTo(header.AsSpan(28));
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(32), 1);
        _bytes.AddRange(header);
        _bytes.AddRange(body);
        _tables.Add((offset, HeaderLength + body.Length));
        return offset;
    }

    private int AddRoot(string signature, int pointerSize, List<int> targets)
    {
        int offset = AddTable(signature, 1, new byte[targets.Count * pointerSize]);
        for (int i = 0; i < targets.Count; i++)
            AddPointer(offset + HeaderLength + i * pointerSize, pointerSize, targets[i]);
        return offset;
    }

    private void AddPointer(int offset, int size, int target)
    {
        _pointers.Add(new(offset, size, target));
        for (int i = 0; i < 4; i++)
            _bytes[offset + i] = (byte)(target >> i * 8);
    }

    /// <summary>Section 5.2.10: no checksum, aligned to 64 bytes.</summary>
    private int AddFacs()
    {
        int offset = Align(64);
        byte[] facs = new byte[64];
        "FACS"u8.CopyTo(facs);
        facs[4] = 64;
        facs[32] = 2;
        _bytes.AddRange(facs);
        return offset;
    }

    /// <summary>Section 5.2.9; offsets in comments' stead are those of table 5.9, which count from the table's start.</summary>
    private int AddFadt(int facs, int dsdt)
    {
        byte[] body = new byte[FadtLength - HeaderLength];
        Span<byte> At(int offset) => body.AsSpan(offset - HeaderLength);
        void Port(int offset, int extendedOffset, ushort port, byte length, int lengthOffset)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(At(offset), port);
            At(lengthOffset)[0] = length;
            // PM1 and timer blocks are accessed as words and dwords, as long as they are.
            GenericAddress(1, port, (byte)(length * 8)).CopyTo(At(extendedOffset));
        }

        BinaryPrimitives.WriteUInt16LittleEndian(At(46), PowerManagement.SciIrq);
        Port(56, 148, PowerManagement.EventBlock, 4, 88);
        Port(64, 172, PowerManagement.ControlBlock, 2, 89);
        Port(76, 208, PowerManagement.TimerBlock, 4, 91);
        Port(80, 220, PowerManagement.GeneralEventBlock, 4, 92);
        // Latencies above 100 and 1000 µs: no C2, no C3.
        BinaryPrimitives.WriteUInt16LittleEndian(At(96), 0x0FFF);
        BinaryPrimitives.WriteUInt16LittleEndian(At(98), 0x0FFF);
        At(108)[0] = RealTimeClock.Century;
        // IAPC_BOOT_ARCH: devices on the ISA bus, no VGA, and no 8042 that would be worth a probe.
        BinaryPrimitives.WriteUInt16LittleEndian(At(109), 1 << 0 | 1 << 2);
        // Flags: WBINVD works, C1 on all processors, no sleep button, no RTC wake status, reset register.
        BinaryPrimitives.WriteUInt32LittleEndian(At(112), 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10);
        GenericAddress(1, ResetControl.Port, 8).CopyTo(At(116));
        At(128)[0] = ResetControl.FullReset;
        // ACPI 6.3: from there on a guest heeds the MADT's "online capable".
        At(131)[0] = 3;
        int offset = AddTable("FACP", 6, body);
        AddPointer(offset + 36, 4, facs);
        AddPointer(offset + 40, 4, dsdt);
        AddPointer(offset + 140, 8, dsdt);
        return offset;
    }

    /// <summary>Section 5.2.3.2: address space 0 is memory and 1 is I/O ports.</summary>
    private static byte[] GenericAddress(byte space, ulong address, byte bits)
    {
        byte[] bytes = new byte[12];
        bytes[0] = space;
        bytes[1] = bits;
        bytes[3] = bits switch { 8 => 1, 16 => 2, 32 when address == PowerManagement.TimerBlock => 3, _ => 2 };
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(4), address);
        return bytes;
    }

    /// <summary>Section 5.2.12, revision 5 for "online capable". Processors beyond APIC ID 254 would need x2APIC entries, and only those have them.</summary>
    private static byte[] MadtBody(AcpiOptions options)
    {
        var body = new List<byte>();
        void Add32(uint value)
        {
            for (int i = 0; i < 4; i++)
                body.Add((byte)(value >> i * 8));
        }

        Add32(LocalApicAddress);
        // The 8259 pair is there as well.
        Add32(1);
        for (int id = 0; id < options.MaxCpus; id++)
            body.AddRange(LocalApicEntry(id, isEnabled: id < options.Cpus));
        body.AddRange([1, 12, (byte)options.MaxCpus, 0]);
        Add32((uint)IoApic.DefaultAddress);
        Add32(0);
        // Interrupt source overrides: the timer is on pin 2; ACPI's interrupt is an active-high level.
        body.AddRange([2, 10, 0, 0]);
        Add32((uint)BoardLayout.PinOfIrq(0));
        body.AddRange([0, 0]);
        body.AddRange([2, 10, 0, PowerManagement.SciIrq]);
        Add32(PowerManagement.SciIrq);
        body.AddRange([0x0D, 0]);
        // NMI on LINT1 of every processor.
        body.AddRange([4, 6, 0xFF, 0, 0, 1]);
        return [.. body];
    }

    /// <summary>
    /// A processor's entry in the MADT, which is what its _MAT gives, too (sections 5.2.12.2, 5.2.12.12 and 6.2.10): enabled, or one
    /// that is not there and may come to be. Its processor UID is its APIC ID.
    /// </summary>
    internal static byte[] LocalApicEntry(int id, bool isEnabled)
    {
        byte flags = (byte)(isEnabled ? 1 << 0 : 1 << 1);
        if (id < 255)
            return [0, 8, (byte)id, (byte)id, flags, 0, 0, 0];
        byte[] entry = new byte[16];
        entry[0] = 9;
        entry[1] = 16;
        BinaryPrimitives.WriteInt32LittleEndian(entry.AsSpan(4), id);
        entry[8] = flags;
        BinaryPrimitives.WriteInt32LittleEndian(entry.AsSpan(12), id);
        return entry;
    }

    /// <summary>IA-PC HPET Specification 1.0a, section 3.2.4.</summary>
    private static byte[] HpetBody()
    {
        byte[] body = new byte[20];
        BinaryPrimitives.WriteUInt32LittleEndian(body, Hpet.BlockId);
        GenericAddress(0, BoardLayout.HpetBase, 64).CopyTo(body, 4);
        body[7] = 0;
        // The shortest period in ticks that loses no periodic interrupt.
        BinaryPrimitives.WriteUInt16LittleEndian(body.AsSpan(17), 100);
        return body;
    }

    /// <summary>PCI Firmware Specification 3.0, section 4.1.2: segment 0, bus 0.</summary>
    private static byte[] McfgBody()
    {
        byte[] body = new byte[24];
        BinaryPrimitives.WriteUInt64LittleEndian(body.AsSpan(8), BoardLayout.EcamBase);
        return body;
    }
}
