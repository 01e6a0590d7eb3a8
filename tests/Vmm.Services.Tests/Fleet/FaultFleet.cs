using System.Collections.Concurrent;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// A fleet of processes with a database of its own to which each has a way of its own, so that each can be killed, stopped, cut off and
/// brought back; and clients that go on whatever happens, and know what must be there afterwards.
/// </summary>
internal sealed class FaultFleet : IAsyncDisposable
{
    public const string Project = "projects/default";

    /// <summary>Seconds, for workers whose lease is to end.</summary>
    public const int ShortLease = 6;

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-faults-").FullName;
    private readonly ConcurrentDictionary<string, FleetProcess> _processes = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, PartitionProxy> _proxies = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, MountNamespace> _disks = new(StringComparer.Ordinal);
    private readonly ConcurrentBag<FleetProcess> _dead = [];
    private string _schema = "";

    private FaultFleet(PostgresServer database) => Database = database;

    public PostgresServer Database { get; }

    public string Witness => Path.Combine(_folder, "witness");

    /// <summary>Where moves of its workers are held up: see <see cref="MovePhase"/>.</summary>
    public string Phases => Path.Combine(_folder, "phases");

    public IReadOnlyList<string> Workers => [.. _processes.Keys.Where(id => id[0] == 'w').Order(StringComparer.Ordinal)];

    public IReadOnlyList<string> Frontends => [.. _processes.Keys.Where(id => id[0] == 'f').Order(StringComparer.Ordinal)];

    /// <summary>With front ends <c>f1</c>, ... and workers <c>w1</c>, ...</summary>
    /// <param name="frontends">How many.</param>
    /// <param name="workers">How many.</param>
    /// <param name="lease">In seconds.</param>
    /// <param name="diskSize">Of a file system of its own for each worker's state; null for folders.</param>
    public static async Task<FaultFleet> StartAsync(int frontends, int workers, int lease = ShortLease, string? diskSize = null)
    {
        var fleet = new FaultFleet(await PostgresServer.StartAsync());
        try
        {
            string connection = await fleet.Database.NewSchemaAsync();
            fleet._schema = connection[(connection.IndexOf("Search Path=", StringComparison.Ordinal) + "Search Path=".Length)..].Split(';')[0];
            for (int i = 1; diskSize is not null && i <= workers; i++)
                await fleet.MountAsync($"w{i}", diskSize);
            await Task.WhenAll([.. Enumerable.Range(1, frontends).Select(i => fleet.StartFrontendAsync($"f{i}")), .. Enumerable.Range(1, workers).Select(i => fleet.StartWorkerAsync($"w{i}", lease))]);
            return fleet;
        }
        catch
        {
            await fleet.DisposeAsync();
            throw;
        }
    }

    public FleetProcess Process(string id) => _processes[id];

    public PartitionProxy WayOf(string id) => _proxies[id];

    public string StateOf(string worker) => Path.Combine(_folder, $"state-{worker}");

    public async Task StartFrontendAsync(string id) => Keep(id, await FleetProcess.StartAsync(
        "vmmd.dll", "frontend", "--listen", $"unix:{Path.Combine(_folder, id)}", "--registry", RegistryOf(id)));

    /// <param name="id">Its id.</param>
    /// <param name="lease">In seconds.</param>
    public async Task StartWorkerAsync(string id, int lease = ShortLease)
    {
        string[] arguments = [Witness, StateOf(id), RegistryOf(id), id, $"{lease}"];
        Keep(id, _disks.TryGetValue(id, out MountNamespace? disk)
            ? await FleetProcess.StartWrappedAsync(disk.Enter, "Vmm.Services.Tests.dll", arguments)
            : await FleetProcess.StartAsync("Vmm.Services.Tests.dll", new Dictionary<string, string> { [MovePhase.Variable] = Directory.CreateDirectory(Phases).FullName }, arguments));
    }

    /// <summary>Gives a worker's state a file system of its own, before it is started.</summary>
    public async Task MountAsync(string id, string size)
    {
        Directory.CreateDirectory(StateOf(id));
        _disks[id] = await MountNamespace.MountAsync(StateOf(id), size);
    }

    /// <summary>Takes all room that there is in a worker's file system.</summary>
    public void FillDisk(string id)
    {
        using var file = new FileStream(_disks[id].PathOf("fill"), new FileStreamOptions { Mode = FileMode.Create, Access = FileAccess.Write, BufferSize = 0 });
        byte[] page = new byte[4096];
        try
        {
            while (true)
                file.Write(page);
        }
        catch (IOException)
        {
            // That was the last of it.
        }
    }

    /// <summary>Gives it back.</summary>
    public void EmptyDisk(string id) => File.Delete(_disks[id].PathOf("fill"));

    public void Kill(string id)
    {
        if (_processes.TryRemove(id, out FleetProcess? process))
        {
            process.Kill();
            _dead.Add(process);
        }
    }

    public CreateVmRequest Creation(string id, RestartPolicy policy, params (string Key, string Value)[] labels)
    {
        string kernel = Path.Combine(_folder, id.Length > 0 ? id : "any");
        if (!File.Exists(kernel))
            File.WriteAllText(kernel, "kernel");
        var vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel }, RestartPolicy = policy } };
        if (policy == RestartPolicy.FromLastCheckpoint)
            vm.Spec.CheckpointInterval = new Google.Protobuf.WellKnownTypes.Duration { Seconds = 1 };
        foreach ((string key, string value) in labels)
            vm.Labels[key] = value;
        return new CreateVmRequest { Parent = Project, VmId = id, Vm = vm, RequestId = Guid.NewGuid().ToString() };
    }

    /// <summary>Makes a VM that runs, and waits until the witness has seen it.</summary>
    public async Task RunAsync(FleetClient client, string id, RestartPolicy policy)
    {
        Vm vm = await client.CallAsync(Creation(id, policy), static (vms, request, options) => vms.CreateVmAsync(request, options));
        await client.CallAsync(new StartVmRequest { Name = vm.Name, RequestId = Guid.NewGuid().ToString() }, static (vms, request, options) => vms.StartVmAsync(request, options));
        await EventuallyAsync(() => Task.FromResult(Sightings(id).Count > 0), $"{id} runs");
    }

    public List<Sighting> Sightings(string vm) => [.. Sighting.Read(Witness).Where(sighting => sighting.Vm == vm)];

    /// <summary>A client of all front ends that there are now or will be.</summary>
    public FleetClient Client(int seed) => new(this, seed);

    public string AddressOf(string frontend) => $"unix:{Path.Combine(_folder, frontend)}";

    public Task EventuallyAsync(Func<Task<bool>> condition, string what) => Eventually.HoldsAsync(condition, what, _processes.Values);

    public async ValueTask DisposeAsync()
    {
        foreach (FleetProcess process in _processes.Values.Concat(_dead))
            process.Dispose();
        foreach (PartitionProxy proxy in _proxies.Values)
            await proxy.DisposeAsync();
        await Database.DisposeAsync();
        foreach (MountNamespace disk in _disks.Values)
            disk.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>The registry's database, whatever is in the way of the processes.</summary>
    public string Registry => $"Host={Path.GetDirectoryName(Database.Socket)};Username=vmm;Database=postgres;Search Path={_schema}";

    private string RegistryOf(string id) => $"Host=127.0.0.1;Port={_proxies.GetOrAdd(id, _ => new PartitionProxy(Database.Socket)).Port};Username=vmm;Database=postgres;Search Path={_schema};Maximum Pool Size=20";

    private void Keep(string id, FleetProcess process) => _processes[id] = process;
}

/// <summary>Calls a fleet by whichever front end answers, and repeats by the request's id until there is an answer.</summary>
internal sealed class FleetClient(FaultFleet fleet, int seed) : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly Random _random = new(seed);
    private readonly ConcurrentDictionary<string, VmmConnection> _connections = new(StringComparer.Ordinal);

    public async Task<TResponse> CallAsync<TRequest, TResponse>(TRequest request, Func<VmService.VmServiceClient, TRequest, CallOptions, AsyncUnaryCall<TResponse>> call)
    {
        DateTime until = DateTime.UtcNow + Patience;
        while (true)
        {
            string[] frontends = [.. fleet.Frontends];
            try
            {
                if (frontends.Length > 0)
                {
                    VmmConnection connection = _connections.GetOrAdd(frontends[_random.Next(frontends.Length)], id => VmmConnection.Open(fleet.AddressOf(id)));
                    return await call(connection.Vms, request, new CallOptions(deadline: DateTime.UtcNow.AddSeconds(20)));
                }
            }
            catch (RpcException exception) when (IsToBeRepeated(exception) && DateTime.UtcNow < until)
            {
                // Who knows whether it was done: the same id asks again.
            }

            await Task.Delay(_random.Next(100));
        }
    }

    public static bool IsToBeRepeated(RpcException exception) =>
        exception.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded or StatusCode.Cancelled || VmmError.From(exception).Reason is "NO_WORKER" or "OVERLOADED" or "OUT_OF_MEMORY";

    public void Dispose()
    {
        foreach (VmmConnection connection in _connections.Values)
            connection.Dispose();
    }
}

/// <summary>
/// A client that goes on by itself: makes VMs, changes and deletes them, and asks again for what it was answered before. It remembers every
/// answer, and so knows what must be there.
/// </summary>
internal sealed class FleetLedger(FaultFleet fleet, int seed) : IDisposable
{
    private readonly FleetClient _client = fleet.Client(seed);
    private readonly Random _random = new(seed);
    private readonly Dictionary<string, Vm> _live = new(StringComparer.Ordinal);
    private readonly List<Func<Task>> _repetitions = [];
    private int _made;
    private int _done;

    /// <summary>What was acknowledged.</summary>
    public int Done => Volatile.Read(ref _done);

    private string Label => $"client{seed}";

    public async Task GoOnAsync(CancellationToken ending)
    {
        while (!ending.IsCancellationRequested)
        {
            await (_live.Count == 0 ? CreateAsync() : _random.Next(8) switch
            {
                0 when _live.Count < 8 => CreateAsync(),
                1 => DeleteAsync(),
                2 or 3 when _repetitions.Count > 0 => _repetitions[_random.Next(_repetitions.Count)](),
                _ => UpdateAsync(),
            });
            Interlocked.Increment(ref _done);
        }
    }

    /// <summary>Nothing acknowledged is lost, nothing is there twice, and every answer is given again.</summary>
    public async Task CheckAsync()
    {
        foreach (Func<Task> repeat in _repetitions)
            await repeat();
        ListVmsResponse all = await _client.CallAsync(new ListVmsRequest { Parent = FaultFleet.Project, PageSize = 1000 }, static (vms, request, options) => vms.ListVmsAsync(request, options));
        List<Vm> mine = [.. all.Vms.Where(vm => vm.Labels.ContainsKey(Label))];
        Assert.Equal(_live.Keys.Order(StringComparer.Ordinal), mine.Select(vm => vm.Name).Order(StringComparer.Ordinal));
        foreach (Vm vm in mine)
        {
            Assert.Equal((vm.Name, _live[vm.Name].Uid, _live[vm.Name].Labels), (vm.Name, vm.Uid, vm.Labels));
            Vm there = await _client.CallAsync(new GetVmRequest { Name = vm.Name }, static (vms, request, options) => vms.GetVmAsync(request, options));
            Assert.Equal((vm.Uid, vm.Labels), (there.Uid, there.Labels));
        }
    }

    public void Dispose() => _client.Dispose();

    private async Task CreateAsync()
    {
        CreateVmRequest request = fleet.Creation("", _random.Next(2) == 0 ? RestartPolicy.Restart : RestartPolicy.Never, (Label, $"{_made++}"));
        Vm made = await DoAsync(request, static (vms, creation, options) => vms.CreateVmAsync(creation, options));
        _live.Add(made.Name, made);
    }

    private async Task UpdateAsync()
    {
        string name = Any();
        var request = new UpdateVmRequest { Vm = new Vm { Name = name, Labels = { [Label] = $"{_made++}" } }, RequestId = Guid.NewGuid().ToString() };
        Vm changed = await DoAsync(request, static (vms, change, options) => vms.UpdateVmAsync(change, options));
        Assert.Equal(request.Vm.Labels, changed.Labels);
        _live[name] = changed;
    }

    private async Task DeleteAsync()
    {
        string name = Any();
        await DoAsync(new DeleteVmRequest { Name = name, RequestId = Guid.NewGuid().ToString() }, static (vms, deletion, options) => vms.DeleteVmAsync(deletion, options));
        _live.Remove(name);
    }

    private async Task<TResponse> DoAsync<TRequest, TResponse>(TRequest request, Func<VmService.VmServiceClient, TRequest, CallOptions, AsyncUnaryCall<TResponse>> call)
    {
        TResponse answer = await _client.CallAsync(request, call);
        _repetitions.Add(async () => Assert.Equal(answer, await _client.CallAsync(request, call)));
        return answer;
    }

    private string Any() => _live.Keys.ElementAt(_random.Next(_live.Count));
}
