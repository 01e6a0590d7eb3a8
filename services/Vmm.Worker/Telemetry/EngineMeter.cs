using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine;
using Vmm.Processor.Translation;
using Vmm.Worker.Machines;

namespace Vmm.Worker.Telemetry;

/// <summary>
/// What the engine does in this worker's VMs, as metrics: sums over all of them, those that have ended included. The engine counts in plain
/// fields; they are read when somebody collects. Catalogued in the README of <c>services</c>.
/// </summary>
internal sealed class EngineMeter : IDisposable
{
    /// <summary>The meter's name.</summary>
    public const string Name = "Vmm.Engine";

    /// <summary>The instruments of one collection see the same values.</summary>
    private static readonly TimeSpan Fresh = TimeSpan.FromMilliseconds(100);

    private readonly TimeProvider _time;
    private readonly Meter _meter = new(Name);
    private readonly ConcurrentDictionary<MachineRun, byte> _running = new();
    private readonly Lock _lock = new();
    private readonly Histogram<double> _deferralSeconds;
    private readonly Histogram<long> _deferralInstructions;
    private EngineTotals _past = new();
    private EngineTotals? _read;
    private long _readAt;

    public EngineMeter(TimeProvider time)
    {
        _time = time;
        Count("vmm.instructions", "{instruction}", "Instructions retired, by level.", totals =>
            [new((long)(totals.Machine.Instructions - totals.Machine.InstructionsOfL2), Level(1)), new((long)totals.Machine.InstructionsOfL2, Level(2))]);
        Count("vmm.exits", "{exit}", "VM exits, by level, by who took them, and by basic reason.", totals =>
            totals.Machine.Exits.Select(exit => new Measurement<long>((long)exit.Count, Level(exit.Level), new("vmm.owner", exit.Owner == 0 ? "l0" : "l1"), new("vmm.exit.reason", ReasonOf(exit)))));
        Count("vmm.nested.entries", "{entry}", "VM entries of L1 into L2, by what came of them.", totals =>
            [new((long)totals.Machine.NestedEntries, Result("entered")), new((long)totals.Machine.NestedEntriesRefused, Result("refused")), new((long)totals.Machine.NestedEntriesFailed, Result("failed"))]);
        Count("vmm.vmcs.accesses", "{access}", "VMREADs and VMWRITEs of L1 that the processor has answered without an exit.", totals =>
            [new((long)totals.Machine.Vmreads, new KeyValuePair<string, object?>("vmm.instruction", "vmread")), new((long)totals.Machine.Vmwrites, new KeyValuePair<string, object?>("vmm.instruction", "vmwrite"))]);
        Count("vmm.interrupts", "{interrupt}", "Events injected by VM entries, and interrupts that the processor has delivered by itself (virtual).", totals =>
            [new((long)totals.Machine.InterruptsInjected, Kind("external")), new((long)totals.Machine.NmisInjected, Kind("nmi")), new((long)totals.Machine.ExceptionsInjected, Kind("exception")), new((long)totals.Machine.VirtualInterrupts, Kind("virtual"))]);
        Count("vmm.page_walks", "{walk}", "Page walks, for want of a translation in the TLB.", totals => [new((long)totals.Machine.PageWalks)]);
        Count("vmm.traces.decoded", "{trace}", "Traces decoded, for want of one in the trace cache.", totals => [new((long)totals.Machine.TracesDecoded)]);
        _ = _meter.CreateObservableCounter("vmm.cpu.time", () => Read().Machine.ProcessorTime.TotalSeconds, "s", "Processor time of the host that executing guests took.");
        _ = _meter.CreateObservableCounter("vmm.cpu.throttled.time", () => Read().Machine.ThrottledTime.TotalSeconds, "s", "For how long VMs could have executed, but had had what their limits give them, added up.");
        Count("vmm.timer.expirations", "{timer}", "Timers of guests that have expired.", totals => [new((long)totals.Machine.Timers)]);
        _ = _meter.CreateObservableCounter("vmm.timer.lateness", () => Read().Machine.TimerLateness / 1e9, "s", "How late timers were served, added up, by the clocks of their machines.");
        Count("vmm.code.compiled", "{instruction}", "Instructions that the compiler has compiled.", totals => [new(totals.Instructions)]);
        _ = _meter.CreateObservableCounter("vmm.code.compile.time", () => Read().CompileTime.TotalSeconds, "s", "Time that the compiler has taken.");
        _ = _meter.CreateObservableUpDownCounter("vmm.code.size", () => Read().CodeSize, "By", "Compiled code of running machines.");
        Count("vmm.apicv.updates", "{update}", "Changes of APICv inhibits on vCPUs: applied to vmcs01, deferred because L2 was active, and coalesced with one that was.", totals =>
            [new((long)totals.Machine.ApicvUpdates, Result("applied")), new((long)totals.Machine.ApicvDeferrals, Result("deferred")), new((long)totals.Machine.ApicvCoalesced, Result("coalesced"))]);
        _ = _meter.CreateObservableUpDownCounter("vmm.apicv.vcpus", () => Active(Read()), "{vcpu}", "vCPUs of running machines, by whether the processor virtualizes their local APICs.");
        _ = _meter.CreateObservableUpDownCounter("vmm.apicv.inhibited", () => Inhibited(Read()), "{vm}", "Running machines in which an inhibit is set, for each reason that there is.");
        _ = _meter.CreateObservableGauge("vmm.apicv.deferral.oldest", () => _running.Keys.Select(run => run.OldestApicvDeferral.TotalSeconds).DefaultIfEmpty().Max(),
            "s", "For how long the vCPU that has put a change of the inhibits off for longest has done so; 0 where none has.");
        _deferralSeconds = _meter.CreateHistogram<double>("vmm.apicv.deferral.duration", "s", "How long a vCPU put a change of the inhibits off.",
            advice: new() { HistogramBucketBoundaries = [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10] });
        _deferralInstructions = _meter.CreateHistogram<long>("vmm.apicv.deferral.instructions", "{instruction}", "The same in instructions of the vCPU.",
            advice: new() { HistogramBucketBoundaries = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000] });
    }

    /// <summary>A machine begins to count.</summary>
    public void Add(MachineRun run) => _running.TryAdd(run, 0);

    /// <summary>A machine has ended: it counts with those of the past.</summary>
    public void Remove(MachineRun run, MachineCounters counters, TranslationStatistics? code)
    {
        if (!_running.TryRemove(run, out _))
            return;
        lock (_lock)
        {
            _past = _past.WithEnded(counters, code);
            _read = null;
        }
    }

    /// <summary>A vCPU has done what it had put off.</summary>
    public void NoteDeferral(TimeSpan duration, ulong instructions)
    {
        _deferralSeconds.Record(duration.TotalSeconds);
        _deferralInstructions.Record((long)instructions);
    }

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private void Count(string name, string unit, string description, Func<EngineTotals, IEnumerable<Measurement<long>>> values) =>
        _meter.CreateObservableCounter(name, () => values(Read()), unit, description);

    private EngineTotals Read()
    {
        lock (_lock)
        {
            if (_read is not null && _time.GetElapsedTime(_readAt) < Fresh)
                return _read;
            EngineTotals totals = _past;
            foreach (MachineRun run in _running.Keys)
                totals = totals.WithRunning(run.Machine.Counters, run.Machine.Translation);
            _readAt = _time.GetTimestamp();
            return _read = totals;
        }
    }

    private static IEnumerable<Measurement<int>> Active(EngineTotals totals) =>
    [
        new(totals.ActiveVcpus, new KeyValuePair<string, object?>("vmm.apicv.state", "active")),
        new(totals.Vcpus - totals.ActiveVcpus, new KeyValuePair<string, object?>("vmm.apicv.state", "inhibited")),
    ];

    private static IEnumerable<Measurement<int>> Inhibited(EngineTotals totals) =>
        totals.Inhibits.Select(inhibit => new Measurement<int>(inhibit.Value, new KeyValuePair<string, object?>("vmm.apicv.reason", NameOf(inhibit.Key))));

    private static KeyValuePair<string, object?> Level(int level) => new("vmm.level", level == 1 ? "l1" : "l2");

    private static KeyValuePair<string, object?> Result(string result) => new("vmm.result", result);

    private static KeyValuePair<string, object?> Kind(string kind) => new("vmm.interrupt.kind", kind);

    private static string ReasonOf(ExitCount exit) => SnakeCase.Of(exit.Reason.ToString());

    private static string NameOf(ApicvInhibit reason) => SnakeCase.Of(reason.ToString());
}
