using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.InMemory;

/// <summary>A registry in this process, which forgets everything with it but what its <see cref="IAccessLog"/> has: for a <c>vmmd</c> that is all in one, and for tests.</summary>
public sealed partial class InMemoryRegistry(RegistryOptions options, TimeProvider time) : IRegistry
{
    private readonly Lock _lock = new();
    private readonly string _epoch = Guid.NewGuid().ToString("n");
    private readonly SortedDictionary<string, WorkerRow> _workers = new(StringComparer.Ordinal);
    private readonly SortedDictionary<string, VmRow> _vms = new(StringComparer.Ordinal);
    private readonly SortedDictionary<string, Snapshot> _snapshots = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _snapshotWorkers = new(StringComparer.Ordinal);
    private readonly SortedDictionary<string, (Image Image, HashSet<string> Holders)> _images = new(StringComparer.Ordinal);
    private readonly Dictionary<(string Project, string Id), LinkedListNode<RequestRow>> _requests = [];
    private readonly LinkedList<RequestRow> _requestsByAge = new();
    private readonly Dictionary<string, ProjectRow> _projects = new(StringComparer.Ordinal);
    private long _incarnations;

    /// <inheritdoc/>
    public Task<WorkerSession> RegisterWorkerAsync(WorkerRegistration registration, WorkerInventory inventory, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(registration);
        ArgumentNullException.ThrowIfNull(inventory);
        lock (_lock)
        {
            _workers.TryGetValue(registration.Name, out WorkerRow? before);
            if (before is not null && before.Registration.Directory != registration.Directory)
            {
                if (!IsLost(before))
                    throw ApiError.AlreadyExists(registration.Name);
                LoseWorker(before);
                if (_vms.Values.Any(vm => vm.Worker == registration.Name))
                    throw Refusals.WorkerHasVms(registration.Name);
                ForgetFiles(registration.Name);
            }

            var worker = new WorkerRow
            {
                Registration = registration,
                Incarnation = ++_incarnations,
                LeaseUntil = LeaseFromNow(),
                RegisterTime = time.GetUtcNow(),
                State = before?.State ?? WorkerState.Ready,
            };
            _workers[registration.Name] = worker;
            EndMovesOf(registration.Name);
            HashSet<string> deleted = DeletedSnapshots(registration.Name, inventory);
            List<string> drop = Reconcile(registration.Name, inventory with { Snapshots = [.. inventory.Snapshots.Where(snapshot => !deleted.Contains(snapshot.Uid))] });
            return Task.FromResult(new WorkerSession(
                new WorkerLease(registration.Name, worker.Incarnation, options.LeaseDuration),
                drop,
                [.. inventory.Snapshots.Where(snapshot => deleted.Contains(snapshot.Uid)).Select(snapshot => snapshot.Name)],
                InstructionsFor(worker)));
        }
    }

    /// <inheritdoc/>
    public Task<WorkerInstructions> RenewLeaseAsync(WorkerLease lease, int runningVms, CancellationToken cancellation)
    {
        lock (_lock)
        {
            WorkerRow worker = RequireLease(lease);
            worker.LeaseUntil = LeaseFromNow();
            worker.RunningVms = runningVms;
            return Task.FromResult(InstructionsFor(worker));
        }
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<string>> ReportAsync(WorkerLease lease, IReadOnlyList<WorkerReport> reports, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(reports);
        lock (_lock)
        {
            RequireLease(lease);
            var refused = new List<string>();
            // A batch that is repeated because its end was not heard of may end with VMs that are gone.
            HashSet<string> gone = new(StringComparer.Ordinal);
            foreach (WorkerReport report in reports)
            {
                if (report is VmDeletedReport { Name: var deleted } && !_vms.ContainsKey(deleted))
                    gone.Add(deleted);
                else if (report is VmReport { Vm.Name: var there })
                    gone.Remove(there);
            }

            foreach (WorkerReport report in reports)
                if (report is not VmReport { Vm: var vm } || !gone.Contains(vm.Name))
                    Apply(lease.Worker, report, refused);
            return Task.FromResult<IReadOnlyList<string>>([.. refused.Distinct(StringComparer.Ordinal)]);
        }
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<string>> HandOverAsync(WorkerLease lease, IReadOnlyList<string> vms, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(vms);
        lock (_lock)
        {
            RequireLease(lease);
            var given = new List<string>();
            foreach (string name in vms)
            {
                if (_vms.TryGetValue(name, out VmRow? row) && row.Worker == lease.Worker && row.Vm is { Status.State: VmState.Stopped })
                {
                    Unplace(row);
                    given.Add(name);
                }
            }

            return Task.FromResult<IReadOnlyList<string>>(given);
        }
    }

    /// <inheritdoc/>
    public Task EndLeaseAsync(WorkerLease lease, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        lock (_lock)
            if (_workers.TryGetValue(lease.Worker, out WorkerRow? worker) && worker.Incarnation == lease.Incarnation && !IsLost(worker))
                LoseWorker(worker);
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<V1.Worker>> ListWorkersAsync(CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult<IReadOnlyList<V1.Worker>>([.. _workers.Values.Select(ToMessage)]);
    }

    /// <inheritdoc/>
    public Task<V1.Worker> SetWorkerStateAsync(string worker, WorkerState state, CancellationToken cancellation)
    {
        lock (_lock)
        {
            if (!_workers.TryGetValue(worker, out WorkerRow? row))
                throw ApiError.NotFound(worker);
            row.State = state;
            return Task.FromResult(ToMessage(row));
        }
    }

    /// <inheritdoc/>
    public Task<Located> PlaceVmAsync(NewVm vm, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(vm);
        lock (_lock)
        {
            if (Answer(vm.Request) is { } answer)
                return Task.FromResult(new Located(null, 0, answer));
            if (_vms.TryGetValue(vm.Name, out VmRow? present))
            {
                Refusals.RequireRepetition(vm, present.Request);
                // The VM that the request has made is its answer, also where nobody could say so.
                return Task.FromResult(present.Vm is { } made ? new Located(null, present.Generation, made.ToByteArray()) : Locate(present, null));
            }

            RequireRoom(vm);
            var row = new VmRow { Name = vm.Name, Spec = vm.Spec, Labels = vm.Labels, Request = vm.Request, CreateTime = time.GetUtcNow() };
            PlacementRequest request = RequestFor(row, vm.Snapshot is null ? null : _snapshotWorkers.GetValueOrDefault(vm.Snapshot) ?? throw ApiError.NotFound(vm.Snapshot));
            List<WorkerView> fleet = Fleet();
            WorkerView chosen = Scheduler.Choose(fleet, request) ?? throw Refusals.NoWorker(fleet, request);
            row.Worker = chosen.Name;
            row.Generation = 1;
            _vms.Add(vm.Name, row);
            return Task.FromResult(Locate(row, null) with { IsNew = true });
        }
    }

    /// <inheritdoc/>
    public Task AbandonVmAsync(string name, long generation, CancellationToken cancellation)
    {
        lock (_lock)
            if (_vms.TryGetValue(name, out VmRow? row) && row.Vm is null && row.Generation == generation)
                _vms.Remove(name);
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task<Located> LocateVmAsync(string name, RequestKey? request, CancellationToken cancellation)
    {
        lock (_lock)
        {
            byte[]? answer = Answer(request);
            if (_vms.TryGetValue(name, out VmRow? row) && (row.Vm is not null || answer is not null))
                return Task.FromResult(Locate(row, answer));
            return answer is not null ? Task.FromResult(new Located(null, 0, answer)) : throw ApiError.NotFound(name);
        }
    }

    /// <inheritdoc/>
    public Task<Located> LocateSnapshotAsync(string name, RequestKey? request, CancellationToken cancellation)
    {
        lock (_lock)
        {
            byte[]? answer = Answer(request);
            if (_snapshotWorkers.TryGetValue(name, out string? worker))
                return Task.FromResult(new Located(Address(_workers[worker]), 0, answer, IsLost(_workers[worker]), _snapshots[name]));
            return answer is not null ? Task.FromResult(new Located(null, 0, answer)) : throw ApiError.NotFound(name);
        }
    }

    /// <inheritdoc/>
    public Task<(IReadOnlyList<WorkerAddress> Holders, byte[]? Answer)> LocateImageAsync(string name, RequestKey? request, CancellationToken cancellation)
    {
        lock (_lock)
        {
            byte[]? answer = Answer(request);
            IReadOnlyList<WorkerAddress> holders = _images.TryGetValue(name, out var image)
                ? [.. image.Holders.Select(holder => _workers[holder]).OrderBy(IsLost).ThenBy(worker => worker.Registration.Name, StringComparer.Ordinal).Select(Address)]
                : [];
            return Task.FromResult((holders, answer));
        }
    }

    /// <inheritdoc/>
    public Task<Vm> FindVmAsync(string name, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult(_vms.TryGetValue(name, out VmRow? row) && row.Vm is not null ? Conditioned(row) : throw ApiError.NotFound(name));
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<Vm>> ListVmsAsync(string project, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult<IReadOnlyList<Vm>>([.. _vms.Values.Where(row => row.Vm is not null && IsOf(row.Name, project)).Select(Conditioned)]);
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<Image>> ListImagesAsync(string project, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult<IReadOnlyList<Image>>([.. _images.Values.Select(image => image.Image).Where(image => IsOf(image.Name, project))]);
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<Snapshot>> ListSnapshotsAsync(string project, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult<IReadOnlyList<Snapshot>>([.. _snapshots.Values.Where(snapshot => IsOf(snapshot.Name, project))]);
    }

    /// <inheritdoc/>
    public Task<(IReadOnlyList<Vm> Vms, EventPosition Position)> SnapshotProjectAsync(string project, CancellationToken cancellation)
    {
        lock (_lock)
        {
            IReadOnlyList<Vm> vms = [.. _vms.Values.Where(row => row.Vm is not null && IsOf(row.Name, project)).Select(row => row.Vm!)];
            return Task.FromResult((vms, new EventPosition(_epoch, _projects.TryGetValue(project, out ProjectRow? row) ? row.Sequence : 0)));
        }
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<VmEventRecord>> EventsAfterAsync(string project, EventPosition position, CancellationToken cancellation)
    {
        while (true)
        {
            Task changed;
            lock (_lock)
            {
                ProjectRow row = Project(project);
                long missed = row.Sequence - position.Sequence;
                if (position.Epoch != _epoch || missed < 0 || missed > row.Events.Count)
                    throw Refusals.TokenExpired();
                if (missed > 0)
                    return [.. row.Events.Skip(row.Events.Count - (int)missed)];
                changed = row.Changed.Task;
            }

            await changed.WaitAsync(cancellation);
        }
    }

    /// <inheritdoc/>
    public Task<FailoverOutcome> FailOverAsync(CancellationToken cancellation)
    {
        lock (_lock)
        {
            List<WorkerRow> lost = [.. _workers.Values.Where(worker => IsLost(worker) && !worker.LossSeen)];
            lost.ForEach(LoseWorker);
            var given = new HashSet<string>(StringComparer.Ordinal);
            int placed = 0;
            foreach (VmRow row in _vms.Values.Where(row => row.Worker is null))
            {
                if (Scheduler.Choose(Fleet(), RequestFor(row, null)) is not { } chosen)
                    continue;
                row.Worker = chosen.Name;
                given.Add(chosen.Name);
                placed++;
            }

            return Task.FromResult(new FailoverOutcome([.. given.Order(StringComparer.Ordinal).Select(name => Address(_workers[name]))], placed, lost.Count));
        }
    }

    /// <inheritdoc/>
    public Task<FleetCensus> CountAsync(CancellationToken cancellation)
    {
        lock (_lock)
        {
            List<VmRow> vms = [.. _vms.Values.Where(row => row.Vm is not null)];
            return Task.FromResult(new FleetCensus(
                vms.GroupBy(row => row.Vm!.Status.State).ToDictionary(group => group.Key, group => group.LongCount()),
                vms.LongCount(row => row.Worker is null),
                _workers.Values.GroupBy(worker => IsLost(worker) ? WorkerState.Lost : worker.State).ToDictionary(group => group.Key, group => Count([.. group]))));
        }
    }

    private WorkerCensus Count(List<WorkerRow> workers)
    {
        List<(Resources Reserved, Resources Capacity)> each = [.. workers.Select(worker => (ReservedOn(worker.Registration.Name), ToResources(worker.Registration.Capacity)))];
        DateTimeOffset first = workers.Min(worker => worker.LeaseUntil);
        return new WorkerCensus(
            workers.Count,
            first == DateTimeOffset.MaxValue ? null : first - time.GetUtcNow(),
            new Usage(each.Sum(worker => (double)worker.Reserved.Vms), each.Sum(worker => (double)worker.Capacity.Vms)),
            new Usage(each.Sum(worker => (double)worker.Reserved.Vcpus), each.Sum(worker => (double)worker.Capacity.Vcpus)),
            new Usage(each.Sum(worker => (double)worker.Reserved.MemoryMib), each.Sum(worker => (double)worker.Capacity.MemoryMib)));
    }

    /// <inheritdoc/>
    public Task PruneAsync(CancellationToken cancellation)
    {
        lock (_lock)
        {
            // Events and requests are bounded as they come.
            foreach (VmRow row in _vms.Values.Where(row => row.Vm is null && row.CreateTime + options.AbandonAfter < time.GetUtcNow()).ToList())
                _vms.Remove(row.Name);
            PruneAccess();
        }

        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _log?.DisposeAsync() ?? ValueTask.CompletedTask;
}
