using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Vmm.Protos;
using Vmm.Registry.Certificates;

namespace Vmm.Server;

/// <summary>
/// <c>vmmd health</c>: asks the server that runs with the same options on this host whether it serves, for the health checks of
/// containers. It shows the server's own certificate and expects to see it.
/// </summary>
internal static class HealthProbe
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(8);

    /// <summary>Asks.</summary>
    /// <returns>Null where it serves, or why it is not known to.</returns>
    /// <exception cref="ArgumentException">The options are not a server's.</exception>
    public static async Task<string?> AskAsync(ServerOptions options, CancellationToken cancellation)
    {
        var handler = new SocketsHttpHandler { UseProxy = false, ConnectTimeout = Patience };
        TlsFiles? files = options.Role == ServerRole.Worker ? options.FleetTls : options.Tls;
        using GrpcChannel channel = GrpcChannel.ForAddress(AddressOf(options, handler, files), new GrpcChannelOptions { HttpHandler = handler, DisposeHttpClient = true });
        try
        {
            HealthCheckResponse answer = await new Health.HealthClient(channel).CheckAsync(new HealthCheckRequest(), deadline: DateTime.UtcNow + Patience, cancellationToken: cancellation);
            return answer.Status == HealthCheckResponse.Types.ServingStatus.Serving ? null : $"The server answers {answer.Status}.";
        }
        catch (RpcException exception)
        {
            return $"The server does not answer: {exception.Status.Detail}";
        }
    }

    private static string AddressOf(ServerOptions options, SocketsHttpHandler handler, TlsFiles? files)
    {
        const string unix = "unix:";
        if (options.Listen.StartsWith(unix, StringComparison.Ordinal))
        {
            var endPoint = new UnixDomainSocketEndPoint(Path.GetFullPath(options.Listen[unix.Length..]));
            handler.ConnectCallback = (_, connecting) => UnixSocketStream.ConnectAsync(endPoint, connecting);
            return "http://localhost";
        }

        if (!IPEndPoint.TryParse(options.Listen.Replace("localhost:", "127.0.0.1:", StringComparison.Ordinal), out IPEndPoint? listens))
            throw new ArgumentException($"Nothing can listen on '{options.Listen}'.");
        IPAddress address = listens.Address.Equals(IPAddress.Any) ? IPAddress.Loopback : listens.Address.Equals(IPAddress.IPv6Any) ? IPAddress.IPv6Loopback : listens.Address;
        if (files is null)
            return $"http://{new IPEndPoint(address, listens.Port)}";
        SslStreamCertificateContext own = new OwnCertificate(files.Certificate, files.Key, TimeProvider.System).Current;
        handler.SslOptions = new SslClientAuthenticationOptions
        {
            ClientCertificateContext = own,
            // After a renewal the server may show the one before for a moment: of the same holder it is then, not the same bytes.
            RemoteCertificateValidationCallback = (_, shown, _, _) => shown is X509Certificate2 && shown.Subject == own.TargetCertificate.Subject && shown.Issuer == own.TargetCertificate.Issuer,
        };
        return $"https://{new IPEndPoint(address, listens.Port)}";
    }
}
