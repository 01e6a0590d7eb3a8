using System.Globalization;
using Spectre.Console;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>Snapshots.</content>
internal sealed partial class Printer
{
    /// <summary>One snapshot.</summary>
    public void Snapshot(Snapshot snapshot)
    {
        if (IsJson)
            Json(snapshot);
        else
            Snapshots([snapshot]);
    }

    /// <summary>A table of snapshots.</summary>
    public void Snapshots(IEnumerable<Snapshot> snapshots)
    {
        var table = NewTable("SNAPSHOT", "VM", "MEMORY", "SIZE", "INSTRUCTIONS", "GUEST TIME", "CREATED");
        foreach (var snapshot in snapshots)
            table.AddRow(
                Cell(ShortName(snapshot.Name)),
                Cell(ResourceNames.Id(snapshot.Vm)),
                Cell($"{snapshot.Spec?.MemoryMib ?? 0} MiB"),
                Cell(SizeText(snapshot.SizeBytes)),
                Cell(snapshot.InstructionsRetired.ToString(CultureInfo.InvariantCulture)),
                Cell(snapshot.GuestTime is { } time ? string.Create(CultureInfo.InvariantCulture, $"{time.ToTimeSpan().TotalSeconds:0.000} s") : ""),
                Cell(snapshot.CreateTime?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss'Z'", CultureInfo.InvariantCulture) ?? ""));
        Write(table);
    }
}
