using System.Net;
using System.Net.Sockets;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Vmm.Frontend;
using Vmm.Frontend.Fleet;
using Vmm.Machine;
using Vmm.Server.InProcess;
using Vmm.Worker;
using Vmm.Worker.V1;

namespace Vmm.Server;

/// <summary><c>vmmd</c>: front end, worker and registry in one process, behind HTTP/2 on loopback or a unix socket.</summary>
public sealed class VmmServer : IAsyncDisposable
{
    private static readonly TimeSpan ShutdownPatience = TimeSpan.FromSeconds(5);

    private readonly WebApplication _app;
    private readonly WorkerHost _worker;
    private readonly string? _socket;
    private int _disposed;

    private VmmServer(WebApplication app, WorkerHost worker, string? socket, string address)
    {
        _app = app;
        _worker = worker;
        _socket = socket;
        Address = address;
    }

    /// <summary>Where clients find it: <c>http://host:port</c> or <c>unix:/path</c>.</summary>
    public string Address { get; }

    /// <summary>Starts a server; it accepts calls when this returns.</summary>
    /// <exception cref="ArgumentException">The options are not acceptable; the message says which.</exception>
    /// <exception cref="IOException">It cannot listen there, or not keep its state there.</exception>
    /// <exception cref="Vmm.Worker.Storage.DamagedJournalException">The state directory is damaged.</exception>
    public static async Task<VmmServer> StartAsync(ServerOptions options, IMachineFactory machines, TimeProvider? time = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(machines);
        time ??= TimeProvider.System;
        (IPEndPoint? endPoint, string? socket) = ParseListen(options.Listen);

        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
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
            if (endPoint is not null)
                kestrel.Listen(endPoint, listen => listen.Protocols = HttpProtocols.Http2);
            else
                kestrel.ListenUnixSocket(socket!, listen => listen.Protocols = HttpProtocols.Http2);
        });
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = ShutdownPatience);
        builder.Services.AddRouting();
        builder.Services.AddGrpc(grpc =>
        {
            grpc.Interceptors.Add<StatusInterceptor>();
            grpc.EnableDetailedErrors = false;
        });

        WorkerHost? worker = null;
        builder.Services.AddSingleton(time);
        builder.Services.AddSingleton<IAuthorizer, SingleUserAuthorizer>();
        builder.Services.AddSingleton(new FrontendOptions { MaxVmMemoryMib = options.MaxVmMemoryMib });
        builder.Services.AddSingleton<IFleetRegistry>(_ => new InMemoryRegistry(new WorkerEndpoint(
            "local", new VmHostService.VmHostServiceClient(new InProcessInvoker(binder => VmHostService.BindService(binder, new WorkerApi(worker!)))))));
        builder.Services.AddSingleton<VmApi>();
        builder.Services.AddSingleton<ImageApi>();
        builder.Services.AddSingleton<SnapshotApi>();
        builder.Services.AddSingleton<HealthApi>();
        WebApplication app = builder.Build();
        app.Use(next => context => StatusGuard.InvokeAsync(context, next));
        app.MapGrpcService<VmApi>();
        app.MapGrpcService<ImageApi>();
        app.MapGrpcService<SnapshotApi>();
        app.MapGrpcService<HealthApi>();
        try
        {
            worker = await WorkerHost.OpenAsync(
                new WorkerOptions
                {
                    StateDirectory = options.StateDirectory,
                    AllowedPaths = options.AllowedPaths,
                    MaxRunningMemoryMib = options.MaxRunningMemoryMib ?? long.MaxValue >> 20,
                    MaxVms = options.MaxVms,
                    MaxImageBytes = options.MaxImageBytes,
                    ScrollbackBytes = options.ScrollbackBytes,
                    WatchHistory = options.WatchHistory,
                },
                machines,
                time,
                app.Services.GetRequiredService<ILogger<WorkerHost>>());
            if (socket is not null)
                RemoveDeadSocket(socket);
            await app.StartAsync(cancellation);
            if (socket is not null && !OperatingSystem.IsWindows())
                File.SetUnixFileMode(socket, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            string address = socket is not null ? $"unix:{socket}" : app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First();
            return new VmmServer(app, worker, socket, address);
        }
        catch
        {
            if (worker is not null)
                await worker.DisposeAsync();
            await app.DisposeAsync();
            throw;
        }
    }

    /// <summary>Stops every VM, ends every call, stops listening, and closes the state directory.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        // VMs first: consoles then carry their last output and end in order. Watches are cut off after the patience.
        Task listening = _app.StopAsync();
        await _worker.DisposeAsync();
        await listening;
        await _app.DisposeAsync();
        if (_socket is not null)
            File.Delete(_socket);
    }

    private static (IPEndPoint? EndPoint, string? Socket) ParseListen(string listen)
    {
        const string unix = "unix:";
        if (listen.StartsWith(unix, StringComparison.Ordinal) && listen.Length > unix.Length)
            return (null, Path.GetFullPath(listen[unix.Length..]));
        string text = listen.StartsWith("localhost:", StringComparison.Ordinal) ? $"127.0.0.1:{listen["localhost:".Length..]}" : listen;
        if (!IPEndPoint.TryParse(text, out IPEndPoint? endPoint) || !text.Contains(':', StringComparison.Ordinal))
            throw new ArgumentException($"Cannot listen on '{listen}': write 127.0.0.1:PORT, [::1]:PORT, localhost:PORT or unix:/PATH.");
        if (!IPAddress.IsLoopback(endPoint.Address))
            throw new ArgumentException($"Will not listen on '{listen}': there is no authentication yet, so only loopback addresses and unix sockets are possible.");
        return (endPoint, null);
    }

    /// <summary>A server that was killed leaves its socket behind; a living one answers on it.</summary>
    private static void RemoveDeadSocket(string path)
    {
        if (!File.Exists(path))
            return;
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException exception) when (exception.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(path);
            return;
        }

        throw new IOException($"Another server listens on unix:{path}.");
    }
}
