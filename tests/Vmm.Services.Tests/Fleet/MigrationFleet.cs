using System.Globalization;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.Registry.InMemory;
using Vmm.Server;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Services.Tests.Fleet;

/// <summary>A front end and two workers in this process, that reach each other over HTTP/2 and share a registry, both of which can be made to fail.</summary>
internal sealed class MigrationFleet : IAsyncDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-migration-").FullName;
    private readonly InMemoryRegistry _registry = new(new RegistryOptions { LeaseDuration = TimeSpan.FromMinutes(10) }, TimeProvider.System);
    private readonly Dictionary<string, VmmServer> _servers = [];
    private readonly Connector _connector;
    private readonly TimeProvider _time;

    private MigrationFleet(TimeProvider? time = null) => (_time, _connector) = (time ?? TimeProvider.System, new Connector(this, "test"));

    /// <summary>Asked before a message goes from the source of a move to its target; may throw.</summary>
    public Action<ReceiveVmRequest> BeforeSend { get; set; } = static _ => { };

    /// <summary>Asked before a message of the target is taken by the source; may throw.</summary>
    public Action<ReceiveVmResponse> BeforeTake { get; set; } = static _ => { };

    /// <summary>Looks at what a process hands to the registry: gets the process, the method's name, and the arguments, which it may change.</summary>
    public Action<string, string, object?[]> BeforeRegistry { get; init; } = static (_, _, _) => { };

    /// <summary>Stands between one process and another that it calls: gets the names of both.</summary>
    public Func<string, string, Interceptor?> Between { get; init; } = static (_, _) => null;

    /// <summary>Stands in the way of the registry's methods: gets the method's name and what does it.</summary>
    public Func<string, Func<Task>, Task> AroundRegistry { get; set; } = static (_, call) => call();

    public FakeFactory A { get; } = new();

    public FakeFactory B { get; } = new();

    public VmmConnection Connection { get; private set; } = null!;

    public VmService.VmServiceClient Vms => Connection.Vms;

    public IRegistry Registry => _registry;

    public string StateOf(string worker) => Path.Combine(_folder, worker);

    /// <summary>Starts it, with fake machines or with those of the engine.</summary>
    /// <param name="real">Those of the engine.</param>
    /// <param name="time">The processes' own; null for the system's. The registry has the system's.</param>
    public static Task<MigrationFleet> StartAsync(bool real = false, TimeProvider? time = null) => StartAsync(new MigrationFleet(time), real);

    /// <summary>Starts one in which something stands between processes, or between them and the registry.</summary>
    public static Task<MigrationFleet> StartAsync(Func<string, string, Interceptor?> between, Action<string, string, object?[]> beforeRegistry) =>
        StartAsync(new MigrationFleet { Between = between, BeforeRegistry = beforeRegistry }, real: false);

    private static async Task<MigrationFleet> StartAsync(MigrationFleet fleet, bool real)
    {
        await fleet.StartAsync("frontend", ServerRole.Frontend, fleet.A);
        await fleet.StartAsync("a", ServerRole.Worker, real ? new MachineFactory() : fleet.A);
        await fleet.StartAsync("b", ServerRole.Worker, real ? new MachineFactory() : fleet.B);
        fleet.Connection = VmmConnection.Open(fleet._servers["frontend"].Address);
        return fleet;
    }

    /// <summary>A file that every worker has under the same path.</summary>
    public string Write(string name, byte[] content)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllBytes(path, content);
        return path;
    }

    /// <summary>Calls a worker as another worker does.</summary>
    public VmHostService.VmHostServiceClient Connect(WorkerAddress worker) => _connector.Connect(worker);

    /// <summary>Likewise, for methods that are known by their descriptors only.</summary>
    public CallInvoker CallerOf(WorkerAddress worker) => _connector.CallerOf(worker);

    /// <summary>Ends a process of the fleet in order.</summary>
    public async Task StopAsync(string name)
    {
        _servers.Remove(name, out VmmServer? server);
        await server!.DisposeAsync();
    }

    /// <summary>Starts a worker again, with the state that it had.</summary>
    public Task RestartAsync(string worker, FakeFactory machines) => StartAsync(worker, ServerRole.Worker, machines);

    public async ValueTask DisposeAsync()
    {
        Connection.Dispose();
        _connector.Dispose();
        foreach (VmmServer server in _servers.Values)
            await server.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    private async Task StartAsync(string name, ServerRole role, IMachineFactory machines)
    {
        var options = new ServerOptions
        {
            Role = role,
            StateDirectory = Path.Combine(_folder, name),
            Listen = $"unix:{Path.Combine(_folder, $"{name}.socket")}",
            WorkerId = role == ServerRole.Worker ? name : null,
            AllowedPaths = null,
            MaxVms = 100,
            MaxVcpus = 100,
            MaxRunningMemoryMib = 2000,
        };
        // It outlives each of them.
        IRegistry registry = RegistryProxy.Of(_registry, isOwner: false, (method, arguments) => BeforeRegistry(name, method, arguments), (method, call) => AroundRegistry(method, call));
        _servers[name] = await VmmServer.StartAsync(options, machines, _time, registry, new Connector(this, name));
    }

    private sealed class Connector(MigrationFleet fleet, string caller) : IWorkerConnector, IDisposable
    {
        private readonly Dictionary<string, GrpcChannel> _channels = [];

        public VmHostService.VmHostServiceClient Connect(WorkerAddress worker) => new(CallerOf(worker));

        public CallInvoker CallerOf(WorkerAddress worker)
        {
            lock (_channels)
            {
                if (!_channels.TryGetValue(worker.Address, out GrpcChannel? channel))
                {
                    var endPoint = new System.Net.Sockets.UnixDomainSocketEndPoint(worker.Address["unix:".Length..]);
                    var handler = new SocketsHttpHandler { ConnectCallback = (_, cancellation) => UnixSocketStream.ConnectAsync(endPoint, cancellation), EnableMultipleHttp2Connections = true };
                    _channels[worker.Address] = channel = GrpcChannel.ForAddress("http://localhost", new GrpcChannelOptions { HttpHandler = handler, DisposeHttpClient = true, MaxReceiveMessageSize = 8 << 20 });
                }

                CallInvoker invoker = channel.Intercept(new MoveSaboteur(request => fleet.BeforeSend(request), response => fleet.BeforeTake(response)));
                if (fleet.Between(caller, worker.Name["workers/".Length..]) is { } between)
                    invoker = invoker.Intercept(between);
                return invoker.Intercept(headers =>
                {
                    headers.Add(WorkerCall.IncarnationHeader, worker.Incarnation.ToString(CultureInfo.InvariantCulture));
                    return headers;
                });
            }
        }

        public void Dispose()
        {
            foreach (GrpcChannel channel in _channels.Values)
                channel.Dispose();
        }
    }
}
