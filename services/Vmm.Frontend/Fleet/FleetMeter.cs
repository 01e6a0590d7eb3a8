using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>
/// The fleet as metrics. How many there are of what is asked of the registry when somebody collects, and is the same at every front end: of
/// several, one is to be looked at, or the maximum. What a front end has done is counted by itself, each thing by one of them: those are
/// to be added up. Catalogued in the README of <c>services</c>.
/// </summary>
public sealed class FleetMeter : IDisposable
{
    /// <summary>The meter's name.</summary>
    public const string Name = "Vmm.Fleet";

    /// <summary>The registry is asked no more often than this, whoever collects how often.</summary>
    private static readonly TimeSpan Fresh = TimeSpan.FromSeconds(5);

    /// <summary>A collection does not wait longer for the registry: it goes without.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    private static readonly VmState[] VmStates = [VmState.Stopped, VmState.Starting, VmState.Running, VmState.Paused, VmState.Stopping];
    private static readonly WorkerState[] WorkerStates = [WorkerState.Ready, WorkerState.Cordoned, WorkerState.Draining, WorkerState.Lost];
    private static readonly string[] Obstacles = ["memory", "vcpus", "vms", "lost", "cordoned", "quota"];

    private readonly Meter _meter = new(Name);
    private readonly IRegistry _registry;
    private readonly TimeProvider _time;
    private readonly Lock _lock = new();
    private readonly ConcurrentDictionary<string, long> _refusals = new(Obstacles.Select(obstacle => KeyValuePair.Create(obstacle, 0L)), StringComparer.Ordinal);
    private Task<FleetCensus>? _census;
    private long _askedAt;
    private long _placements, _failovers, _lostWorkers;

    /// <param name="registry">The fleet's.</param>
    /// <param name="time">For how long a count is one of now.</param>
    public FleetMeter(IRegistry registry, TimeProvider time)
    {
        _registry = registry;
        _time = time;
        _ = _meter.CreateObservableUpDownCounter("vmm.fleet.vms", () => Each(census => VmStates.Append(VmState.Unspecified).Where(state => state != VmState.Unspecified || census.Vms.ContainsKey(state))
            .Select(state => new Measurement<long>(census.Vms.GetValueOrDefault(state), Tag("vmm.vm.state", state.ToString())))), "{vm}", "VMs of the fleet, by state.");
        _ = _meter.CreateObservableUpDownCounter("vmm.fleet.vms.unplaced", () => Each<long>(census => [new(census.UnplacedVms)]), "{vm}", "VMs that wait for a worker, because theirs was lost.");
        _ = _meter.CreateObservableUpDownCounter("vmm.fleet.workers", () => Each(census =>
            WorkerStates.Select(state => new Measurement<long>(census.Workers.GetValueOrDefault(state)?.Count ?? 0, Tag("vmm.worker.state", state.ToString())))), "{worker}", "Workers, by state.");
        _ = _meter.CreateObservableGauge("vmm.fleet.lease.remaining", () => Each(census => census.Workers.Where(state => state is { Key: not WorkerState.Lost, Value.ShortestLease: not null })
            .Select(state => new Measurement<double>(state.Value.ShortestLease!.Value.TotalSeconds, Tag("vmm.worker.state", state.Key.ToString())))), "s", "The shortest remaining lease among workers, by their state.");
        _ = _meter.CreateObservableGauge("vmm.fleet.reserved", () => Each(Reserved), "{part}", "The part of what ready workers offer that is reserved for VMs, by resource.");
        _ = _meter.CreateObservableCounter("vmm.fleet.placements", () => Volatile.Read(ref _placements), "{vm}", "New VMs that this front end has found a worker for.");
        _ = _meter.CreateObservableCounter("vmm.fleet.refusals", () => _refusals.Select(each => new Measurement<long>(each.Value, new KeyValuePair<string, object?>("vmm.reason", each.Key))),
            "{vm}", "New VMs that this front end has found no worker for, by what was in the way on most workers.");
        _ = _meter.CreateObservableCounter("vmm.fleet.failovers", () => Volatile.Read(ref _failovers), "{vm}", "VMs that this front end has placed again, because their worker was lost or gave them up.");
        _ = _meter.CreateObservableCounter("vmm.fleet.workers.lost", () => Volatile.Read(ref _lostWorkers), "{worker}", "Workers whose lease this front end has found ended.");
    }

    /// <summary>A new VM has a worker.</summary>
    public void NotePlacement() => Interlocked.Increment(ref _placements);

    /// <summary>A new VM has none.</summary>
    public void NoteRefusal(RpcException refusal)
    {
        if (refusal.StatusCode != StatusCode.ResourceExhausted)
            return;
        string reason = ApiError.ReasonOf(refusal) == "QUOTA_EXCEEDED" ? "quota" : ApiError.MetadataOf(refusal, Refusals.ObstacleKey) ?? "other";
        _refusals.AddOrUpdate(reason, 1, static (_, count) => count + 1);
    }

    /// <summary>Lost workers were looked after.</summary>
    public void NoteFailover(FailoverOutcome outcome)
    {
        ArgumentNullException.ThrowIfNull(outcome);
        Interlocked.Add(ref _failovers, outcome.PlacedVms);
        Interlocked.Add(ref _lostWorkers, outcome.LostWorkers);
    }

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private static IEnumerable<Measurement<double>> Reserved(FleetCensus census)
    {
        if (!census.Workers.TryGetValue(WorkerState.Ready, out WorkerCensus? ready))
            return [];
        (string Resource, Usage Usage)[] all = [("vms", ready.Vms), ("vcpus", ready.Vcpus), ("memory", ready.MemoryMib)];
        return all.Where(each => each.Usage.Capacity > 0)
            .Select(each => new Measurement<double>(each.Usage.Reserved / each.Usage.Capacity, new KeyValuePair<string, object?>("vmm.resource", each.Resource)));
    }

    private IEnumerable<Measurement<T>> Each<T>(Func<FleetCensus, IEnumerable<Measurement<T>>> measure) where T : struct =>
        Ask() is { } census ? measure(census) : [];

    /// <summary>What the registry says; null where it does not answer, so that nobody takes old counts for those of now.</summary>
    private FleetCensus? Ask()
    {
        Task<FleetCensus> census;
        lock (_lock)
        {
            if (_census is null || _time.GetElapsedTime(_askedAt) >= Fresh)
            {
                _askedAt = _time.GetTimestamp();
                _census = Task.Run(() => _registry.CountAsync(CancellationToken.None));
            }

            census = _census;
        }

        try
        {
            return census.Wait(Patience) ? census.Result : null;
        }
        catch (AggregateException)
        {
            return null;
        }
    }

    private static KeyValuePair<string, object?> Tag(string name, string state) => new(name, state.ToLowerInvariant());
}
