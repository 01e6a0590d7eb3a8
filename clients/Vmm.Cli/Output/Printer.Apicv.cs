using System.Globalization;
using Spectre.Console;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>APICv.</content>
internal sealed partial class Printer
{
    /// <summary>What a change of the inhibits has come to.</summary>
    public void ApicvChange(ApicvChange change)
    {
        if (IsJson)
        {
            Json(change);
            return;
        }

        console.Text.WriteLine($"inhibits {Words.Of(change.Reasons)}  generation {change.Generation}");
        var table = NewTable("VCPU", "STATE", "APICV", "APPLIED");
        foreach (var vcpu in change.Vcpus)
            table.AddRow(Cell(Number(vcpu.Vcpu)), Cell(Words.Of(vcpu.State)), Cell(ActiveText(vcpu.Active)), Cell(Number(vcpu.AppliedGeneration)));
        Write(table);
    }

    /// <summary>APICv of a VM.</summary>
    public void Apicv(Apicv apicv)
    {
        if (IsJson)
        {
            Json(apicv);
            return;
        }

        console.Text.WriteLine($"inhibits {Words.Of(apicv.Reasons)}  policy {Words.Of(apicv.Policy)}  generation {apicv.Generation}");
        var table = NewTable("VCPU", "APICV", "STATE", "APPLIED", "RUNS", "APIC");
        foreach (var vcpu in apicv.Vcpus)
            table.AddRow(
                Cell(Number(vcpu.Vcpu)),
                Cell(ActiveText(vcpu.Active)),
                Cell(Words.Of(vcpu.State)),
                Cell(Number(vcpu.AppliedGeneration)),
                Cell(vcpu.GuestMode ? "L2" : "L1"),
                Cell(vcpu.ApicMode));
        Write(table);
        foreach (var vcpu in apicv.Vcpus)
        {
            console.Text.WriteLine();
            console.Text.WriteLine($"vmcs01 of vcpu {vcpu.Vcpu}");
            Fields(vcpu.Vmcs01);
        }
    }

    /// <summary>An event of APICv, on one line.</summary>
    public void ApicvEvent(ApicvEvent item)
    {
        if (IsJson)
        {
            JsonLine(item);
            return;
        }

        if (item.Type == V1.ApicvEvent.Types.Type.Synced)
            return;
        var subject = item.Vcpu < 0 ? $"all    {Words.Of(item.Changed)}" : $"vcpu {item.Vcpu}";
        console.Text.WriteLine(
            $"{item.Instructions,14}  {Words.Of(item.Type),-24}  {subject,-22}  generation {item.Generation}  inhibits {Words.Of(item.Reasons)}  apicv {ActiveText(item.Active)}");
    }

    /// <summary>Fields of a VMCS, with what their bits mean.</summary>
    public void Fields(IEnumerable<VmcsFieldValue> fields)
    {
        var table = NewTable("FIELD", "ENCODING", "VALUE", "MEANING");
        foreach (var field in fields)
            table.AddRow(
                Cell(field.Name),
                Cell($"0x{field.Encoding:x4}"),
                Cell(field.Value.ToString($"x{Math.Clamp(field.Bits / 4, 1, 16)}", CultureInfo.InvariantCulture)),
                Cell(string.Join(", ", field.Decode)));
        Write(table);
    }

    private static string ActiveText(bool active) => active ? "active" : "off";

    private static string Number(IFormattable number) => number.ToString(null, CultureInfo.InvariantCulture);
}
