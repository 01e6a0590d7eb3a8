using System.Diagnostics.Metrics;

namespace Vmm.Worker.Telemetry;

/// <summary>What a worker does with its VMs beside running them: moves, as their source, and checkpoints. Catalogued in the README of <c>services</c>.</summary>
internal sealed class OperationsMeter : IDisposable
{
    private readonly Meter _meter = new(WorkerMeter.Name);
    private readonly Histogram<double> _pause;
    private long _moved, _failed, _bytes, _checkpoints, _failedCheckpoints;

    public OperationsMeter()
    {
        _ = _meter.CreateObservableCounter("vmm.migrations", () => Results(("moved", Volatile.Read(ref _moved)), ("failed", Volatile.Read(ref _failed))),
            "{vm}", "Moves of VMs from this worker to others, by what came of them; those that found no target are not counted.");
        _ = _meter.CreateObservableCounter("vmm.migration.bytes", () => Volatile.Read(ref _bytes), "By", "Memory and disks that moves have sent, those that failed included.");
        _pause = _meter.CreateHistogram<double>("vmm.migration.pause", "s", "How long running VMs stood while they moved.",
            advice: new() { HistogramBucketBoundaries = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5, 10] });
        _ = _meter.CreateObservableCounter("vmm.checkpoints", () => Results(("taken", Volatile.Read(ref _checkpoints)), ("failed", Volatile.Read(ref _failedCheckpoints))),
            "{checkpoint}", "Checkpoints of VMs, by what came of them.");
    }

    /// <summary>A VM has moved.</summary>
    /// <param name="bytes">What was sent.</param>
    /// <param name="pause">How long it stood; null where it did not run.</param>
    public void NoteMigration(long bytes, TimeSpan? pause)
    {
        Interlocked.Increment(ref _moved);
        Interlocked.Add(ref _bytes, bytes);
        if (pause is { } stood)
            _pause.Record(stood.TotalSeconds);
    }

    /// <summary>A VM has not moved.</summary>
    public void NoteFailedMigration(long bytes)
    {
        Interlocked.Increment(ref _failed);
        Interlocked.Add(ref _bytes, bytes);
    }

    /// <summary>A VM has a new checkpoint.</summary>
    public void NoteCheckpoint() => Interlocked.Increment(ref _checkpoints);

    /// <summary>A VM could not be saved.</summary>
    public void NoteFailedCheckpoint() => Interlocked.Increment(ref _failedCheckpoints);

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private static IEnumerable<Measurement<long>> Results(params (string Result, long Count)[] results) =>
        results.Select(each => new Measurement<long>(each.Count, new KeyValuePair<string, object?>("vmm.result", each.Result)));
}
