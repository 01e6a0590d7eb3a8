using System.Net.Sockets;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Client;

/// <summary>
/// A connection to a server. The stubs give every change a request id where the caller set none and repeat a unary call that
/// ended UNAVAILABLE, so that a change is done once however often it is sent. Thread-safe.
/// </summary>
public sealed class VmmConnection : IDisposable
{
    /// <summary>Messages larger than this are refused; the API's largest are the 1 MiB of ReadMemory and 1,000 VMs of a page.</summary>
    private const int MaxMessageBytes = 64 << 20;

    /// <summary>The source of the spans of calls, as <see cref="System.Diagnostics.ActivitySource"/> has it: one for each call, which servers continue.</summary>
    public const string TraceSource = "Vmm.Client";

    private readonly GrpcChannel _channel;

    private VmmConnection(GrpcChannel channel, string address, string? token)
    {
        _channel = channel;
        Address = address;
        CallInvoker invoker = channel.CreateCallInvoker();
        if (token is not null)
            invoker = invoker.Intercept(headers => [.. headers, new Metadata.Entry("authorization", $"Bearer {token}")]);
        invoker = invoker.Intercept(new RetryInterceptor(TimeProvider.System)).Intercept(new TracingInterceptor());
        Vms = new VmService.VmServiceClient(invoker);
        Images = new ImageService.ImageServiceClient(invoker);
        Snapshots = new SnapshotService.SnapshotServiceClient(invoker);
        Workers = new WorkerService.WorkerServiceClient(invoker);
        Projects = new ProjectService.ProjectServiceClient(invoker);
        Tokens = new TokenService.TokenServiceClient(invoker);
        Audit = new AuditService.AuditServiceClient(invoker);
    }

    /// <summary>The address as it was given.</summary>
    public string Address { get; }

    /// <summary>VMs.</summary>
    public VmService.VmServiceClient Vms { get; }

    /// <summary>Images.</summary>
    public ImageService.ImageServiceClient Images { get; }

    /// <summary>Snapshots.</summary>
    public SnapshotService.SnapshotServiceClient Snapshots { get; }

    /// <summary>Workers, for operators.</summary>
    public WorkerService.WorkerServiceClient Workers { get; }

    /// <summary>Projects, for administrators.</summary>
    public ProjectService.ProjectServiceClient Projects { get; }

    /// <summary>Tokens, for administrators.</summary>
    public TokenService.TokenServiceClient Tokens { get; }

    /// <summary>The audit log, for administrators.</summary>
    public AuditService.AuditServiceClient Audit { get; }

    /// <summary>
    /// Prepares a connection; nothing is sent yet. Addresses: <c>http://host:port</c> (HTTP/2 without TLS),
    /// <c>https://host:port</c>, <c>unix:/path/of/socket</c>, and <c>host:port</c> for the first.
    /// </summary>
    /// <param name="address">The server's address.</param>
    /// <param name="credentials">Whom to trust and what to show; null for the system's authorities and nothing.</param>
    /// <exception cref="ArgumentException">This is not an address, or the credentials cannot be used with it; the message says why.</exception>
    /// <exception cref="IOException">A file of the credentials cannot be read.</exception>
    public static VmmConnection Open(string address, VmmCredentials? credentials = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(address);
        credentials ??= new VmmCredentials();
        var handler = new SocketsHttpHandler
        {
            // One HTTP/2 connection carries 100 streams; a client may well watch more consoles than that.
            EnableMultipleHttp2Connections = true,
            PooledConnectionIdleTimeout = Timeout.InfiniteTimeSpan,
            KeepAlivePingDelay = TimeSpan.FromSeconds(30),
            KeepAlivePingTimeout = TimeSpan.FromSeconds(20),
            ConnectTimeout = TimeSpan.FromSeconds(10),
            UseProxy = false,
        };
        HttpMessageHandler calls = handler;
        string target;
        if (address.StartsWith("unix:", StringComparison.Ordinal))
        {
            string path = address["unix:".Length..];
            if (path.StartsWith("//", StringComparison.Ordinal))
                path = path[2..];
            UnixDomainSocketEndPoint endPoint;
            try
            {
                endPoint = new UnixDomainSocketEndPoint(path);
            }
            catch (ArgumentException exception)
            {
                throw new ArgumentException($"'{address}' does not name a unix socket: {exception.Message}", nameof(address), exception);
            }

            handler.ConnectCallback = (_, cancellation) => UnixSocketStream.ConnectAsync(endPoint, cancellation);
            target = "http://localhost";
        }
        else
        {
            target = address.Contains("://", StringComparison.Ordinal) ? address : $"http://{address}";
            if (!Uri.TryCreate(target, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https") || uri.Host.Length == 0)
                throw new ArgumentException($"'{address}' is not a server's address: write http://host:port, https://host:port or unix:/path.", nameof(address));
            calls = credentials.ApplyTo(handler, uri);
        }

        return new VmmConnection(
            GrpcChannel.ForAddress(target, new GrpcChannelOptions
            {
                HttpHandler = calls,
                DisposeHttpClient = true,
                MaxReceiveMessageSize = MaxMessageBytes,
                MaxSendMessageSize = MaxMessageBytes,
            }),
            address,
            credentials.Token);
    }

    /// <inheritdoc/>
    public void Dispose() => _channel.Dispose();
}
