using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Worker.Fleet;

/// <summary>
/// What happened on this worker and the registry does not know yet, in order. What waits together is reported together.
/// A change is acknowledged to its caller after <see cref="FlushedAsync"/>. Thread-safe.
/// </summary>
internal sealed class ReportQueue(IRegistry registry, TimeProvider time)
{
    private const int MaxBatch = 256;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan RetryDelay = TimeSpan.FromMilliseconds(100);

    private readonly Lock _lock = new();
    private readonly Queue<WorkerReport> _pending = new();
    private readonly List<(long At, Vm? Vm, long Place, TaskCompletionSource Done)> _waiting = [];

    /// <summary>Places of requests that were refused, because the VM that they are about is another worker's.</summary>
    private readonly HashSet<long> _refusedPlaces = [];

    /// <summary>Uids of VMs whose reports were refused under this lease. They may be gone from here before who made them asks.</summary>
    private readonly HashSet<string> _refused = new(StringComparer.Ordinal);
    private WorkerLease? _lease;
    private bool _pumping;
    private long _added;
    private long _accepted;
    private long _forgotten;
    private CancellationTokenSource _life = new();

    /// <summary>Hears of VMs that the registry says are not this worker's.</summary>
    public Action<IReadOnlyList<string>>? Refused { get; set; }

    /// <summary>Hears that the lease which reports were made under is not this worker's any more.</summary>
    public Action<WorkerLease>? LeaseLost { get; set; }

    /// <summary>Adds what happened; gives the place of the last among all that was added. What is added together is reported together.</summary>
    public long Add(params ReadOnlySpan<WorkerReport> reports)
    {
        lock (_lock)
        {
            foreach (WorkerReport report in reports)
                _pending.Enqueue(report);
            _added += reports.Length;
            Pump();
            return _added;
        }
    }

    /// <summary>Completes when everything that was added by now is known to the registry.</summary>
    /// <param name="vm">A VM whose reports must have been taken; null where no VM in particular is meant.</param>
    /// <param name="place">The place of a report that must have been taken by itself; 0 for none.</param>
    /// <exception cref="RpcException">UNAVAILABLE: the lease ended, or the VM is another worker's, or the registry does not answer. In the last
    /// case the reports are made later; the request may be repeated in all.</exception>
    public async Task FlushedAsync(Vm? vm = null, long place = 0)
    {
        Task done;
        lock (_lock)
        {
            if (vm is not null && _refused.Contains(vm.Uid))
                throw NotOurs();
            if (place > 0 && place <= _forgotten)
                throw NotAcknowledged();
            if (_refusedPlaces.Remove(place))
                throw NotOurs();
            if (_accepted >= _added)
                return;
            var waiter = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _waiting.Add((_added, vm, place, waiter));
            done = waiter.Task;
        }

        try
        {
            await done.WaitAsync(Patience, time);
        }
        catch (TimeoutException)
        {
            throw ApiError.Unavailable("REGISTRY_UNAVAILABLE", "The change is made, and the fleet's registry does not take note of it at the moment; repeat the request with the same id.");
        }
    }

    /// <summary>Forgets what waits: the inventory that is taken next has it. Who waits is told that nothing is acknowledged.</summary>
    public void Restart()
    {
        lock (_lock)
        {
            _lease = null;
            _life.Cancel();
            _life.Dispose();
            _life = new CancellationTokenSource();
            _pending.Clear();
            // What was accepted before may be among it, for all that anybody knows by now.
            _accepted = _forgotten = _added;
            foreach ((_, _, _, TaskCompletionSource done) in _waiting)
                done.TrySetException(NotAcknowledged());
            _waiting.Clear();
            _refused.Clear();
            _refusedPlaces.Clear();
        }
    }

    /// <summary>Reports under this lease from now on.</summary>
    public void Open(WorkerLease lease)
    {
        lock (_lock)
        {
            _lease = lease;
            Pump();
        }
    }

    private static RpcException NotAcknowledged() => ApiError.Unavailable("LEASE_LOST", "The worker lost its lease before the change was known to the fleet.");

    private static RpcException NotOurs() => ApiError.Unavailable("VM_ELSEWHERE", "The VM was given to another worker while this one was busy with it; repeat the request.");

    private void Pump()
    {
        if (_pumping || _lease is null || _pending.Count == 0)
            return;
        _pumping = true;
        WorkerLease lease = _lease;
        CancellationToken life = _life.Token;
        // It reports for all, and is no part of the trace of who came first.
        using (ExecutionContext.SuppressFlow())
            _ = Task.Run(() => PumpAsync(lease, life));
    }

    private async Task PumpAsync(WorkerLease lease, CancellationToken life)
    {
        while (true)
        {
            WorkerReport[] batch;
            lock (_lock)
            {
                // A request is no batch's first: it may be by which something was deleted, whose name nobody finds any more who repeats it.
                int count = MaxBatch;
                while (count < _pending.Count && _pending.ElementAt(count) is RequestReport)
                    count++;
                batch = life.IsCancellationRequested ? [] : [.. _pending.Take(count)];
                if (batch.Length == 0)
                {
                    _pumping = false;
                    // Under another lease there may be something to do.
                    Pump();
                    return;
                }
            }

            IReadOnlyList<string> refused;
            try
            {
                refused = await registry.ReportAsync(lease, batch, life);
            }
            catch (LeaseLostException)
            {
                LeaseLost?.Invoke(lease);
                await WaitAsync(life);
                continue;
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
            {
                await WaitAsync(life);
                continue;
            }
            catch (OperationCanceledException) when (life.IsCancellationRequested)
            {
                continue;
            }

            Accept(batch, refused, life);
            if (refused.Count > 0)
                Refused?.Invoke(refused);
        }
    }

    private void Accept(WorkerReport[] batch, IReadOnlyList<string> refused, CancellationToken life)
    {
        lock (_lock)
        {
            if (life.IsCancellationRequested)
                return;
            for (int i = 0; i < batch.Length; i++)
            {
                _pending.Dequeue();
                _accepted++;
                if (batch[i] is RequestReport { Vm: { } about } && refused.Contains(about))
                    _refusedPlaces.Add(_accepted);
            }

            _refused.UnionWith(batch.OfType<VmReport>().Where(report => refused.Contains(report.Vm.Name)).Select(report => report.Vm.Uid));
            _waiting.RemoveAll(waiter => _refusedPlaces.Remove(waiter.Place) || (waiter.Vm is not null && (_refused.Contains(waiter.Vm.Uid) || refused.Contains(waiter.Vm.Name)))
                ? waiter.Done.TrySetException(NotOurs())
                : waiter.At <= _accepted && waiter.Done.TrySetResult());
        }
    }

    private Task WaitAsync(CancellationToken life) =>
        Task.Delay(RetryDelay, time, life).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
}
