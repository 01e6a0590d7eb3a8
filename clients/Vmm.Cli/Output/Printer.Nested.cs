using System.Text.Json;
using Spectre.Console;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>The guest's own VMX operation.</content>
internal sealed partial class Printer
{
    /// <summary>L1's VMX operation on a vCPU.</summary>
    public void Nested(VcpuNested nested)
    {
        if (IsJson)
        {
            Json(nested);
            return;
        }

        var text = console.Text;
        text.WriteLine($"vcpu {nested.Vcpu}  L{nested.Level} runs{(nested.RunPending ? ", entered just now" : "")}  {nested.InstructionsRetired} instructions");
        text.WriteLine(nested.VmxOn ? $"vmx on, vmxon pointer {nested.VmxonPointer:x}" : "vmx off");
        if (nested.HasCurrentVmcsPointer)
            text.WriteLine($"current vmcs {nested.CurrentVmcsPointer:x}, {Words.Of(nested.LaunchState)}{(nested.ShadowVmcs ? ", shadow" : "")}");
        Exit("last exit to L1", nested.LastExit);
        Exit("last exit to L0", nested.LastHardwareExit);
    }

    /// <summary>A nested state, taken to pieces.</summary>
    public void NestedState(DecodedNestedState state)
    {
        if (IsJson)
        {
            Json(state);
            return;
        }

        console.Text.WriteLine(state.HasVmxonPointer ? $"vmx on, vmxon pointer {state.VmxonPointer:x}" : "vmx off");
        if (state.GuestMode)
            console.Text.WriteLine($"L2 is active{(state.RunPending ? ", entered just now" : "")}");
        if (state.Enlightened)
            console.Text.WriteLine("the vmcs is an enlightened one");
        if (state.SmmVmxon)
            console.Text.WriteLine($"an SMI has interrupted {(state.SmmGuestMode ? "L2" : "L1")}, in VMX operation");
        if (state.HasPreemptionTimerDeadline)
            console.Text.WriteLine($"preemption timer ends at {state.PreemptionTimerDeadline}");
        Region($"vmcs12 at {state.CurrentVmcsPointer:x}", state.Vmcs12);
        Region("its shadow vmcs", state.ShadowVmcs12);
    }

    private void Region(string title, VmcsRegion? region)
    {
        if (region is null)
            return;
        console.Text.WriteLine($"{title}, revision {region.Revision:x}, {Words.Of(region.LaunchState)}{(region.Shadow ? ", shadow" : "")}");
        Fields(region.Fields);
    }

    /// <summary>A record of a trace, on one line; before it, on one of its own, what was lost.</summary>
    public void TracedExit(TracedExit record)
    {
        if (IsJson)
        {
            JsonLine(record);
            return;
        }

        TraceGap(record.LostBefore);
        var what = record.HasReason ? $"{record.Reason & 0xFFFF,2} {record.ReasonName}"
            : record.VmInstructionError != 0 ? $"VM-instruction error {record.VmInstructionError}"
            : record.Decode.Length > 0 ? $"injects {record.Decode}" : "";
        var line = $"{record.Instructions,14}  vcpu {record.Vcpu}  L{record.Level} {Words.Of(record.Kind),-13} {Words.Of(record.Owner)}  rip {record.GuestRip:x16}  {what}";
        if (record.Qualification != 0)
            line += $"  qualification {record.Qualification:x}";
        if (record.HasReason && record.Decode.Length > 0)
            line += $"  {record.Decode}";
        if (record.HasGuestPhysicalAddress)
            line += $"  physical {record.GuestPhysicalAddress:x}";
        if (record.HasGuestLinearAddress)
            line += $"  linear {record.GuestLinearAddress:x}";
        console.Text.WriteLine(line.TrimEnd());
    }

    /// <summary>Says, on a line of its own, how many records of a trace were lost; nothing where none were.</summary>
    public void TraceGap(ulong lost)
    {
        if (lost > 0)
            console.Text.WriteLine(IsJson ? JsonSerializer.Serialize(new { lost }) : $"{"",14}  {lost} records lost");
    }

    /// <summary>How often what happened in a trace.</summary>
    public void ExitSummary(IReadOnlyList<(ExitSummary.Key Key, long Count)> counts, ulong lost)
    {
        if (IsJson)
        {
            foreach (var (key, count) in counts)
                console.Text.WriteLine(JsonSerializer.Serialize(new { count, level = key.Level, kind = Words.Of(key.Kind), owner = Words.Of(key.Owner), reason = key.Reason }));
            console.Text.WriteLine(JsonSerializer.Serialize(new { lost }));
            return;
        }

        var table = NewTable("COUNT", "LEVEL", "KIND", "OWNER", "REASON");
        foreach (var (key, count) in counts)
            table.AddRow(Cell($"{count,9}"), Cell($"L{key.Level}"), Cell(Words.Of(key.Kind)), Cell(Words.Of(key.Owner)), Cell(key.Reason));
        Write(table);
        if (lost > 0)
            console.Text.WriteLine($"{lost,9} records were lost and are in no count");
    }

    private void Exit(string title, VmExit? exit)
    {
        if (exit is null)
            return;
        console.Text.WriteLine(
            $"{title}  {exit.Reason & 0xFFFF} {exit.ReasonName}  qualification {exit.Qualification:x}{(exit.Decode.Length > 0 ? $"  {exit.Decode}" : "")}");
    }
}
