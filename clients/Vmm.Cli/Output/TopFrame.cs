using System.Globalization;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <summary>One VM at one moment, with what it did since the one before.</summary>
/// <param name="Vm">As the API has it.</param>
/// <param name="Rates">Since the moment before; null for a VM that does not run, or was not seen running before.</param>
internal sealed record TopRow(V1.Vm Vm, TopRates? Rates);

/// <summary>What a VM did between two moments.</summary>
/// <param name="Mips">Million instructions a second.</param>
/// <param name="L2Share">The share of L2 in them, from 0 to 1.</param>
/// <param name="L1Exits">VM exits of L1 a second.</param>
/// <param name="L2Exits">VM exits of L2 a second, those that L1 was given included.</param>
/// <param name="Processors">Processors of the host that it took.</param>
internal sealed record TopRates(double Mips, double L2Share, double L1Exits, double L2Exits, double Processors)
{
    /// <summary>The rates between two answers; null where the counters began anew meanwhile.</summary>
    public static TopRates? Between(ExecutionCounters before, ExecutionCounters after, TimeSpan time)
    {
        if (after.Instructions < before.Instructions || after.L1Exits < before.L1Exits || after.L2Exits + after.ReflectedExits < before.L2Exits + before.ReflectedExits || time <= TimeSpan.Zero)
            return null;
        var seconds = time.TotalSeconds;
        double instructions = after.Instructions - before.Instructions;
        return new TopRates(
            instructions / 1e6 / seconds,
            instructions == 0 || after.L2Instructions < before.L2Instructions ? 0 : Math.Min(1, (after.L2Instructions - before.L2Instructions) / instructions),
            (after.L1Exits - before.L1Exits) / seconds,
            (after.L2Exits + after.ReflectedExits - before.L2Exits - before.ReflectedExits) / seconds,
            ((after.ProcessorTime?.ToTimeSpan() ?? TimeSpan.Zero) - (before.ProcessorTime?.ToTimeSpan() ?? TimeSpan.Zero)).TotalSeconds / seconds);
    }
}

/// <summary>The lines of <c>vmmctl top</c>.</summary>
internal static class TopFrame
{
    /// <summary>What rows can be sorted by.</summary>
    public static readonly string[] Orders = ["mips", "exits", "cpu", "memory", "deferrals", "name"];

    private static readonly (string Title, int Width, bool Right)[] Columns =
    [
        ("NAME", 20, false), ("STATE", 8, false), ("VCPUS", 5, true), ("MEMORY", 9, true), ("CPU", 5, true), ("MIPS", 8, true), ("L2", 4, true),
        ("L1 EXITS/S", 10, true), ("L2 EXITS/S", 10, true), ("DEFERRALS", 9, true), ("WORKER", 12, false),
    ];

    /// <summary>Rows in the order asked for: the largest first, names by the alphabet.</summary>
    public static IEnumerable<TopRow> Sort(IEnumerable<TopRow> rows, string order) => order == "name"
        ? rows.OrderBy(row => row.Vm.Name, StringComparer.Ordinal)
        : rows.OrderByDescending(row => order switch
        {
            "exits" => (row.Rates?.L1Exits ?? -1) + (row.Rates?.L2Exits ?? 0),
            "cpu" => row.Rates?.Processors ?? -1,
            "memory" => row.Vm.Status?.MemoryBytes ?? 0,
            "deferrals" => row.Vm.Status?.Counters?.ApicvDeferrals ?? 0,
            _ => row.Rates?.Mips ?? -1,
        }).ThenBy(row => row.Vm.Name, StringComparer.Ordinal);

    /// <summary>A head line, the columns' titles and a line for each row, as far as they fit.</summary>
    /// <param name="rows">Sorted.</param>
    /// <param name="width">Characters of a line.</param>
    /// <param name="height">Lines; what does not fit is counted in the last.</param>
    public static IReadOnlyList<string> Lines(IReadOnlyList<TopRow> rows, int width, int height)
    {
        TopRates[] rates = [.. rows.Select(row => row.Rates).OfType<TopRates>()];
        List<string> lines =
        [
            string.Create(CultureInfo.InvariantCulture,
                $"{rows.Count} VMs, {rows.Count(row => row.Vm.Status?.State == VmState.Running)} running; {rates.Sum(rate => rate.Mips):0.0} MIPS on {rates.Sum(rate => rate.Processors):0.00} processors; exits/s: {Rate(rates.Sum(rate => rate.L1Exits))} of L1, {Rate(rates.Sum(rate => rate.L2Exits))} of L2"),
            Line(Columns.Select(column => column.Title)),
        ];
        var room = Math.Max(0, height - lines.Count);
        var shown = rows.Count <= room ? rows.Count : Math.Max(0, room - 1);
        foreach (var row in rows.Take(shown))
            lines.Add(Line(Cells(row)));
        if (shown < rows.Count && room > 0)
            lines.Add($"... and {rows.Count - shown} more");
        return [.. lines.Take(Math.Max(1, height)).Select(line => line.Length <= width ? line : line[..Math.Max(0, width)])];
    }

    private static IEnumerable<string> Cells(TopRow row)
    {
        var status = row.Vm.Status;
        yield return Printer.ShortName(row.Vm.Name);
        yield return Printer.StateName(status?.State ?? VmState.Unspecified);
        yield return Printer.CpusOf(row.Vm).ToString(CultureInfo.InvariantCulture);
        yield return Printer.SizeText((long)(status?.MemoryBytes ?? 0));
        yield return row.Rates is { } cpu ? cpu.Processors.ToString("0.00", CultureInfo.InvariantCulture) : "-";
        yield return row.Rates is { } mips ? mips.Mips.ToString("0.0", CultureInfo.InvariantCulture) : "-";
        yield return row.Rates is { } share ? $"{Math.Round(share.L2Share * 100)}%" : "-";
        yield return row.Rates is { } l1 ? Rate(l1.L1Exits) : "-";
        yield return row.Rates is { } l2 ? Rate(l2.L2Exits) : "-";
        yield return status?.Counters is { } counters ? counters.ApicvDeferrals.ToString(CultureInfo.InvariantCulture) : "-";
        yield return status is { Worker.Length: > 0 } ? ResourceNames.Id(status.Worker) : "";
    }

    // Names are shown whole where that leaves the columns behind them where they are, and cut where not.
    private static string Line(IEnumerable<string> cells) => string.Join("  ", cells.Zip(Columns, static (cell, column) =>
    {
        var fitting = cell.Length <= column.Width ? cell : $"{cell[..(column.Width - 1)]}~";
        return column.Right ? fitting.PadLeft(column.Width) : fitting.PadRight(column.Width);
    })).TrimEnd();

    private static string Rate(double value) => value switch
    {
        >= 1e6 => (value / 1e6).ToString("0.0", CultureInfo.InvariantCulture) + "M",
        >= 1e4 => (value / 1e3).ToString("0.0", CultureInfo.InvariantCulture) + "k",
        _ => value.ToString("0", CultureInfo.InvariantCulture),
    };
}
