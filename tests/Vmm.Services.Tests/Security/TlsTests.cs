using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using Grpc.Core;
using Vmm.Client;
using Vmm.Registry.Certificates;
using Vmm.Server;
using Vmm.Services.Tests.Fleet;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Security;

/// <summary>TLS of the public API.</summary>
public sealed class TlsTests : ServerTest
{
    private string Lab => Path.Combine(Folder, "lab");

    private string Authority => Path.Combine(Lab, "ca.crt");

    protected override ServerOptions Options => base.Options with
    {
        Tls = new TlsFiles { Certificate = Path.Combine(Lab, "frontend.crt"), Key = Path.Combine(Lab, "frontend.key"), Authorities = Authority },
    };

    private VmmCredentials Client => new() { Authorities = Authority, Certificate = Path.Combine(Lab, "client.crt"), Key = Path.Combine(Lab, "client.key") };

    public override async Task InitializeAsync()
    {
        await LabCertificates.MakeAsync("init", Lab);
        await base.InitializeAsync();
    }

    [Fact]
    public async Task Clients_with_a_certificate_of_the_authority_are_served_and_no_others()
    {
        using VmmConnection trusted = VmmConnection.Open(Server.Address, Client);
        Assert.Empty((await trusted.Vms.ListVmsAsync(new ListVmsRequest())).Vms);
        string other = Path.Combine(Folder, "other");
        await LabCertificates.MakeAsync("init", other);
        string expired = Path.Combine(Lab, "expired");
        LabCertificates.Issue(Lab, "expired", "spiffe://vmm/client", DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch.AddDays(1));
        const string hangsUp = "the server hangs up on a client ";
        foreach ((VmmCredentials credentials, string says) in ((VmmCredentials, string)[])
        [
            (Client with { Certificate = null, Key = null }, $"{hangsUp}that has shown no certificate"),
            (Client with { Certificate = Path.Combine(other, "client.crt"), Key = Path.Combine(other, "client.key") }, $"{hangsUp}with the certificate in {Path.Combine(other, "client.crt")}, which is valid from "),
            (Client with { Certificate = $"{expired}.crt", Key = $"{expired}.key" }, $"{hangsUp}with the certificate in {expired}.crt, which is valid from 1970-01-01 00:00:00Z to 1970-01-02 00:00:00Z"),
            (Client with { Authorities = Path.Combine(other, "ca.crt") }, "the server's certificate is not of the given authority"),
            (Client with { Authorities = null }, "the server's certificate is not of an authority of this system"),
        ])
        {
            using VmmConnection refused = VmmConnection.Open(Server.Address, credentials);
            RpcException exception = await Assert.ThrowsAsync<RpcException>(async () => await refused.Vms.ListVmsAsync(new ListVmsRequest()));
            Assert.Equal("", VmmError.From(exception).Reason);
            Assert.StartsWith(says, exception.Status.DebugException!.GetBaseException().Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task A_certificate_that_is_renewed_is_shown_without_a_restart()
    {
        using VmmConnection before = VmmConnection.Open(Server.Address, Client);
        await before.Vms.ListVmsAsync(new ListVmsRequest());
        string first = await ShownAsync();
        // A certificate whose key is not there yet leaves the old ones in use.
        string key = Path.Combine(Lab, "frontend.key");
        string old = await File.ReadAllTextAsync(key);
        await LabCertificates.MakeAsync("renew", Lab);
        string next = await File.ReadAllTextAsync(key);
        await File.WriteAllTextAsync(key, old);
        Time.Advance(TimeSpan.FromSeconds(2));
        Assert.Equal(first, await ShownAsync());
        await File.WriteAllTextAsync(key, next);
        Time.Advance(TimeSpan.FromSeconds(2));
        Assert.NotEqual(first, await ShownAsync());

        // Who is connected stays so, and others come with renewed certificates.
        await before.Vms.ListVmsAsync(new ListVmsRequest());
        using VmmConnection after = VmmConnection.Open(Server.Address, Client);
        await after.Vms.ListVmsAsync(new ListVmsRequest());
    }

    [Fact]
    public async Task Nobody_listens_where_others_can_call_without_what_it_takes()
    {
        foreach ((ServerOptions options, string says) in ((ServerOptions, string)[])
        [
            (base.Options with { Listen = "0.0.0.0:0" }, "TLS and tokens"),
            (base.Options with { Listen = "0.0.0.0:0", RequireTokens = true }, "--tls-cert"),
            (Options with { Listen = "0.0.0.0:0" }, "--admin-token"),
            (base.Options with { Role = ServerRole.Worker, RequireTokens = true }, "no public API"),
            (base.Options with { Role = ServerRole.Worker, Listen = "0.0.0.0:0" }, "--fleet-cert"),
            (base.Options with { Role = ServerRole.Worker, Listen = "0.0.0.0:0", FleetTls = LabCertificates.At(Path.Combine(Lab, "worker")) }, "--advertise"),
            (base.Options with { Listen = "unix:/tmp/x", Tls = Options.Tls }, "no TLS"),
            (base.Options with { FleetTls = LabCertificates.At(Path.Combine(Lab, "worker")) }, "no fleet"),
            (base.Options with { Tls = Options.Tls! with { Key = Path.Combine(Lab, "worker.key") } }, "frontend.crt"),
            (base.Options with { Tls = Options.Tls! with { Certificate = "/nonexistent" } }, "/nonexistent"),
        ])
        {
            ArgumentException refused = await Assert.ThrowsAnyAsync<ArgumentException>(() => VmmServer.StartAsync(options with { StateDirectory = Path.Combine(Folder, "none") }, Factory, Time));
            Assert.Contains(says, refused.Message, StringComparison.Ordinal);
        }

        await using VmmServer open = await VmmServer.StartAsync(
            Options with { Listen = "0.0.0.0:0", AdminTokenFile = Path.Combine(Folder, "token"), RequireTokens = true, StateDirectory = Path.Combine(Folder, "open") }, Factory, Time);
        string secret = (await File.ReadAllTextAsync(Path.Combine(Folder, "token"))).Trim();
        using VmmConnection admin = VmmConnection.Open(open.Address.Replace("0.0.0.0", "127.0.0.1", StringComparison.Ordinal), Client with { Token = secret });
        Assert.Equal("tokens/admin", (await admin.Tokens.ListTokensAsync(new ListTokensRequest())).Tokens.Single().Name);
    }

    [Theory]
    [InlineData("worker-a", FleetRole.Worker, "a")]
    [InlineData("frontend", FleetRole.Frontend, null)]
    public async Task A_certificate_says_what_its_holder_is_to_the_fleet(string name, FleetRole role, string? id)
    {
        string folder = Path.Combine(Folder, "roles");
        await LabCertificates.MakeAsync("init", folder, "--worker", "a");
        using X509Certificate2 certificate = X509CertificateLoader.LoadCertificateFromFile(Path.Combine(folder, $"{name}.crt"));
        Assert.Equal(new FleetPeer(role, id), FleetPeer.Of(certificate));
        using X509Certificate2 client = X509CertificateLoader.LoadCertificateFromFile(Path.Combine(folder, "client.crt"));
        Assert.Null(FleetPeer.Of(client));
    }

    private async Task<string> ShownAsync()
    {
        using var socket = new TcpClient();
        await socket.ConnectAsync(IPEndPoint.Parse(Server.Address["https://".Length..]), Soon);
        await using var tls = new SslStream(socket.GetStream(), false, static (_, _, _, _) => true);
        await tls.AuthenticateAsClientAsync(new SslClientAuthenticationOptions { TargetHost = "localhost", ApplicationProtocols = [SslApplicationProtocol.Http2] }, Soon);
        return tls.RemoteCertificate!.GetSerialNumberString();
    }
}
