using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Vmm.Registry.Certificates;

namespace Vmm.Server;

/// <summary>Where a server listens, with TLS or without, and who may be let near it.</summary>
internal sealed class Listener
{
    private const string Unix = "unix:";
    private static readonly TimeSpan HandshakePatience = TimeSpan.FromSeconds(10);

    private readonly IPEndPoint? _endPoint;
    private readonly Func<EndPoint?, SslServerAuthenticationOptions>? _tls;
    private readonly string? _advertise;

    private Listener(IPEndPoint? endPoint, string? socket, Func<EndPoint?, SslServerAuthenticationOptions>? tls, string? advertise) =>
        (_endPoint, Socket, _tls, _advertise) = (endPoint, socket, tls, advertise);

    /// <summary>The path of the unix socket; null where it listens on the network.</summary>
    public string? Socket { get; }

    /// <summary>Reads where to listen, and refuses what would let in anybody.</summary>
    /// <param name="options">The options.</param>
    /// <param name="identity">Of a process of a fleet with mutual TLS.</param>
    /// <param name="refused">Hears of clients whose certificates are not accepted.</param>
    /// <param name="time">For renewed certificates.</param>
    /// <exception cref="ArgumentException">The options are not acceptable; the message says why, and what would be.</exception>
    public static Listener Of(ServerOptions options, FleetIdentity? identity, RefusedPeers refused, TimeProvider time)
    {
        if (options.Role == ServerRole.Worker && options.Tls is not null)
            throw new ArgumentException("A worker has no public API: it is called with the fleet's certificates, --fleet-cert, --fleet-key and --fleet-ca.");
        if (options.Role == ServerRole.Worker && options.RequireTokens)
            throw new ArgumentException("A worker has no public API: tokens are for 'vmmd' and 'vmmd frontend' to ask for.");
        if (options.Role != ServerRole.Worker && options.Advertise is not null)
            throw new ArgumentException("--advertise is a worker's: front ends are found by their clients.");
        string listen = options.Listen;
        if (listen.StartsWith(Unix, StringComparison.Ordinal) && listen.Length > Unix.Length)
            return options.Tls is null
                ? new Listener(null, Path.GetFullPath(listen[Unix.Length..]), null, null)
                : throw new ArgumentException($"There is no TLS on '{listen}': whoever may open a unix socket is for its folder's permissions to say.");
        string text = listen.StartsWith("localhost:", StringComparison.Ordinal) ? $"127.0.0.1:{listen["localhost:".Length..]}" : listen;
        if (!IPEndPoint.TryParse(text, out IPEndPoint? endPoint) || !text.Contains(':', StringComparison.Ordinal))
            throw new ArgumentException($"Cannot listen on '{listen}': write ADDRESS:PORT, as 127.0.0.1:7443 or [::1]:7443, localhost:PORT or unix:/PATH.");
        Func<EndPoint?, SslServerAuthenticationOptions>? tls = options.Role == ServerRole.Worker ? identity is null ? null : identity.ForListening : PublicTls(options.Tls, refused, time);
        if (!IPAddress.IsLoopback(endPoint.Address) && WhatIsMissing(options) is { } missing)
            throw new ArgumentException($"Will not listen on '{listen}', where others than this host's users can call: {missing}. Without, loopback addresses and unix sockets are possible.");
        if (options.Role == ServerRole.Worker && options.Advertise is null && (endPoint.Address.Equals(IPAddress.Any) || endPoint.Address.Equals(IPAddress.IPv6Any)))
            throw new ArgumentException($"A worker that listens on '{listen}', which is no address to call, has to say where the fleet reaches it: --advertise HOST:PORT.");
        return new Listener(endPoint, null, tls, options.Advertise);
    }

    /// <summary>Gives a server this place to listen.</summary>
    public void Configure(KestrelServerOptions kestrel)
    {
        if (_endPoint is null)
            kestrel.ListenUnixSocket(Socket!, Http2);
        else
            kestrel.Listen(_endPoint, Http2);

        void Http2(ListenOptions listen)
        {
            listen.Protocols = HttpProtocols.Http2;
            if (_tls is not null)
                listen.UseHttps(new TlsHandshakeCallbackOptions { OnConnection = connection => ValueTask.FromResult(_tls(connection.Connection.RemoteEndPoint)), HandshakeTimeout = HandshakePatience });
        }
    }

    /// <summary>Where it is found by those who are to call it.</summary>
    /// <param name="bound">What it listens on, as <c>http://host:port</c>.</param>
    public string AddressFor(string bound) =>
        Socket is not null ? Unix + Socket : _advertise is null ? bound : $"{(_tls is null ? "http" : "https")}://{_advertise}";

    /// <summary>Readies the way for a socket: a server that was killed leaves its socket behind; a living one answers on it.</summary>
    /// <exception cref="IOException">Another server listens there.</exception>
    public void RemoveDeadSocket()
    {
        if (Socket is null || !File.Exists(Socket))
            return;
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(Socket));
        }
        catch (SocketException exception) when (exception.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(Socket);
            return;
        }

        throw new IOException($"Another server listens on unix:{Socket}.");
    }

    private static string? WhatIsMissing(ServerOptions options) => options.Role == ServerRole.Worker
        ? options.FleetTls is null ? "a worker needs the fleet's certificates for that, --fleet-cert, --fleet-key and --fleet-ca ('vmmctl certs init' makes some)" : null
        : options.RequireTokens ? options.Tls is null ? "tokens would be read on their way without TLS, --tls-cert and --tls-key ('vmmctl certs init' makes some)" : null
        : options.Tls is null ? "TLS and tokens are needed for that, --tls-cert, --tls-key and --admin-token or --tokens"
        : "calls have to need tokens for that, --admin-token or --tokens";

    private static Func<EndPoint?, SslServerAuthenticationOptions>? PublicTls(TlsFiles? files, RefusedPeers refused, TimeProvider time)
    {
        if (files is null)
            return null;
        var certificate = new OwnCertificate(files.Certificate, files.Key, time);
        TrustedAuthorities? clients = files.Authorities is null ? null : new TrustedAuthorities(files.Authorities, time);
        return caller => new SslServerAuthenticationOptions
        {
            ServerCertificateContext = certificate.Current,
            ClientCertificateRequired = clients is not null,
            RemoteCertificateValidationCallback = clients is null ? null : (_, given, chain, _) =>
            {
                string? reason = clients.JudgeClient(given, chain);
                if (reason is not null)
                    refused.Note($"of {caller}, {reason}.");
                return reason is null;
            },
        };
    }
}
