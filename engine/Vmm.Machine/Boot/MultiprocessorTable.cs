using System.Buffers.Binary;
using Vmm.Devices.Acpi;
using Vmm.Devices.Board;
using Vmm.Devices.Interrupts;
using Vmm.Devices.Pci;

namespace Vmm.Machine.Boot;

/// <summary>
/// The configuration table of Intel's MultiProcessor Specification 1.4 (chapter 4), for guests that do not read ACPI: what the
/// MADT and the _PRT say, in the older form.
/// </summary>
internal static class MultiprocessorTable
{
    /// <summary>The length of the floating pointer structure.</summary>
    internal const int PointerLength = 16;

    private const int HeaderLength = 44;
    private const uint LocalApicAddress = 0xFEE0_0000;
    private const byte LocalApicVersion = 0x14;
    private const byte IoApicVersion = 0x20;
    private const byte PciBus = 0;
    private const byte IsaBus = 1;
    private const byte AllLocalApics = 0xFF;

    // Interrupt types and flags (table 4-10): polarity in bits 0 and 1, trigger mode in bits 2 and 3.
    private const byte Vectored = 0;
    private const byte NonMaskable = 1;
    private const byte External = 3;
    private const ushort AsTheBus = 0x0;
    private const ushort LevelHigh = 0xD;
    private const ushort LevelLow = 0xF;

    /// <summary>The floating pointer structure (section 4.1).</summary>
    internal static byte[] FloatingPointer(uint table)
    {
        byte[] bytes = new byte[PointerLength];
        "_MP_"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), table);
        bytes[8] = PointerLength / 16;
        bytes[9] = 4;
        bytes[10] = Checksum(bytes);
        return bytes;
    }

    /// <param name="cpus">Virtual processors, with APIC IDs from 0.</param>
    /// <param name="ioApicId">The ID of the I/O APIC.</param>
    internal static byte[] Build(int cpus, int ioApicId)
    {
        byte ioApic = (byte)ioApicId;
        var entries = new List<byte[]>();
        for (int id = 0; id < cpus; id++)
            entries.Add(Processor((byte)id));
        entries.Add([1, PciBus, .. "PCI   "u8]);
        entries.Add([1, IsaBus, .. "ISA   "u8]);
        entries.Add([2, ioApic, IoApicVersion, 1, .. Bytes((uint)IoApic.DefaultAddress)]);
        for (int irq = 0; irq < 16; irq++)
        {
            if (irq != 2)
                entries.Add(Interrupt(3, Vectored, irq == PowerManagement.SciIrq ? LevelHigh : AsTheBus, IsaBus, irq, ioApic, BoardLayout.PinOfIrq(irq)));
        }
        for (int slot = 1; slot < PciHost.SlotCount; slot++)
        {
            for (int pin = 0; pin < 4; pin++)
                entries.Add(Interrupt(3, Vectored, LevelLow, PciBus, slot << 2 | pin, ioApic, BoardLayout.PciFirstPin + PciHost.WireOf(slot + pin)));
        }
        entries.Add(Interrupt(4, External, AsTheBus, IsaBus, 0, AllLocalApics, 0));
        entries.Add(Interrupt(4, NonMaskable, AsTheBus, IsaBus, 0, AllLocalApics, 1));

        byte[] table = [.. new byte[HeaderLength], .. entries.SelectMany(entry => entry)];
        "PCMP"u8.CopyTo(table);
        BinaryPrimitives.WriteUInt16LittleEndian(table.AsSpan(4), (ushort)table.Length);
        table[6] = 4;
        "VMM     VMM BOARD   "u8.CopyTo(table.AsSpan(8));
        BinaryPrimitives.WriteUInt16LittleEndian(table.AsSpan(34), (ushort)entries.Count);
        BinaryPrimitives.WriteUInt32LittleEndian(table.AsSpan(36), LocalApicAddress);
        table[7] = Checksum(table);
        return table;
    }

    /// <summary>Section 4.3.1; signature and features only name a family with an FPU and a local APIC, as CPUID tells the rest.</summary>
    private static byte[] Processor(byte id) =>
        [0, id, LocalApicVersion, (byte)(id == 0 ? 3 : 1), .. Bytes(0x0600), .. Bytes(0x0201), .. new byte[8]];

    /// <summary>Sections 4.3.4 and 4.3.5: an I/O or a local interrupt assignment.</summary>
    private static byte[] Interrupt(byte entry, byte type, ushort flags, byte bus, int source, byte controller, int input) =>
        [entry, type, (byte)flags, (byte)(flags >> 8), bus, (byte)source, controller, (byte)input];

    private static byte[] Bytes(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    private static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes)
            sum += b;
        return (byte)-sum;
    }
}
