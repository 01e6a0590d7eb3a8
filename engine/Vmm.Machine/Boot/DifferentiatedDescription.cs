using Vmm.Devices.Acpi;
using Vmm.Devices.Board;
using Vmm.Devices.Pci;

namespace Vmm.Machine.Boot;

/// <summary>The definition block of the DSDT: what of the board a guest cannot find out by itself.</summary>
internal static class DifferentiatedDescription
{
    /// <param name="options">What the board has.</param>
    internal static byte[] Build(AcpiOptions options)
    {
        var devices = new List<byte[]> { PciRoot(), MotherboardResources(), RealTimeClock() };
        for (int i = 0; i < BoardLayout.SerialPorts.Count; i++)
            devices.Add(SerialPort(i));
        if (options.HasHpet)
            devices.Add(Hpet());
        byte[] events = [];
        if (options.HasCpuHotplug)
        {
            devices.AddRange(Processors.Devices(options.MaxCpus));
            events = Processors.Events(options.MaxCpus);
        }
        return Aml.Concat(
            // Set by the guest to 1 when it uses the I/O APIC (section 5.8.1).
            Aml.Name("\\PICF", Aml.Integer(0)),
            Aml.Method("\\_PIC", 1, Aml.Store(Aml.Argument(0), Aml.Path("PICF"))),
            Aml.Name("\\_S5", Aml.Package(Aml.Integer(PowerManagement.SoftOffType), Aml.Integer(PowerManagement.SoftOffType), Aml.Integer(0), Aml.Integer(0))),
            Aml.Scope("\\_SB", [.. devices]),
            events);
    }

    private static byte[] PciRoot() => Aml.Device(
        "PCI0",
        Aml.Name("_HID", Aml.EisaId("PNP0A03")),
        Aml.Name("_UID", Aml.Integer(0)),
        Aml.Name("_BBN", Aml.Integer(0)),
        Aml.Name("_CRS", Aml.Resources(
            Aml.BusNumbers(0, 0),
            Aml.Ports(0xCF8, 8),
            Aml.PortWindow(0x0000, 0x0CF7),
            Aml.PortWindow(0x0D00, 0xFFFF),
            Aml.MemoryWindow(0x000A_0000, 0x000B_FFFF),
            Aml.MemoryWindow((uint)BoardLayout.PciMemoryBase, (uint)(BoardLayout.PciMemoryBase + BoardLayout.PciMemoryLength - 1)))),
        Aml.Name("PRTP", Routing(wire => BoardLayout.PciLegacyIrqs[wire])),
        Aml.Name("PRTA", Routing(wire => BoardLayout.PciFirstPin + wire)),
        Aml.Method("_PRT", 0,
            Aml.If(Aml.Path("PICF"), Aml.Return(Aml.Path("PRTA"))),
            Aml.Return(Aml.Path("PRTP"))));

    /// <summary>Every slot's INTA to INTD, each wired to a global system interrupt for good (section 6.2.13).</summary>
    private static byte[] Routing(Func<int, int> interruptOfWire)
    {
        var entries = new List<byte[]>();
        for (int slot = 1; slot < PciHost.SlotCount; slot++)
        {
            for (int pin = 0; pin < 4; pin++)
            {
                int wire = PciHost.WireOf(slot + pin);
                entries.Add(Aml.Package(
                    Aml.Integer((ulong)slot << 16 | 0xFFFF), Aml.Integer((ulong)pin), Aml.Integer(0), Aml.Integer((ulong)interruptOfWire(wire))));
            }
        }
        return Aml.Package([.. entries]);
    }

    /// <summary>What is taken and belongs to no other device: ECAM, as the PCI Firmware Specification wants it, and ACPI's ports.</summary>
    private static byte[] MotherboardResources() => Aml.Device(
        "MBRD",
        Aml.Name("_HID", Aml.EisaId("PNP0C02")),
        Aml.Name("_UID", Aml.Integer(0)),
        Aml.Name("_CRS", Aml.Resources(
            Aml.FixedMemory((uint)BoardLayout.EcamBase, (uint)BoardLayout.EcamLength),
            Aml.Ports(PowerManagement.EventBlock, CpuHotplug.Block + CpuHotplug.Length - PowerManagement.EventBlock))));

    private static byte[] RealTimeClock() => Aml.Device(
        "RTC",
        Aml.Name("_HID", Aml.EisaId("PNP0B00")),
        Aml.Name("_CRS", Aml.Resources(Aml.Ports(0x70, 2), Aml.Irq(8))));

    private static byte[] SerialPort(int index) => Aml.Device(
        $"COM{index + 1}",
        Aml.Name("_HID", Aml.EisaId("PNP0501")),
        Aml.Name("_UID", Aml.Integer((ulong)index + 1)),
        Aml.Name("_CRS", Aml.Resources(Aml.Ports(BoardLayout.SerialPorts[index], 8), Aml.Irq(BoardLayout.SerialIrqs[index]))));

    private static byte[] Hpet() => Aml.Device(
        "HPET",
        Aml.Name("_HID", Aml.EisaId("PNP0103")),
        Aml.Name("_UID", Aml.Integer(0)),
        Aml.Name("_CRS", Aml.Resources(Aml.FixedMemory((uint)BoardLayout.HpetBase, 0x400))));
}
