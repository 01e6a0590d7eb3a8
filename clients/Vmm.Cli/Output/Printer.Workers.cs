using System.Globalization;
using Spectre.Console;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>Workers.</content>
internal sealed partial class Printer
{
    /// <summary>A table of workers: what is placed on each, of what it offers.</summary>
    public void Workers(IEnumerable<V1.Worker> workers)
    {
        var table = NewTable("WORKER", "STATE", "VMS", "RUNNING", "VCPUS", "MEMORY", "VERSION", "ADDRESS", "LABELS");
        foreach (var worker in workers)
        {
            var (used, all) = (worker.Reserved ?? new WorkerResources(), worker.Capacity ?? new WorkerResources());
            table.AddRow(
                Cell(ResourceNames.Id(worker.Name)),
                Cell(worker.State.ToString().ToLowerInvariant()),
                Cell(Part(used.Vms, all.Vms, int.MaxValue)),
                Cell(worker.RunningVms.ToString(CultureInfo.InvariantCulture)),
                Cell(Part(used.Vcpus, all.Vcpus, int.MaxValue)),
                Cell($"{Part(used.MemoryMib, all.MemoryMib, int.MaxValue)} MiB"),
                Cell(worker.Version),
                Cell(worker.Address),
                Cell(LabelText(worker.Labels)));
        }

        Write(table);
    }

    private static string Part(long used, long all, long limitless) => all >= limitless ? $"{used}" : $"{used} of {all}";
}
