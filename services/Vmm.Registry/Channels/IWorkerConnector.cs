using System.Collections.Concurrent;
using System.Globalization;
using System.Net.Sockets;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Vmm.Protos;
using Vmm.Registry.Certificates;
using Vmm.Worker.V1;

namespace Vmm.Registry.Channels;

/// <summary>Calls workers. Thread-safe.</summary>
public interface IWorkerConnector
{
    /// <summary>A client whose calls the worker takes only in the incarnation that is meant. Nothing is sent yet.</summary>
    VmHostService.VmHostServiceClient Connect(WorkerAddress worker);
}

/// <summary>What calls of workers carry.</summary>
public static class WorkerCall
{
    /// <summary>The header that says which incarnation of the worker is meant.</summary>
    public const string IncarnationHeader = "vmm-incarnation";

    /// <summary>The trailer of an answer whose call was recorded although a sampler had dropped it: its VM is under full trace.</summary>
    public const string ForcedTrailer = "vmm-trace-forced";
}

/// <summary>Calls workers over HTTP/2, with a connection to each that is kept.</summary>
/// <param name="identity">For mutual TLS; then no worker is called over the network without. Null where the fleet has none.</param>
public sealed class ChannelConnector(FleetIdentity? identity) : IWorkerConnector, IDisposable
{
    /// <summary>The API's largest messages are the chunks of images, of at most 2 MiB.</summary>
    private const int MaxMessageBytes = 8 << 20;
    private const int MaxChannels = 4096;

    // With the seconds at which .NET looks, a call of a worker that hangs fails after at most 8 s. One that is only short of processors has to answer
    // in time, because its streams break with the connection.
    private static readonly TimeSpan PingAfter = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan PingTimeout = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan ConnectTimeout = TimeSpan.FromSeconds(3);

    private readonly ConcurrentDictionary<(string Worker, string Address), GrpcChannel> _channels = [];
    private readonly ForcedRecording _forcedRecording = new();

    /// <inheritdoc/>
    public VmHostService.VmHostServiceClient Connect(WorkerAddress worker)
    {
        ArgumentNullException.ThrowIfNull(worker);
        if (_channels.Count > MaxChannels)
            Dispose();
        GrpcChannel channel = _channels.GetOrAdd((worker.Name, worker.Address), key => Open(key.Worker, key.Address));
        return new VmHostService.VmHostServiceClient(channel.Intercept(_forcedRecording).Intercept(headers =>
        {
            headers.Add(WorkerCall.IncarnationHeader, worker.Incarnation.ToString(CultureInfo.InvariantCulture));
            return headers;
        }));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((string Worker, string Address) key in _channels.Keys)
            if (_channels.TryRemove(key, out GrpcChannel? channel))
                channel.Dispose();
    }

    /// <exception cref="RpcException">UNAVAILABLE, reason WORKER_WITHOUT_TLS.</exception>
    private GrpcChannel Open(string worker, string address)
    {
        const string unix = "unix:";
        var handler = new SocketsHttpHandler
        {
            EnableMultipleHttp2Connections = true,
            // A process that hangs keeps its connections: only pings tell, and they are sent while a call waits.
            KeepAlivePingPolicy = HttpKeepAlivePingPolicy.WithActiveRequests,
            KeepAlivePingDelay = PingAfter,
            KeepAlivePingTimeout = PingTimeout,
            ConnectTimeout = ConnectTimeout,
            UseProxy = false,
        };
        HttpMessageHandler calls = handler;
        if (address.StartsWith(unix, StringComparison.Ordinal))
        {
            var endPoint = new UnixDomainSocketEndPoint(address[unix.Length..]);
            handler.ConnectCallback = (_, cancellation) => UnixSocketStream.ConnectAsync(endPoint, cancellation);
            address = "http://localhost";
        }
        else if (identity is not null)
        {
            if (!address.StartsWith("https://", StringComparison.Ordinal))
                throw ApiError.Unavailable("WORKER_WITHOUT_TLS", $"{worker} does not speak TLS, as this fleet does.");
            handler.SslOptions = identity.ForCalling(worker["workers/".Length..]);
            calls = new RefusalHandler(handler, () => identity.Refused(worker));
        }

        return GrpcChannel.ForAddress(address, new GrpcChannelOptions { HttpHandler = calls, DisposeHttpClient = true, MaxReceiveMessageSize = MaxMessageBytes, MaxSendMessageSize = MaxMessageBytes });
    }
}
