using System.Diagnostics;
using System.Runtime.ExceptionServices;

namespace Vmm.Registry.Postgres;

/// <summary>A VM that waits for its placement, and what came of it.</summary>
internal sealed class PendingPlacement(NewVm vm)
{
    private readonly TaskCompletionSource<Located> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The VM.</summary>
    public NewVm Vm { get; } = vm;

    /// <summary>Where it is to be.</summary>
    public Task<Located> Done => _done.Task;

    /// <summary>The span of its waiting, which the batch ends that takes it; null where nobody listens.</summary>
    public Activity? Waiting { get; set; }

    /// <summary>How often it was looked for a place in vain, because others were quicker.</summary>
    public int Attempts { get; private set; }

    /// <summary>Where it was placed, or null where it is to be tried again; unless there is a <see cref="Refusal"/>.</summary>
    public Located? Place { get; set; }

    /// <summary>Why it is placed nowhere.</summary>
    public ExceptionDispatchInfo? Refusal { get; set; }

    /// <summary>Tells who waits; false where there is nothing to tell yet.</summary>
    public bool TryTell()
    {
        if (Refusal is not null)
            return _done.TrySetException(Refusal.SourceException) || true;
        if (Place is not null)
            return _done.TrySetResult(Place) || true;
        Attempts++;
        return false;
    }
}

/// <summary>
/// Placements of this process: those that wait together are made together, so that the locks they need are taken once and the
/// database is not asked for each in turn. Thread-safe.
/// </summary>
/// <param name="place">Looks for a place for each: sets <see cref="PendingPlacement.Place"/> or <see cref="PendingPlacement.Refusal"/>, or neither.</param>
internal sealed class PlacementQueue(Func<IReadOnlyList<PendingPlacement>, Task> place)
{
    private const int MaxBatch = 64;

    private readonly Lock _lock = new();
    private readonly Queue<PendingPlacement> _waiting = new();
    private bool _pumping;

    /// <summary>Places a VM. Who gives up waiting leaves a placement behind, perhaps.</summary>
    public Task<Located> PlaceAsync(NewVm vm, CancellationToken cancellation)
    {
        var pending = new PendingPlacement(vm) { Waiting = RegistryTraces.Source.Begin(RegistryTraces.Queue, vm.Name) };
        lock (_lock)
        {
            _waiting.Enqueue(pending);
            if (!_pumping)
            {
                _pumping = true;
                // It serves all who come, and is no part of the first one's trace.
                using (ExecutionContext.SuppressFlow())
                    _ = Task.Run(PumpAsync);
            }
        }

        return pending.Done.WaitAsync(cancellation);
    }

    private async Task PumpAsync()
    {
        while (true)
        {
            var batch = new List<PendingPlacement>();
            lock (_lock)
            {
                while (batch.Count < MaxBatch && _waiting.TryDequeue(out PendingPlacement? next))
                    batch.Add(next);
                if (batch.Count == 0)
                {
                    _pumping = false;
                    return;
                }
            }

            using Activity? span = StartBatch(batch);
            try
            {
                await place(batch);
            }
            catch (Exception exception)
            {
                // Whatever went wrong is for those who wait to hear; others may have more luck.
                var failure = ExceptionDispatchInfo.Capture(exception);
                batch.ForEach(pending => pending.Refusal = failure);
                span?.SetStatus(ActivityStatusCode.Error, exception.Message);
            }

            lock (_lock)
                foreach (PendingPlacement pending in batch.Where(pending => !pending.TryTell()))
                    _waiting.Enqueue(pending);
        }
    }

    /// <summary>A trace of its own, linked with those of the placements that it makes.</summary>
    private static Activity? StartBatch(List<PendingPlacement> batch)
    {
        foreach (PendingPlacement pending in batch)
            pending.Waiting?.Finish();
        if (!RegistryTraces.Source.HasListeners())
            return null;
        Activity? span = RegistryTraces.Source.StartActivity(
            RegistryTraces.Batch, ActivityKind.Internal, default(ActivityContext), links: batch.Where(pending => pending.Waiting is not null).Select(pending => new ActivityLink(pending.Waiting!.Context)));
        span?.SetTag("vmm.batch.size", batch.Count);
        return span;
    }
}
