using System.Collections.Concurrent;
using Google.Protobuf.WellKnownTypes;
using Microsoft.Extensions.Logging;
using Vmm.Machine;
using Vmm.Machine.Scheduling;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.Images;
using Vmm.Worker.Machines;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <summary>A worker: the VMs and images of one state directory, and the machines of those that run.</summary>
public sealed partial class WorkerHost : IAsyncDisposable
{
    private readonly ConcurrentDictionary<string, HostedVm> _vms = new(StringComparer.Ordinal);
    private readonly Lock _adding = new();
    private readonly ConcurrentDictionary<string, ProjectVms> _projects = new(StringComparer.Ordinal);
    private readonly HostServices _services;
    private readonly WorkerMeter _meter;
    private readonly VmMeter _vmMeter;
    private readonly SharedSnapshots? _shared;
    private readonly CancellationTokenSource _closing = new();
    private int _disposed;

    private WorkerHost(HostServices services, SharedSnapshots? shared, ImageStore images, RequestLedger requests)
    {
        _services = services;
        _shared = shared;
        Images = images;
        Requests = requests;
        _meter = new WorkerMeter(this);
        _vmMeter = new VmMeter(this, services.Options.MaxVmSeries, services.Time);
    }

    /// <summary><c>workers/{worker}</c>.</summary>
    public string Name => _services.Fleet.Worker;

    /// <summary>What its machines have to execute on.</summary>
    internal ExecutionLoad MachineLoad => _services.Machines.Load;

    internal ImageStore Images { get; }

    internal RequestLedger Requests { get; }

    internal WorkerStore Store => _services.Store;

    /// <summary>Cancelled when every VM has been stopped because the worker closes: nothing happens any more.</summary>
    internal CancellationToken Closing => _closing.Token;

    /// <summary>
    /// Opens a state directory, or makes one. VMs that were running when it was last open are stopped, with the end reason
    /// INTERRUPTED.
    /// </summary>
    /// <exception cref="IOException">The directory cannot be used, or another worker uses it.</exception>
    /// <exception cref="DamagedJournalException">It holds acknowledged changes that cannot be read.</exception>
    /// <param name="options">Where and how much.</param>
    /// <param name="machines">Makes the machines.</param>
    /// <param name="registry">Is told of every change, from <see cref="FleetMember.JoinAsync"/> on; until then no machine may run.</param>
    /// <param name="time">Real time, for the machines too.</param>
    /// <param name="log">Hears of what operators should know.</param>
    public static async Task<WorkerHost> OpenAsync(WorkerOptions options, IMachineFactory machines, IRegistry registry, TimeProvider time, ILogger log)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(machines);
        var reports = new ReportQueue(registry, time);
        WorkerStore store = WorkerStore.Open(options, reports, time);
        try
        {
            var images = new ImageStore(store, options, time);
            long memoryBytes = options.MaxRunningMemoryMib > long.MaxValue >> 20 ? long.MaxValue : options.MaxRunningMemoryMib << 20;
            var files = new SpecFiles(store, images, new PathPolicy(options.AllowedPaths));
            SharedSnapshots? shared = options.SharedSnapshotDirectory is { } directory ? new SharedSnapshots(directory, time) : null;
            var services = new HostServices(
                store, files, new SnapshotStore(store, shared, files, options, log), new CheckpointStore(store, shared, time, log), new HostCapacity(memoryBytes), machines, time, options, reports, new RunPermit(),
                new FleetLinks(registry, options.Name ?? $"workers/worker-{store.Id[..8]}"), new EngineMeter(time), new OperationsMeter(), log);
            var host = new WorkerHost(services, shared, images, new RequestLedger(store, reports, time));
            foreach (StoredVm stored in store.Vms())
                await host.RestoreAsync(stored.Vm);
            foreach (Snapshot snapshot in store.Snapshots())
                files.PinExisting(snapshot.Spec, snapshot.Name);
            await services.Snapshots.SweepAsync();
            return host;
        }
        catch
        {
            await store.DisposeAsync();
            throw;
        }
    }

    /// <summary>Stops every VM, then closes the state directory.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await InterruptAllAsync("The server was shut down.", isFailure: false);
        try
        {
            await Reports.FlushedAsync();
        }
        catch (Grpc.Core.RpcException exception)
        {
            _services.Log.EndsUnreported(exception.Status.Detail);
        }

        await _closing.CancelAsync();
        await _services.Store.DisposeAsync();
        foreach (HostedVm vm in _vms.Values)
            vm.Dispose();
        _meter.Dispose();
        _vmMeter.Dispose();
        _services.Meter.Dispose();
        _services.Operations.Dispose();
    }

    /// <summary>What everybody sees of a project.</summary>
    internal ProjectVms Project(string parent) => _projects.GetOrAdd(parent, _ => new ProjectVms(Reports));

    /// <summary>The VM of that name.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    internal HostedVm Require(string name)
    {
        RequireOpen();
        HostedVm? vm = FindShown(name);
        if (vm is null)
        {
            Exception notHere = NotHere(name);
            // What was found neither here nor on its way may have arrived between the two looks.
            vm = FindShown(name) ?? throw notHere;
        }

        vm.NoteCall();
        return vm;
    }

    private HostedVm? FindShown(string name) => _vms.TryGetValue(name, out HostedVm? vm) && Project(ParentOf(name)).Find(name) is not null ? vm : null;

    /// <summary>The VM of that name as it is now.</summary>
    internal Vm Get(string name)
    {
        HostedVm hosted = Require(name);
        return hosted.WithCounters(Project(ParentOf(name)).Find(name) ?? throw NotHere(name));
    }

    /// <summary>Makes a VM.</summary>
    internal async Task<Vm> CreateAsync(CreateVmRequest request, RequestScope scope)
    {
        if (Images.Fetcher is { } fetcher)
            await fetcher.FetchAsync(request.Vm.Spec, _closing.Token);
        return await AddAsync(NewVm(request.Parent, request.VmId, request.Vm.Spec, request.Vm.Labels), (hosted, vm) => MakeAsync(hosted, vm, scope));
    }

    private async Task<Vm> MakeAsync(HostedVm hosted, Vm vm, RequestScope scope)
    {
        MakeDisks(() => _services.Files.CreateDisks(vm.Uid, vm.Spec));
        await hosted.CreateAsync(scope.Completed);
        return vm;
    }

    private Vm NewVm(string parent, string id, VmSpec spec, IEnumerable<KeyValuePair<string, string>> labels)
    {
        Timestamp now = Timestamp.FromDateTimeOffset(_services.Time.GetUtcNow());
        var vm = new Vm
        {
            Name = ResourceName.Vm(parent, id),
            Uid = Guid.NewGuid().ToString(),
            Spec = spec.Clone(),
            Status = new VmStatus { State = VmState.Stopped, Worker = Name },
            CreateTime = now,
            UpdateTime = now,
        };
        foreach ((string label, string value) in labels.OrderBy(label => label.Key, StringComparer.Ordinal))
            vm.Labels[label] = value;
        vm.Etag = VmEtag.Of(vm);
        return vm;
    }

    /// <summary>Adds a VM. It is there when <paramref name="make"/> has made it last, and not at all where that fails.</summary>
    private async Task<Vm> AddAsync(Vm vm, Func<HostedVm, Vm, Task<Vm>> make)
    {
        RequireOpen();
        string name = vm.Name, parent = ParentOf(name);
        if (_vms.ContainsKey(name))
            throw ApiError.AlreadyExists(name);
        if (_vms.Count >= _services.Options.MaxVms)
            throw TooManyVms();

        NestedMessages.CheckCapabilities(vm.Spec);
        _services.Checkpoints.Require(vm.Spec, Name);
        _services.Files.PinAll(vm.Spec, name);
        var hosted = new HostedVm(_services, Project(parent), vm, Leave);
        try
        {
            // The name and the place are taken here, together, and show when the VM lasts.
            lock (_adding)
            {
                if (_vms.Count >= _services.Options.MaxVms)
                    throw TooManyVms();
                if (!_vms.TryAdd(name, hosted))
                    throw ApiError.AlreadyExists(name);
            }

            try
            {
                return await make(hosted, vm);
            }
            catch when (Project(parent).Find(name) is null)
            {
                _vms.TryRemove(name, out _);
                _services.Files.RemoveDisks(vm.Uid);
                throw;
            }
        }
        catch when (!_vms.TryGetValue(name, out HostedVm? added) || added != hosted)
        {
            hosted.Dispose();
            _services.Files.UnpinAll(vm.Spec, name);
            throw;
        }
    }

    private Exception TooManyVms() => ApiError.ResourceExhausted("TOO_MANY_VMS", "vms", $"This server hosts at most {_services.Options.MaxVms} VMs.");

    /// <summary>Deletes a VM; its checkpoint goes too, once the fleet knows of the deletion.</summary>
    internal async Task DeleteAsync(DeleteVmRequest request, RequestScope scope)
    {
        WorkerLease? lease = Fleet.Lease();
        Removed.Begin(request.Name);
        try
        {
            string? checkpoint = await Require(request.Name).DeleteAsync(request, scope);
            await Reports.FlushedAsync();
            if (checkpoint is not null && Fleet.Lease() == lease)
                await _services.Checkpoints.RemoveAsync(checkpoint);
        }
        finally
        {
            Removed.End(request.Name, _services.Time.GetTimestamp());
        }
    }

    // Whoever finds no VM of that name any more may make another.
    private void Leave(HostedVm hosted, CompletedRequest? by)
    {
        if (hosted.HasMoved)
            RememberMoved(hosted.Name);
        lock (_adding)
        {
            _vms.TryRemove(new KeyValuePair<string, HostedVm>(hosted.Name, hosted));
            Project(ParentOf(hosted.Name)).Remove(hosted.Name, by);
        }
    }

    // A VM that was elsewhere, or that was kept before it said where it is.
    private Vm Here(Vm vm)
    {
        if (vm.Status.Worker == Name)
            return vm;
        Vm here = vm.Clone();
        here.Status.Worker = Name;
        here.Etag = VmEtag.Of(here);
        return here;
    }

    private static string ParentOf(string vmName) => vmName[..vmName.IndexOf("/vms/", StringComparison.Ordinal)];

    private void RequireOpen()
    {
        if (Volatile.Read(ref _disposed) != 0)
            throw ApiError.Unavailable("SHUTTING_DOWN", "The server is shutting down.");
    }

    private static void MakeDisks(Action make)
    {
        try
        {
            make();
        }
        catch (IOException exception)
        {
            throw ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The VM's disks cannot be made: {exception.Message}");
        }
    }

    private async Task RestoreAsync(Vm vm)
    {
        if (vm.Status.State != VmState.Stopped)
        {
            vm = vm.Clone();
            vm.Status.State = VmState.Stopped;
            vm.Status.MemoryBytes = 0;
            vm.UpdateTime = Timestamp.FromDateTimeOffset(_services.Time.GetUtcNow());
            vm.Status.End = new VmEnd
            {
                Reason = VmEndReason.Interrupted,
                ExitCode = 137,
                Detail = "The server went away while the VM was running.",
                EndTime = vm.UpdateTime,
            };
            vm.Etag = VmEtag.Of(vm);
            await Store.CommitAsync(new JournalRecord { Mutations = { new Mutation { PutVm = new StoredVm { Vm = vm } } } });
        }

        vm = Here(vm);
        var hosted = new HostedVm(_services, Project(ParentOf(vm.Name)), vm, Leave);
        _vms[vm.Name] = hosted;
        foreach (string image in SpecFiles.ImageNames(vm.Spec))
            Images.PinExisting(image, vm.Name);
        Project(ParentOf(vm.Name)).Put(vm);
    }
}
