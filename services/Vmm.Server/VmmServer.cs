using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Vmm.Frontend;
using Vmm.Frontend.Access;
using Vmm.Frontend.Fleet;
using Vmm.Machine;
using Vmm.Registry;
using Vmm.Registry.Certificates;
using Vmm.Registry.Channels;
using Vmm.Registry.InMemory;
using Vmm.Registry.Postgres;
using Vmm.Server.InProcess;
using Vmm.V1;
using Vmm.Worker;
using Vmm.Worker.Fleet;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Server;

/// <summary><c>vmmd</c>: front end, worker and registry in one process, or one of the first two, behind HTTP/2.</summary>
public sealed class VmmServer : IAsyncDisposable
{
    private static readonly TimeSpan ShutdownPatience = TimeSpan.FromSeconds(5);

    /// <summary>An image's chunk of 2 MiB and what is around it.</summary>
    private const int MaxWorkerMessageBytes = 8 << 20;
    private const int VcpusPerProcessor = 16;

    private readonly WebApplication _app;
    private readonly WorkerHost? _worker;
    private readonly FleetMember? _member;
    private readonly CancellationTokenSource _closing;
    private readonly string? _socket;
    private int _disposed;

    private VmmServer(WebApplication app, WorkerHost? worker, FleetMember? member, CancellationTokenSource closing, string? socket, string address)
    {
        _app = app;
        _worker = worker;
        _member = member;
        _closing = closing;
        _socket = socket;
        Address = address;
    }

    /// <summary>Where clients find it: <c>http://host:port</c> or <c>unix:/path</c>.</summary>
    public string Address { get; }

    /// <summary>Where Prometheus finds the metrics; null where <see cref="ServerOptions.Metrics"/> is.</summary>
    public string? MetricsAddress { get; private init; }

    /// <summary>Starts a server; it accepts calls when this returns.</summary>
    /// <exception cref="ArgumentException">The options are not acceptable; the message says which.</exception>
    /// <exception cref="IOException">It cannot listen there, or not keep its state there.</exception>
    /// <exception cref="Vmm.Worker.Storage.DamagedJournalException">The state directory is damaged.</exception>
    /// <exception cref="RpcException">The fleet's registry cannot be reached, or does not take this worker.</exception>
    public static async Task<VmmServer> StartAsync(ServerOptions options, IMachineFactory machines, TimeProvider? time = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(machines);
        time ??= TimeProvider.System;
        return await StartAsync(options, machines, time, null, null, cancellation);
    }

    /// <summary>As the other, for a process of a fleet that is given how it reaches the others: of a fleet in one process, say.</summary>
    /// <param name="options">What it is configured with.</param>
    /// <param name="machines">Makes the machines.</param>
    /// <param name="time">Real time.</param>
    /// <param name="registry">The fleet's, disposed of with the server; null for the one of the options.</param>
    /// <param name="connector">Calls workers; null for the way over HTTP/2.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="ArgumentException">The options are not acceptable; the message says which.</exception>
    /// <exception cref="IOException">It cannot listen there, or not keep its state there.</exception>
    /// <exception cref="Vmm.Worker.Storage.DamagedJournalException">The state directory is damaged.</exception>
    /// <exception cref="RpcException">The fleet's registry cannot be reached, or does not take this worker.</exception>
    public static async Task<VmmServer> StartAsync(
        ServerOptions options, IMachineFactory machines, TimeProvider time, IRegistry? registry, IWorkerConnector? connector, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(machines);
        ArgumentNullException.ThrowIfNull(time);
        var refused = new RefusedPeers(time);
        FleetIdentity? identity = IdentityOf(options, refused, time);
        Listener listener = Listener.Of(options, identity, refused, time);
        registry ??= await OpenRegistryAsync(options, time, cancellation);
        var closing = new CancellationTokenSource();
        var source = new FleetMemberSource();
        WorkerHost? worker = null;
        FleetMember? member = null;
        WebApplicationBuilder builder = Build(options, listener);
        // The container disposes of what it made itself: last of all, the registry.
        builder.Services.AddSingleton(_ => registry);
        builder.Services.AddSingleton(time);
        builder.Services.AddSingleton<HealthApi>();
        builder.Services.AddSingleton(new FrontendOptions { MaxVmMemoryMib = options.MaxVmMemoryMib, LeaseDuration = options.LeaseDuration, Closing = closing.Token });
        if (options.Role != ServerRole.Worker)
            AddFrontend(builder, options, identity, () => new InProcessInvoker(binder => VmHostService.BindService(binder, new WorkerApi(worker!))));
        else
            AddWorker(builder, source, identity, () => worker!);
        if (connector is not null)
            builder.Services.AddSingleton(connector);
        WebApplication app = builder.Build();
        ILogger<VmmServer> log = app.Services.GetRequiredService<ILogger<VmmServer>>();
        refused.Tell = log.ConnectionRefused;
        if (identity?.OwnProblem(options.Role == ServerRole.Worker ? FleetRole.Worker : FleetRole.Frontend, options.WorkerId) is { } problem)
            log.WillBeRefused(problem);
        _ = app.Services.GetRequiredService<IRegistry>();
        _ = app.Services.GetRequiredService<CallMeter>();
        _ = app.Services.GetService<FleetMeter>();
        Telemetry.Map(app, options);
        Map(app, options.Role);
        try
        {
            if (options.Role != ServerRole.Frontend)
                worker = await OpenWorkerAsync(options, machines, registry, time, app);
            // The worker has the state directory to itself by now.
            if (options.Role == ServerRole.All && registry is InMemoryRegistry here)
                AccessJournal.Open(options.StateDirectory, here);
            if (options.AdminTokenFile is { } file)
                await AdminToken.ApplyAsync(file, registry, cancellation);
            if (options.Role == ServerRole.All)
                member = await JoinAsync(worker!, registry, options, "", time, app, cancellation);
            listener.RemoveDeadSocket();
            await app.StartAsync(cancellation);
            if (listener.Socket is not null && !OperatingSystem.IsWindows())
                File.SetUnixFileMode(listener.Socket, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            string[] bound = [.. app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses];
            string address = listener.AddressFor(bound[0]);
            // A worker registers when it can be called.
            if (options.Role == ServerRole.Worker)
                source.Member = member = await JoinAsync(worker!, registry, options, address, time, app, cancellation);
            return new VmmServer(app, worker, member, closing, listener.Socket, address) { MetricsAddress = options.Metrics is null ? null : bound[^1] + Telemetry.MetricsPath };
        }
        catch
        {
            if (worker is not null)
                await worker.DisposeAsync();
            if (member is not null)
                await member.DisposeAsync();
            await app.DisposeAsync();
            throw;
        }
    }

    /// <summary>Stops every VM, ends every call, stops listening, and closes the state directory.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        // A worker of a fleet leaves it before it stops to answer.
        if (_worker is not null && _member is not null && _app.Services.GetService<FleetMemberSource>() is not null)
            await _member.DisposeAsync();
        // VMs first: consoles then carry their last output and end in order. Watches are cut off after the patience.
        Task listening = _app.StopAsync();
        if (_worker is not null)
            await _worker.DisposeAsync();
        await _closing.CancelAsync();
        await listening;
        if (_member is not null)
            await _member.DisposeAsync();
        await _app.DisposeAsync();
        _closing.Dispose();
        if (_socket is not null)
            File.Delete(_socket);
    }

    private static async Task<IRegistry> OpenRegistryAsync(ServerOptions options, TimeProvider time, CancellationToken cancellation)
    {
        if (options.Role == ServerRole.All)
            return options.Registry is null
                ? new InMemoryRegistry(new RegistryOptions { LeaseDuration = Timeout.InfiniteTimeSpan, AcceptsInventory = true, MaxEvents = options.WatchHistory, RequiresProjects = options.RequireTokens }, time)
                : throw new ArgumentException("A vmmd that is all in one has its own registry: start 'vmmd frontend' and 'vmmd worker' for a fleet.");
        return await PostgresRegistry.OpenAsync(
            options.Registry ?? throw new ArgumentException("A fleet's registry is needed: --registry, or VMMD_REGISTRY."),
            new RegistryOptions { LeaseDuration = options.LeaseDuration, MaxEvents = options.WatchHistory, RequiresProjects = options.RequireTokens },
            time,
            cancellation);
    }

    /// <exception cref="ArgumentException">The fleet's certificates cannot be used.</exception>
    private static FleetIdentity? IdentityOf(ServerOptions options, RefusedPeers refused, TimeProvider time)
    {
        if (options.FleetTls is not { } files)
            return null;
        if (options.Role == ServerRole.All)
            throw new ArgumentException("A vmmd that is all in one is no fleet: clients see the certificate of --tls-cert.");
        return new FleetIdentity(
            new OwnCertificate(files.Certificate, files.Key, time),
            new TrustedAuthorities(files.Authorities ?? throw new ArgumentException("The fleet's authority is needed: --fleet-ca."), time),
            refused);
    }

    private static WebApplicationBuilder Build(ServerOptions options, Listener listener)
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        if (options.LogFormat == LogFormat.Json)
        {
            builder.Logging.AddJsonConsole(console => console.IncludeScopes = true);
            builder.Logging.Configure(factory => factory.ActivityTrackingOptions = ActivityTrackingOptions.TraceId | ActivityTrackingOptions.SpanId);
        }
        else if (options.LogFormat == LogFormat.Systemd)
            builder.Logging.AddSystemdConsole();
        else
            builder.Logging.AddSimpleConsole(console => console.SingleLine = true);
        builder.Services.Configure<Microsoft.Extensions.Logging.Console.ConsoleLoggerOptions>(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
        builder.Logging.SetMinimumLevel(options.Verbose ? LogLevel.Information : LogLevel.Warning);
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning);
        builder.Logging.AddFilter("Grpc", LogLevel.Critical);
        builder.WebHost.UseKestrelCore();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = null;
            kestrel.Limits.MinRequestBodyDataRate = null;
            kestrel.Limits.MinResponseDataRate = null;
            kestrel.Limits.Http2.MaxStreamsPerConnection = 1000;
            kestrel.Limits.Http2.KeepAlivePingDelay = TimeSpan.FromSeconds(30);
            listener.Configure(kestrel);
            Telemetry.Listen(kestrel, options);
        });
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = ShutdownPatience);
        builder.Services.AddRouting();
        builder.Services.AddGrpc(grpc =>
        {
            grpc.Interceptors.Add<CallMeter>();
            grpc.EnableDetailedErrors = false;
            if (options.Role == ServerRole.Worker)
            {
                grpc.MaxReceiveMessageSize = MaxWorkerMessageBytes;
                grpc.Interceptors.Add<StatusInterceptor>();
                return;
            }

            grpc.Interceptors.Add<AuditInterceptor>();
            grpc.Interceptors.Add<StatusInterceptor>();
            grpc.Interceptors.Add<AdmissionInterceptor>();
            grpc.Interceptors.Add<AccessInterceptor>();
        });
        builder.Services.AddGrpcReflection();
        Telemetry.Add(builder, options);
        return builder;
    }

    private static void AddFrontend(WebApplicationBuilder builder, ServerOptions options, FleetIdentity? identity, Func<CallInvoker> worker)
    {
        builder.Services.AddSingleton<IAccessRegistry>(services => services.GetRequiredService<IRegistry>());
        builder.Services.AddSingleton<StreamPlaces>().AddHostedService(services => services.GetRequiredService<StreamPlaces>());
        builder.Services.AddSingleton<IAuthorizer, CallerAuthorizer>();
        builder.Services.AddSingleton<AdmissionInterceptor>();
        if (options.RequireTokens)
            builder.Services.AddSingleton<TokenVerifier>().AddSingleton<AuditTrail>();
        builder.Services.AddSingleton(services => new AccessInterceptor(services.GetService<TokenVerifier>(), services.GetRequiredService<TimeProvider>()));
        builder.Services.AddSingleton(services => new AuditInterceptor(services.GetService<AuditTrail>()));
        if (options.Role == ServerRole.All)
            builder.Services.AddSingleton<IWorkerConnector>(_ => new InProcessConnector(new VmHostService.VmHostServiceClient(worker())));
        else
            builder.Services.AddSingleton<IWorkerConnector>(_ => new ChannelConnector(identity)).AddHostedService<FailoverService>();
        builder.Services.AddSingleton<FleetMeter>().AddSingleton<FleetRouter>();
        builder.Services.AddSingleton<VmApi>();
        builder.Services.AddSingleton<ImageCopies>();
        builder.Services.AddSingleton<ImageApi>();
        builder.Services.AddSingleton<SnapshotApi>();
        builder.Services.AddSingleton<WorkersApi>();
        builder.Services.AddSingleton<ProjectsApi>();
        builder.Services.AddSingleton<AuditApi>();
        builder.Services.AddSingleton(services => new TokensApi(
            services.GetRequiredService<IAccessRegistry>(), services.GetRequiredService<IAuthorizer>(), services.GetService<TokenVerifier>(), services.GetRequiredService<TimeProvider>()));
    }

    private static void AddWorker(WebApplicationBuilder builder, FleetMemberSource member, FleetIdentity? identity, Func<WorkerHost> worker)
    {
        builder.Services.AddSingleton(member);
        builder.Services.AddSingleton<IWorkerConnector>(_ => new ChannelConnector(identity));
        builder.Services.AddSingleton(_ => new WorkerApi(worker()));
        builder.Services.AddGrpc().AddServiceOptions<WorkerApi>(service =>
        {
            service.Interceptors.Add<ForcedRecordingInterceptor>();
            service.Interceptors.Add<LeaseInterceptor>();
        });
    }

    private static void Map(WebApplication app, ServerRole role)
    {
        app.Use(next => context => StatusGuard.InvokeAsync(context, next));
        app.MapGrpcService<HealthApi>();
        app.MapGrpcReflectionService();
        if (role == ServerRole.Worker)
        {
            app.MapGrpcService<WorkerApi>();
            return;
        }

        app.MapGrpcService<VmApi>();
        app.MapGrpcService<ImageApi>();
        app.MapGrpcService<SnapshotApi>();
        app.MapGrpcService<WorkersApi>();
        app.MapGrpcService<ProjectsApi>();
        app.MapGrpcService<TokensApi>();
        app.MapGrpcService<AuditApi>();
    }

    private static async Task<WorkerHost> OpenWorkerAsync(ServerOptions options, IMachineFactory machines, IRegistry registry, TimeProvider time, WebApplication app)
    {
        WorkerHost worker = await WorkerHost.OpenAsync(
            new WorkerOptions
            {
                StateDirectory = options.StateDirectory,
                SharedSnapshotDirectory = options.SharedSnapshotDirectory,
                Name = options.WorkerId is { } id ? $"workers/{id}" : options.Role == ServerRole.All ? "workers/local" : null,
                AllowedPaths = options.AllowedPaths,
                MaxRunningMemoryMib = options.MaxRunningMemoryMib ?? long.MaxValue >> 20,
                MaxVms = options.MaxVms,
                MaxImageBytes = options.MaxImageBytes,
                ScrollbackBytes = options.ScrollbackBytes,
                MaxVmSeries = options.MaxVmSeries,
            },
            machines,
            registry,
            time,
            app.Services.GetRequiredService<ILogger<WorkerHost>>());
        if (options.Role == ServerRole.Worker)
            worker.ConnectTo(registry, app.Services.GetRequiredService<IWorkerConnector>());
        return worker;
    }

    private static Task<FleetMember> JoinAsync(WorkerHost worker, IRegistry registry, ServerOptions options, string address, TimeProvider time, WebApplication app, CancellationToken cancellation) => FleetMember.JoinAsync(
        worker,
        registry,
        new WorkerRegistration
        {
            Name = worker.Name,
            Directory = worker.DirectoryId,
            Address = address,
            Version = typeof(VmmServer).Assembly.GetName().Version!.ToString(3),
            Labels = options.WorkerLabels,
            // Alone, it is asked itself.
            HasSnapshotStore = options.Role == ServerRole.All ? null : options.SharedSnapshotDirectory is not null,
            // Alone, it has the limits that it checks itself when VMs are made and started.
            Capacity = options.Role == ServerRole.All
                ? new WorkerResources { Vms = int.MaxValue, Vcpus = int.MaxValue, MemoryMib = long.MaxValue >> 1 }
                : new WorkerResources
                {
                    Vms = options.MaxVms,
                    Vcpus = options.MaxVcpus ?? VcpusPerProcessor * Environment.ProcessorCount,
                    MemoryMib = options.MaxRunningMemoryMib ?? GC.GetGCMemoryInfo().TotalAvailableMemoryBytes >> 20,
                },
        },
        time,
        app.Services.GetRequiredService<ILogger<FleetMember>>(),
        cancellation);
}
