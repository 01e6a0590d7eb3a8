using Vmm.Devices.Acpi;

namespace Vmm.Machine.Boot;

/// <summary>
/// The processors in the DSDT of a board to which some can be added, with the methods that read the <see cref="CpuHotplug"/> block
/// (ACPI 6.5, sections 5.6.4, 5.6.6, 6.2.10 and 8.4).
/// </summary>
internal static class Processors
{
    // Present, enabled, shown, functioning (section 6.3.7).
    private const ulong Everything = 0x0F;

    // What is notified here is to be looked at (table 5.161).
    private const ulong DeviceCheck = 1;

    /// <summary>The region with its fields, and a device for each processor, for the scope \_SB.</summary>
    internal static IEnumerable<byte[]> Devices(int count)
    {
        IEnumerable<int> all = Enumerable.Range(0, count);
        yield return Aml.PortRegion("CPHP", CpuHotplug.Block, CpuHotplug.Length);
        yield return Aml.BitField("CPHP", 0, all.Select(Present));
        yield return Aml.BitField("CPHP", CpuHotplug.AddedOffset * 8, all.Select(Added));
        foreach (int cpu in all)
        {
            yield return Aml.Device(
                Name(cpu),
                Aml.Name("_HID", Aml.Text("ACPI0007")),
                Aml.Name("_UID", Aml.Integer((ulong)cpu)),
                Aml.Method("_STA", 0, Aml.If(Aml.Path(Present(cpu)), Aml.Return(Aml.Integer(Everything))), Aml.Return(Aml.Integer(0))),
                Aml.Method("_MAT", 0,
                    Aml.If(Aml.Path(Present(cpu)), Aml.Return(Aml.Buffer(AcpiTables.LocalApicEntry(cpu, isEnabled: true)))),
                    Aml.Return(Aml.Buffer(AcpiTables.LocalApicEntry(cpu, isEnabled: false)))));
        }
    }

    /// <summary>
    /// The general-purpose event: an edge, so the guest has cleared its status before this looks, and a processor that is added meanwhile
    /// raises it anew.
    /// </summary>
    internal static byte[] Events(int count) => Aml.Scope("\\_GPE", Aml.Method($"_E{CpuHotplug.Event:X2}", 0, [.. Enumerable.Range(0, count).Select(cpu =>
        Aml.If(Aml.Path($"\\_SB.{Added(cpu)}"), Aml.Store(Aml.Integer(1), Aml.Path($"\\_SB.{Added(cpu)}")), Aml.Notify($"\\_SB.{Name(cpu)}", DeviceCheck)))]));

    private static string Name(int cpu) => $"CP{cpu:X2}";

    private static string Present(int cpu) => $"PR{cpu:X2}";

    private static string Added(int cpu) => $"AD{cpu:X2}";
}
