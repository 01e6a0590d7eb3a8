using System.Globalization;
using System.Text;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Translation;

namespace Vmm.Machine.Lockstep;

/// <summary>
/// Finds the compiled region behind a difference: runs both machines again from the last moment at which they agreed, with the compiler
/// keeping to a limit of regions, and halves first that and then the instructions.
/// </summary>
internal sealed class DifferenceSearch(MachineSpec spec, TimeProvider time, TranslationOptions translation, AgreedMoment agreed, Stretch stretch)
{
    private static readonly string[] GeneralPurpose = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    // A difference is looked for with the compilers as they were, and then with ever more code compiled.
    private static readonly int[] Thresholds = [1000, 100, 10, 1];

    // A guest that has gone astray may differ everywhere.
    private const int MostLines = 200;

    private readonly ExecutionPool _pool = new(2, TimeProvider.System);

    /// <summary>What is known of a difference, for people.</summary>
    /// <param name="found">What differs at the end of the stretch.</param>
    public string Report(IReadOnlyList<string> found)
    {
        var report = new StringBuilder();
        report.Append(CultureInfo.InvariantCulture, $"compiled code and interpreter agree after {agreed.Instructions} instructions and differ after {stretch.Instructions} (compiled, interpreted):\n");
        Append(report, found);
        using SnapshotFiles snapshot = agreed.Open();
        foreach ((string what, TranslationOptions options) in Compilers())
        {
            Trial trial = Try(snapshot, options, stretch.Instructions);
            if (trial.Differences.Count == 0)
                continue;
            report.Append(CultureInfo.InvariantCulture, $"again from there with {what}:\n");
            Narrow(report, snapshot, options, trial);
            return report.ToString();
        }
        report.Append("again from there, with the processor waiting for the compiler, there is no difference\n");
        return report.ToString();
    }

    // The processor waits for the compiler in all of them, so that a run can be repeated. What a region does wrong that took the place of
    // that of single traces after many executions is seen within one stretch only where regions are compiled at once.
    private IEnumerable<(string What, TranslationOptions Options)> Compilers()
    {
        TranslationOptions options = translation with { Synchronous = true };
        yield return ("the compilers as they were", options);
        foreach (int threshold in Thresholds)
        {
            if (options.NativeThreshold > 0)
                yield return ($"single traces after {threshold} executions", options with { NativeThreshold = threshold, NativeRegionThreshold = 0, NativeHotThreshold = 0, Threshold = 0 });
            if (options is { NativeThreshold: > 0, NativeRegionThreshold: > 0 })
                yield return ($"native code of regions after {threshold} executions", options with { NativeThreshold = threshold, NativeRegionThreshold = threshold, NativeHotThreshold = 0 });
            if (options.NativeThreshold == 0 || options.NativeHotThreshold > 0)
                yield return ($"regions of the JIT after {threshold} executions", options with { NativeThreshold = 0, Threshold = threshold });
        }
    }

    private void Narrow(StringBuilder report, SnapshotFiles snapshot, TranslationOptions options, Trial whole)
    {
        // With no region there is none but the interpreter; whoever differs from it then has something else wrong.
        Trial interpreted = Try(snapshot, options with { MostRegions = 0 }, stretch.Instructions);
        if (interpreted.Differences.Count > 0)
        {
            report.Append("there is a difference with nothing compiled at all\n");
            Append(report, interpreted.Differences);
            return;
        }
        (Trial trial, ulong regions) = First(whole, 0, (ulong)whole.Regions, limit => Try(snapshot, options with { MostRegions = (long)limit }, stretch.Instructions));
        options = options with { MostRegions = (long)regions };
        (trial, ulong instructions) = First(trial, agreed.Instructions, stretch.Instructions, count => Try(snapshot, options, count));
        report.Append(CultureInfo.InvariantCulture, $"region {regions} of {whole.Regions} brings the difference about; it is seen first after {instructions} instructions (compiled, interpreted):\n");
        Append(report, trial.Differences);
        report.Append(trial.Region ?? "the region is not there any more\n");
        report.Append(trial.Registers);
    }

    /// <summary>The least number with which there is a difference, given one with which there is none and one with which there is.</summary>
    private static (Trial Trial, ulong Number) First(Trial differing, ulong without, ulong with, Func<ulong, Trial> tryWith)
    {
        while (with - without > 1)
        {
            ulong middle = without + (with - without) / 2;
            Trial trial = tryWith(middle);
            if (trial.Differences.Count == 0)
                without = middle;
            else
                (differing, with) = (trial, middle);
        }
        return (differing, with);
    }

    private Trial Try(SnapshotFiles snapshot, TranslationOptions options, ulong instructions)
    {
        using var compiled = new Machine(spec with { Engine = ExecutionEngine.Auto }, time, _pool, options, snapshot);
        using var interpreted = new Machine(spec with { Engine = ExecutionEngine.Interpreter }, time, _pool, options, snapshot);
        return new(MachineComparison.Compare(Run(compiled, instructions), Run(interpreted, instructions)),
            compiled.Package.Translation!.Value.Installed, compiled.Package.DescribeLastRegion(), Registers("compiled", compiled) + Registers("interpreted", interpreted));
    }

    private MachineSight Run(Machine machine, ulong instructions)
    {
        machine.StartDirtyLog();
        machine.RunTo(instructions, stretch.Nanoseconds, stretch.Inputs);
        (MachineState state, ulong[] pages) = machine.Observe();
        return new(state, machine.Memory, pages, machine.End);
    }

    private static string Registers(string name, Machine machine)
    {
        var text = new StringBuilder();
        for (int vcpu = 0; vcpu < machine.VcpuCount; vcpu++)
        {
            VcpuRegisters registers = machine.GetRegisters(vcpu);
            text.Append(CultureInfo.InvariantCulture, $"{name}, vCPU {vcpu} after {registers.InstructionsRetired} instructions, {registers.Activity}:\n");
            text.Append(CultureInfo.InvariantCulture, $"  RIP {registers.Rip:x16} RFLAGS {registers.Rflags:x8}");
            for (int k = 0; k < registers.GeneralPurpose.Count; k++)
                text.Append(CultureInfo.InvariantCulture, $"{(k % 4 == 0 ? "\n  " : " ")}{GeneralPurpose[k],-3} {registers.GeneralPurpose[k]:x16}");
            text.Append('\n').AppendJoin(' ', registers.Control.Select(control => $"  {control.Key} {control.Value:x}")).Append('\n');
        }
        return text.ToString();
    }

    private static void Append(StringBuilder report, IReadOnlyList<string> lines)
    {
        foreach (string line in lines.Take(MostLines))
            report.Append(CultureInfo.InvariantCulture, $"  {line}\n");
        if (lines.Count > MostLines)
            report.Append(CultureInfo.InvariantCulture, $"  and {lines.Count - MostLines} more\n");
    }

    /// <summary>Both machines at the end of a run.</summary>
    /// <param name="Differences">What differs.</param>
    /// <param name="Regions">Regions that were put in place.</param>
    /// <param name="Region">The last of them.</param>
    /// <param name="Registers">The registers of both.</param>
    private sealed record Trial(IReadOnlyList<string> Differences, long Regions, string? Region, string Registers);
}
