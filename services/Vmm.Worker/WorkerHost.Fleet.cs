using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.Machines;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;

namespace Vmm.Worker;

/// <content>What a worker does as one of a fleet.</content>
public sealed partial class WorkerHost
{
    /// <summary>Names the state directory, for good.</summary>
    public string DirectoryId => Store.Id;

    internal ReportQueue Reports => _services.Reports;

    internal RunPermit Permit => _services.Permit;

    /// <summary>What is to be done when a front end says that the registry has something for this worker.</summary>
    internal Action? CheckIn { get; set; }

    /// <summary>How long the lease lasts, as far as this worker relies on it; null where it does not end or there is none.</summary>
    internal Func<TimeSpan?>? LeaseRemaining { get; set; }

    /// <summary>The VMs as everybody sees them.</summary>
    internal IEnumerable<Vm> AllVms() => _projects.Values.SelectMany(project => project.List());

    /// <summary>VMs that run and have a label.</summary>
    internal IEnumerable<HostedVm> RunningVmsWith(string label, string value) =>
        _vms.Values.Where(vm => vm.IsRunning && vm.Present.Labels.TryGetValue(label, out string? has) && has == value);

    /// <summary>VMs that run.</summary>
    internal int RunningVms => _vms.Values.Count(vm => vm.IsRunning);

    /// <summary>Whether there is no VM here.</summary>
    internal bool IsEmpty => _vms.IsEmpty;

    /// <summary>There are other workers: images and snapshots that VMs need and that are not here are fetched from them, and VMs can move there.</summary>
    public void ConnectTo(IRegistry registry, IWorkerConnector connector)
    {
        Images.Fetcher = new ImageFetcher(registry, connector, Store, Images);
        Replicas = new SnapshotReplicas(Store, _shared, registry, connector, _services.Log);
        Fleet.Connector = connector;
    }

    internal FleetLinks Fleet => _services.Fleet;

    /// <summary>What the registry may still ask for though it is gone.</summary>
    internal RemovedVms Removed { get; } = new();

    /// <summary>What there is here.</summary>
    internal WorkerInventory Inventory() => new([.. _projects.Values.SelectMany(project => project.List())], Store.Images(), Store.Snapshots(), Store.Requests());

    /// <summary>Stops every machine at once. Returns when all have stopped and everybody can see it.</summary>
    internal Task InterruptAllAsync(string detail, bool isFailure) =>
        Task.WhenAll(_vms.Values.Select(vm => vm.Interrupt(detail, isFailure)).OfType<Task>().ToList());

    /// <summary>Removes a VM that is not this worker's any more.</summary>
    internal async Task DropAsync(string name)
    {
        if (!_vms.ContainsKey(name))
            return;
        // For calls that are on their way here.
        RememberMoved(name);
        await Require(name).DropAsync();
    }

    /// <summary>Takes a VM that was elsewhere: as it was, with disks as its images have them.</summary>
    /// <exception cref="Grpc.Core.RpcException">A file is missing, or the disk is full.</exception>
    internal async Task AdoptAsync(Vm vm)
    {
        if (_vms.ContainsKey(vm.Name))
            return;
        _moved.TryRemove(vm.Name, out _);
        if (Images.Fetcher is { } fetcher)
            await fetcher.FetchAsync(vm.Spec, _closing.Token);
        await AddAsync(Here(vm), (hosted, added) => MakeAsync(hosted, added, RequestScope.None(_services.Time)));
    }

    /// <summary>VMs whose run was interrupted and that are to be booted again.</summary>
    internal List<string> ToRestart() =>
        [.. _projects.Values.SelectMany(project => project.List())
            .Where(vm => VmTransitions.Moves(vm.Spec) && vm.Status is { State: VmState.Stopped, End.Reason: VmEndReason.Interrupted })
            .Select(vm => vm.Name)];

    /// <summary>Boots such a VM, or has it go on from its checkpoint.</summary>
    /// <exception cref="Grpc.Core.RpcException">It cannot be started.</exception>
    internal async Task RestartAsync(string name)
    {
        HostedVm hosted = Require(name);
        // What was placed here under a lease that has ended since may be another's: the registry says so before anything runs.
        Vm vm = hosted.Present;
        await Reports.FlushedAsync(vm);
        RequestScope scope = RequestScope.None(_services.Time);
        if (vm.Status.Checkpoint is not { } checkpoint)
        {
            await hosted.StartAsync("", scope);
            return;
        }

        SnapshotFolder folder = await _services.Checkpoints.FetchAsync(vm, checkpoint);
        try
        {
            await hosted.GoOnAsync(folder, checkpoint, scope);
        }
        finally
        {
            _services.Checkpoints.Remove(folder);
        }
    }

    /// <summary>Removes what is kept in this process and beside it of VMs and snapshots that are not there any more.</summary>
    /// <param name="deletedSnapshots">Uids of snapshots of which others that are lost have left something.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="Grpc.Core.RpcException">UNAVAILABLE: the registry does not answer.</exception>
    internal async Task SweepAsync(IReadOnlyList<string> deletedSnapshots, CancellationToken cancellation)
    {
        Images.RemoveAbandoned();
        await Snapshots.RemoveSharedAsync(deletedSnapshots);
        if (Replicas is { } replicas)
            await replicas.DropGoneAsync(cancellation);
        await _services.Checkpoints.SweepAsync(Fleet.Registry, cancellation);
    }

    /// <summary>Nothing comes here any more: this worker is about to end.</summary>
    internal void Leave() => Volatile.Write(ref _leaving, true);
}
