using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.Registry;
using Vmm.Registry.Certificates;
using Vmm.Registry.Channels;
using Vmm.Testing;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Mutual TLS between the processes of a fleet.</summary>
[Collection(PostgresTests.Name)]
public sealed class FleetTlsTests(SharedPostgres postgres) : IAsyncLifetime
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
            new OwnCertificate(Path.Combine(Lab, "frontend.crt"), Path.Combine(Lab, "frontend.key"), TimeProvider.System), new TrustedAuthorities(Path.Combine(Lab, "ca.crt"), TimeProvider.System));
        Assert.Equal("STALE_PLACEMENT", await CallAsync(identity, "workers/a", worker.Address));
        Assert.Equal("", await CallAsync(identity, "workers/b", worker.Address));
        Assert.Equal("WORKER_WITHOUT_TLS", await CallAsync(identity, "workers/a", worker.Address.Replace("https", "http", StringComparison.Ordinal)));
        Assert.Equal("", await CallAsync(null, "workers/a", worker.Address));

        // A front end's certificate does not make a worker.
        FleetProcess posing = await WorkerAsync(await postgres.NewSchemaAsync(), "c", "frontend");
        Assert.Equal("", await CallAsync(identity, "workers/c", posing.Address));

        static async Task<string> CallAsync(FleetIdentity? identity, string name, string address)
        {
            using var connector = new ChannelConnector(identity);
            return VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await connector.Connect(new WorkerAddress(name, address, 0)).GetVmAsync(new GetVmRequest()))).Reason;
        }
    }

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
