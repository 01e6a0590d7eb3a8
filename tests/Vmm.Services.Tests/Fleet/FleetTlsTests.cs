using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using System.Text.RegularExpressions;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.Registry;
using Vmm.Registry.Certificates;
using Vmm.Registry.Channels;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Mutual TLS between the processes of a fleet.</summary>
[Collection(PostgresTests.Name)]
public sealed partial class FleetTlsTests(SharedPostgres postgres) : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-tls-").FullName;
    private readonly List<FleetProcess> _processes = [];

    private string Lab => Path.Combine(_folder, "lab");

    public Task InitializeAsync() => LabCertificates.MakeAsync("init", Lab, "--worker", "a", "--worker", "b");

    public Task DisposeAsync()
    {
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
        return Task.CompletedTask;
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_fleet_with_certificates_serves_and_fetches_images_between_workers()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess frontend = await FrontendAsync(registry);
        FleetProcess[] workers = await Task.WhenAll(WorkerAsync(registry, "a", "worker-a"), WorkerAsync(registry, "b", "worker-b"));
        Assert.All(workers, worker => Assert.StartsWith("https://", worker.Address, StringComparison.Ordinal));
        Assert.StartsWith("https://", frontend.Address, StringComparison.Ordinal);
        using VmmConnection connection = frontend.Connect(new VmmCredentials { Authorities = Path.Combine(Lab, "ca.crt") });
        string kernel = Path.Combine(_folder, "kernel");
        await File.WriteAllTextAsync(kernel, "kernel");
        Image image = await connection.PushImageAsync(kernel, "projects/default");
        foreach (string id in (string[])["a", "b"])
        {
            var spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Image = image.Name }, Placement = new PlacementSpec { WorkerLabels = { ["id"] = id } } };
            Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = id, Vm = new Vm { Spec = spec } });
            Assert.Equal(VmState.Running, (await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name })).Status.State);
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_talks_only_to_who_the_fleets_authority_says_is_of_the_fleet()
    {
        FleetProcess worker = await WorkerAsync(await postgres.NewSchemaAsync(), "a", "worker-a");
        string other = Path.Combine(_folder, "other");
        await LabCertificates.MakeAsync("init", other);
        // Who may: it has no lease of this incarnation, and says so, which is an answer.
        foreach (string name in (string[])["frontend", "worker-b"])
            Assert.Equal("STALE_PLACEMENT", VmmError.From(await CallAsync(Path.Combine(Lab, name))).Reason);
        // A client's certificate is of the authority too; the other authority's says the right thing; and none says nothing.
        foreach (string? path in (string?[])[Path.Combine(Lab, "client"), Path.Combine(other, "frontend"), null])
            Assert.Equal("", VmmError.From(await CallAsync(path)).Reason);
        // The first of them is in the log with the reason, others only after a while.
        await Eventually.HoldsAsync(() => Refusal().IsMatch(worker.Output), "the refusal is in the log", [worker]);
        Assert.DoesNotContain("is not of an authority", worker.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("will refuse this process", worker.Output, StringComparison.Ordinal);
        // Nobody without TLS.
        using GrpcChannel bare = GrpcChannel.ForAddress(worker.Address.Replace("https", "http", StringComparison.Ordinal));
        Assert.Equal("", VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await new VmHostService.VmHostServiceClient(bare).GetVmAsync(new GetVmRequest()))).Reason);

        async Task<RpcException> CallAsync(string? path)
        {
            var handler = new SocketsHttpHandler();
            handler.SslOptions.RemoteCertificateValidationCallback = static (_, _, _, _) => true;
            if (path is not null)
                handler.SslOptions.ClientCertificateContext = SslStreamCertificateContext.Create(X509Certificate2.CreateFromPemFile($"{path}.crt", $"{path}.key"), null, offline: true);
            using GrpcChannel channel = GrpcChannel.ForAddress(worker.Address, new GrpcChannelOptions { HttpHandler = handler });
            return await Assert.ThrowsAsync<RpcException>(async () => await new VmHostService.VmHostServiceClient(channel).GetVmAsync(new GetVmRequest()));
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task Whoever_calls_a_worker_sees_that_it_is_that_one()
    {
        FleetProcess worker = await WorkerAsync(await postgres.NewSchemaAsync(), "a", "worker-a");
        var identity = new FleetIdentity(
            new OwnCertificate(Path.Combine(Lab, "frontend.crt"), Path.Combine(Lab, "frontend.key"), TimeProvider.System),
            new TrustedAuthorities(Path.Combine(Lab, "ca.crt"), TimeProvider.System),
            new RefusedPeers(TimeProvider.System));
        Assert.Equal("STALE_PLACEMENT", VmmError.From(await CallAsync(identity, "workers/a", worker.Address)).Reason);
        await RefusedAsync("Of workers/b, the certificate is another's of the same role.", "workers/b", worker.Address);
        Assert.Equal("WORKER_WITHOUT_TLS", VmmError.From(await CallAsync(identity, "workers/a", worker.Address.Replace("https", "http", StringComparison.Ordinal))).Reason);
        Assert.Equal("", VmmError.From(await CallAsync(null, "workers/a", worker.Address)).Reason);

        // A front end's certificate does not make a worker.
        FleetProcess posing = await WorkerAsync(await postgres.NewSchemaAsync(), "c", "frontend");
        await RefusedAsync("Of workers/c, the certificate is a front end's, and not a worker's.", "workers/c", posing.Address);
        Assert.Contains($"Others of the fleet will refuse this process: of {Path.Combine(Lab, "frontend.crt")}, the certificate is a front end's, and not a worker's.", posing.Output, StringComparison.Ordinal);

        // Nor does another authority's, as right as it is otherwise; nor one whose time is over.
        string other = Path.Combine(_folder, "other");
        await LabCertificates.MakeAsync("init", other);
        LabCertificates.Issue(Lab, "expired", "spiffe://vmm/worker", DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch.AddDays(1));
        FleetProcess stranger = await WorkerAsync(await postgres.NewSchemaAsync(), "d", Path.Combine(other, "worker")), expired = await WorkerAsync(await postgres.NewSchemaAsync(), "e", "expired");
        await RefusedAsync($"Of workers/d, the certificate is not of an authority in {Path.Combine(Lab, "ca.crt")}", "workers/d", stranger.Address);
        await RefusedAsync("Of workers/e, the certificate is valid from 1970-01-01 00:00:00Z to 1970-01-02 00:00:00Z only.", "workers/e", expired.Address);
        Assert.Contains("expired.crt, the certificate is valid from 1970-01-01", expired.Output, StringComparison.Ordinal);

        // Who is refused himself hears no reason, but by whom he is, and with what.
        string own = Path.Combine(Lab, "expired.crt");
        identity = new FleetIdentity(new OwnCertificate(own, Path.Combine(Lab, "expired.key"), TimeProvider.System), new TrustedAuthorities(Path.Combine(Lab, "ca.crt"), TimeProvider.System), new RefusedPeers(TimeProvider.System));
        await RefusedAsync($"workers/a hangs up on who has the certificate in {own}, which is valid from 1970-01-01 00:00:00Z to 1970-01-02 00:00:00Z; its log says why.", "workers/a", worker.Address);

        async Task RefusedAsync(string why, string name, string address)
        {
            RpcException refused = await CallAsync(identity, name, address);
            Assert.Equal("", VmmError.From(refused).Reason);
            Assert.StartsWith(why, refused.Status.DebugException!.GetBaseException().Message, StringComparison.Ordinal);
        }

        static async Task<RpcException> CallAsync(FleetIdentity? identity, string name, string address)
        {
            using var connector = new ChannelConnector(identity);
            return await Assert.ThrowsAsync<RpcException>(async () => await connector.Connect(new WorkerAddress(name, address, 0)).GetVmAsync(new GetVmRequest()));
        }
    }

    [GeneratedRegex(@"A connection was refused: of 127\.0\.0\.1:\d+, the certificate is nobody's of a fleet")]
    private static partial Regex Refusal();

    private async Task<FleetProcess> FrontendAsync(string registry)
    {
        string files = Path.Combine(Lab, "frontend");
        return Keep(await FleetProcess.StartAsync(
            "vmmd.dll", "frontend", "--listen", "127.0.0.1:0", "--registry", registry, "--tls-cert", $"{files}.crt", "--tls-key", $"{files}.key",
            "--fleet-cert", $"{files}.crt", "--fleet-key", $"{files}.key", "--fleet-ca", Path.Combine(Lab, "ca.crt")));
    }

    private async Task<FleetProcess> WorkerAsync(string registry, string id, string certificate) => Keep(await FleetProcess.StartAsync(
        "Vmm.Services.Tests.dll", Path.Combine(_folder, "witness"), Path.Combine(_folder, $"state-{id}"), registry, id, "60", Path.Combine(Lab, certificate)));

    private FleetProcess Keep(FleetProcess process)
    {
        lock (_processes)
            _processes.Add(process);
        return process;
    }
}
