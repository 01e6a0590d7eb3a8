using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.InMemory;

/// <content>What it is made of. Everything here is called with the lock held.</content>
public sealed partial class InMemoryRegistry
{
    private DateTimeOffset LeaseFromNow() => options.LeaseDuration == Timeout.InfiniteTimeSpan ? DateTimeOffset.MaxValue : time.GetUtcNow() + options.LeaseDuration;

    private bool IsLost(WorkerRow worker) => worker.LossSeen || worker.LeaseUntil < time.GetUtcNow();

    private WorkerRow RequireLease(WorkerLease lease)
    {
        ArgumentNullException.ThrowIfNull(lease);
        return _workers.TryGetValue(lease.Worker, out WorkerRow? worker) && worker.Incarnation == lease.Incarnation && !IsLost(worker)
            ? worker
            : throw new LeaseLostException(lease.Worker);
    }

    /// <summary>Brings what is known of a worker in line with what it has; gives what it must drop.</summary>
    private List<string> Reconcile(string worker, WorkerInventory inventory)
    {
        var drop = new List<string>();
        if (options.AcceptsInventory)
            foreach (string name in inventory.Vms.Select(vm => vm.Name).Concat(inventory.Images.Select(image => image.Name)).Concat(inventory.Snapshots.Select(snapshot => snapshot.Name)))
                EnsureProject(ProjectOf(name));
        var has = inventory.Vms.ToDictionary(vm => vm.Name, StringComparer.Ordinal);
        foreach (VmRow row in _vms.Values.Where(row => row.Worker == worker && row.IsReported && !has.ContainsKey(row.Name)).ToList())
            Change(row, null);
        foreach (Vm vm in inventory.Vms)
        {
            if (options.AcceptsInventory && !_vms.ContainsKey(vm.Name))
                _vms.Add(vm.Name, new VmRow { Name = vm.Name, Spec = vm.Spec, Labels = vm.Labels, Worker = worker, Generation = 1, CreateTime = vm.CreateTime.ToDateTimeOffset() });
            if (_vms.TryGetValue(vm.Name, out VmRow? row) && row.Worker == worker && !row.IsMoving)
                Change(row, vm);
            else
                drop.Add(vm.Name);
        }

        foreach (RequestReport request in inventory.Requests)
            if (!_requests.ContainsKey((request.Request.Project, request.Request.Id)) && (request.Vm is null || (has.ContainsKey(request.Vm) ? !drop.Contains(request.Vm) : !_vms.ContainsKey(request.Vm))))
                Apply(worker, request, drop);
        ForgetFiles(worker);
        foreach (Image image in inventory.Images)
            Apply(worker, new ImageReport(image), drop);
        foreach (Snapshot snapshot in inventory.Snapshots)
            Apply(worker, new SnapshotReport(snapshot), drop);
        return drop;
    }

    private void ForgetFiles(string worker)
    {
        foreach ((string name, (_, HashSet<string> holders)) in _images.ToList())
            if (holders.Remove(worker) && holders.Count == 0)
                _images.Remove(name);
        foreach ((string name, string holder) in _snapshotWorkers.ToList())
            if (holder == worker)
                RemoveSnapshot(name);
    }

    private void RemoveSnapshot(string name)
    {
        _snapshots.Remove(name);
        _snapshotWorkers.Remove(name);
    }

    private void Apply(string worker, WorkerReport report, List<string> refused)
    {
        switch (report)
        {
            case VmReport { Vm: var vm } when _vms.TryGetValue(vm.Name, out VmRow? row) && row.Worker == worker:
                Change(row, vm);
                break;
            case VmReport { Vm: var vm } when !_vms.ContainsKey(vm.Name):
                var adopted = new VmRow { Name = vm.Name, Spec = vm.Spec, Labels = vm.Labels, Worker = worker, Generation = 1, CreateTime = time.GetUtcNow() };
                _vms.Add(vm.Name, adopted);
                Change(adopted, vm);
                break;
            case VmReport { Vm: var vm }:
                refused.Add(vm.Name);
                break;
            case RequestReport { Vm: { } about } when _vms.TryGetValue(about, out VmRow? others) && others.Worker != worker:
                refused.Add(about);
                break;
            case VmDeletedReport { Name: var name }:
                if (_vms.TryGetValue(name, out VmRow? deleted) && deleted.Worker == worker && deleted.IsReported)
                    Change(deleted, null);
                break;
            case ImageReport { Image: var image }:
                if (!_images.ContainsKey(image.Name))
                    _images[image.Name] = (image, new HashSet<string>(StringComparer.Ordinal));
                _images[image.Name].Holders.Add(worker);
                break;
            case ImageDeletedReport { Name: var name }:
                if (_images.TryGetValue(name, out var held) && held.Holders.Remove(worker) && held.Holders.Count == 0)
                    _images.Remove(name);
                break;
            case SnapshotReport { Snapshot: var snapshot }:
                _snapshots[snapshot.Name] = snapshot;
                _snapshotWorkers[snapshot.Name] = worker;
                break;
            case SnapshotDeletedReport { Name: var name }:
                if (_snapshotWorkers.GetValueOrDefault(name) == worker)
                    RemoveSnapshot(name);
                break;
            case RequestReport request:
                Remember(new RequestRow(request.Request, request.Response.ToByteArray(), time.GetUtcNow()));
                break;
            default:
                throw new ArgumentException($"{report.GetType().Name} is no report that a registry knows.", nameof(report));
        }
    }

    /// <summary>Writes a VM's next version, or null for its end, together with its event.</summary>
    private void Change(VmRow row, Vm? after)
    {
        Vm? before = row.Vm;
        row.IsMoving = false;
        if (after is null)
        {
            _vms.Remove(row.Name);
            EndMoves(move => move.Vm == row.Name);
        }
        else
        {
            (row.Vm, row.Labels) = (after, after.Labels);
        }

        if (before is null && after is null || after is not null && before is not null && before.Etag == after.Etag && before.Uid == after.Uid)
            return;
        ProjectRow project = Project(row.Name[..row.Name.IndexOf("/vms/", StringComparison.Ordinal)]);
        project.Events.Enqueue(new VmEventRecord(new EventPosition(_epoch, ++project.Sequence), before, after));
        if (project.Events.Count > options.MaxEvents)
            project.Events.Dequeue();
        TaskCompletionSource wake = project.Changed;
        project.Changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        wake.SetResult();
    }

    private void LoseWorker(WorkerRow worker)
    {
        worker.LossSeen = true;
        EndMovesOf(worker.Registration.Name);
        foreach (VmRow row in _vms.Values.Where(row => row.Worker == worker.Registration.Name).ToList())
        {
            if (row.Vm is null)
            {
                _vms.Remove(row.Name);
                continue;
            }

            bool moving = row.IsMoving;
            Change(row, VmTransitions.Interrupted(row.Vm, time.GetUtcNow(), Refusals.WorkerLost(worker.Registration.Name)));
            row.IsMoving = moving;
            if (VmTransitions.Moves(row.Spec))
                Unplace(row);
        }
    }

    private static void Unplace(VmRow row)
    {
        row.Worker = null;
        row.IsMoving = true;
        row.Generation++;
    }

    private WorkerInstructions InstructionsFor(WorkerRow worker) => new(
        worker.State,
        [.. _vms.Values.Where(row => row.Worker == worker.Registration.Name && row.IsMoving).Select(row => row.Vm!)],
        [.. _deletedSnapshots.Where(deleted => IsToBeTold(deleted.Value)).Select(deleted => deleted.Key)]);

    private List<WorkerView> Fleet()
    {
        var fleet = _workers.Values.Select(worker => new WorkerView
        {
            Name = worker.Registration.Name,
            State = IsLost(worker) ? WorkerState.Lost : worker.State,
            Labels = worker.Registration.Labels,
            Capacity = ToResources(worker.Registration.Capacity),
            Engines = worker.Registration.Engines,
            HasSnapshotStore = worker.Registration.HasSnapshotStore,
        }).ToList();
        foreach (WorkerView worker in fleet)
            worker.Reserved = ReservedOn(worker.Name);
        return fleet;
    }

    private Resources ReservedOn(string worker)
    {
        var sum = default(Resources);
        IEnumerable<VmRow> coming = _moves.Values.Where(move => move.Target.Name == worker && _vms.ContainsKey(move.Vm)).Select(move => _vms[move.Vm]);
        foreach (VmRow row in _vms.Values.Where(row => row.Worker == worker).Concat(coming))
        {
            Resources needs = Resources.Of(row.Spec);
            sum = new Resources(sum.Vms + needs.Vms, sum.Vcpus + needs.Vcpus, sum.MemoryMib + needs.MemoryMib);
        }

        return sum;
    }

    private PlacementRequest RequestFor(VmRow vm, string? near) => new()
    {
        Needs = Resources.Of(vm.Spec),
        Engine = SpecEngine.Of(vm.Spec),
        HasCheckpoints = vm.Spec.RestartPolicy == RestartPolicy.FromLastCheckpoint,
        Spec = vm.Spec.Placement,
        Near = near,
        With = vm.Spec.Placement is { WithVmLabels.Count: > 0 } with ? WorkersWith(vm, with.WithVmLabels) : null,
        ApartFrom = vm.Spec.Placement is { ApartFromVmLabels.Count: > 0 } apart ? WorkersWith(vm, apart.ApartFromVmLabels) : null,
        Images = SpecImages.Of(vm.Spec) is { Count: > 0 } names ? ImagesPerWorker(names) : null,
    };

    private HashSet<string> WorkersWith(VmRow vm, IEnumerable<KeyValuePair<string, string>> labels)
    {
        string project = vm.Name[..vm.Name.IndexOf("/vms/", StringComparison.Ordinal)];
        return [.. _vms.Values.Where(other => other.Name != vm.Name && other.Worker is not null && IsOf(other.Name, project) && Scheduler.HasAll(other.Labels, labels)).Select(other => other.Worker!)];
    }

    private Dictionary<string, int> ImagesPerWorker(IEnumerable<string> names) =>
        names.Where(_images.ContainsKey).SelectMany(name => _images[name].Holders).GroupBy(holder => holder, StringComparer.Ordinal).ToDictionary(group => group.Key, group => group.Count());

    private byte[]? Answer(RequestKey? request)
    {
        if (request is null || !_requests.TryGetValue((request.Project, request.Id), out LinkedListNode<RequestRow>? node) || IsForgotten(node.Value))
            return null;
        Refusals.RequireSame(request, node.Value.Request.Fingerprint);
        return node.Value.Response;
    }

    private void Remember(RequestRow row)
    {
        var key = (row.Request.Project, row.Request.Id);
        if (_requests.Remove(key, out LinkedListNode<RequestRow>? older))
            _requestsByAge.Remove(older);
        _requests[key] = _requestsByAge.AddLast(row);
        while (_requestsByAge.First is { } first && (_requestsByAge.Count > options.MaxRequests || IsForgotten(first.Value)))
        {
            _requestsByAge.RemoveFirst();
            _requests.Remove((first.Value.Request.Project, first.Value.Request.Id));
        }
    }

    private bool IsForgotten(RequestRow row) => row.Time < time.GetUtcNow() - options.RememberRequests;

    private Located Locate(VmRow row, byte[]? answer) => row.Worker is null || row.IsMoving
        ? new Located(null, row.Generation, answer)
        : new Located(Address(_workers[row.Worker]), row.Generation, answer, IsLost(_workers[row.Worker]));

    /// <summary>A VM that is made, with what is the matter with its worker.</summary>
    private Vm Conditioned(VmRow row)
    {
        WorkerCondition condition = row.Worker is null || row.IsMoving ? WorkerCondition.Replacing : IsLost(_workers[row.Worker]) ? WorkerCondition.Lost : WorkerCondition.Unspecified;
        if (condition == WorkerCondition.Unspecified)
            return row.Vm!;
        Vm vm = row.Vm!.Clone();
        vm.Status.WorkerCondition = condition;
        return vm;
    }

    private ProjectRow Project(string name)
    {
        if (!_projects.TryGetValue(name, out ProjectRow? row))
            _projects[name] = row = new ProjectRow();
        return row;
    }

    private V1.Worker ToMessage(WorkerRow worker)
    {
        Resources reserved = ReservedOn(worker.Registration.Name);
        var message = new V1.Worker
        {
            Name = worker.Registration.Name,
            Address = worker.Registration.Address,
            Version = worker.Registration.Version,
            State = IsLost(worker) ? WorkerState.Lost : worker.State,
            Capacity = worker.Registration.Capacity,
            Reserved = new WorkerResources { Vms = reserved.Vms, Vcpus = (int)Math.Min(int.MaxValue, reserved.Vcpus), MemoryMib = reserved.MemoryMib },
            RunningVms = worker.RunningVms,
            RegisterTime = Timestamp.FromDateTimeOffset(worker.RegisterTime),
            Incarnation = worker.Incarnation,
            Engines = { worker.Registration.Engines },
        };
        if (worker.LeaseUntil != DateTimeOffset.MaxValue)
            message.LeaseExpireTime = Timestamp.FromDateTimeOffset(worker.LeaseUntil);
        foreach ((string key, string value) in worker.Registration.Labels)
            message.Labels[key] = value;
        return message;
    }

    private static bool IsOf(string name, string project) => name.StartsWith(project, StringComparison.Ordinal) && name.Length > project.Length && name[project.Length] == '/';

    private static Resources ToResources(WorkerResources resources) => new(resources.Vms, resources.Vcpus, resources.MemoryMib);

    private static WorkerAddress Address(WorkerRow worker) => new(worker.Registration.Name, worker.Registration.Address, worker.Incarnation);

    private sealed class WorkerRow
    {
        public required WorkerRegistration Registration { get; init; }

        public required long Incarnation { get; init; }

        public required DateTimeOffset RegisterTime { get; init; }

        public DateTimeOffset LeaseUntil { get; set; }

        public WorkerState State { get; set; }

        public int RunningVms { get; set; }

        /// <summary>Its end has been acted on, or it ended its lease itself.</summary>
        public bool LossSeen { get; set; }
    }

    private sealed class VmRow
    {
        public required string Name { get; init; }

        public required VmSpec Spec { get; init; }

        public required DateTimeOffset CreateTime { get; init; }

        public RequestKey? Request { get; init; }

        public IEnumerable<KeyValuePair<string, string>> Labels { get; set; } = [];

        public string? Worker { get; set; }

        public long Generation { get; set; }

        /// <summary>As reported last; null until it is made.</summary>
        public Vm? Vm { get; set; }

        /// <summary>Placed again, and not yet reported by its new worker.</summary>
        public bool IsMoving { get; set; }

        /// <summary>Its worker has said that it has it.</summary>
        public bool IsReported => Vm is not null && !IsMoving;
    }

    private sealed class ProjectRow
    {
        /// <summary>Null where it was not created, or was deleted.</summary>
        public Project? Record { get; set; }

        public long Sequence { get; set; }

        public Queue<VmEventRecord> Events { get; } = new();

        public TaskCompletionSource Changed { get; set; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    private sealed record RequestRow(RequestKey Request, byte[] Response, DateTimeOffset Time);
}
