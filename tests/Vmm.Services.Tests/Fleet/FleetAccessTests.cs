using Grpc.Core;
using Vmm.Client;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Tokens, projects and the audit log of a fleet, which are the same at every front end.</summary>
[Collection(PostgresTests.Name)]
public sealed class FleetAccessTests(SharedPostgres postgres) : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-access-").FullName;
    private readonly List<FleetProcess> _processes = [];

    private string AdminToken => Path.Combine(_folder, "admin-token");

    public void Dispose()
    {
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_token_that_is_revoked_at_one_front_end_is_void_at_the_other_and_its_streams_end_there()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess one = await FrontendAsync(registry, "f1", "--admin-token", AdminToken), two = await FrontendAsync(registry, "f2", "--tokens");
        var admin = new VmmCredentials { Token = (await File.ReadAllTextAsync(AdminToken)).Trim() };
        using VmmConnection atOne = one.Connect(admin), atTwo = two.Connect(admin);
        await atOne.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = "p" });
        string secret = (await atTwo.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = "t", Token = new Token { Role = Role.Viewer, Project = "projects/p" } })).Secret;
        using VmmConnection callerAtOne = one.Connect(new VmmCredentials { Token = secret }), callerAtTwo = two.Connect(new VmmCredentials { Token = secret });
        await callerAtOne.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/p" });
        using AsyncServerStreamingCall<VmEvent> watch = callerAtTwo.Vms.WatchVms(new WatchVmsRequest { Parent = "projects/p" });
        Assert.True(await watch.ResponseStream.MoveNext(CancellationToken.None));

        await atOne.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = "tokens/t" });
        RpcException ended = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await watch.ResponseStream.MoveNext(new CancellationTokenSource(TimeSpan.FromMinutes(1)).Token))
            {
            }
        });
        Assert.Equal((StatusCode.Unauthenticated, "TOKEN_INVALID"), (ended.StatusCode, VmmError.From(ended).Reason));
        foreach (VmmConnection caller in (VmmConnection[])[callerAtOne, callerAtTwo])
            Assert.Equal(StatusCode.Unauthenticated, (await Assert.ThrowsAsync<RpcException>(async () => await caller.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/p" }))).StatusCode);

        // What was done at either is in the one log.
        Assert.Equal(
            ["DeleteToken", "CreateToken", "CreateProject"],
            (await atTwo.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { Filter = "token = \"tokens/admin\"" })).AuditEntries.Select(entry => entry.Method.Split('/')[1]));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_projects_streams_are_counted_over_all_front_ends_and_one_that_dies_returns_its_share()
    {
        const int shortLease = 4;
        string registry = await postgres.NewSchemaAsync();
        FleetProcess one = await FrontendAsync(registry, "f1", "--lease", $"{shortLease}"), two = await FrontendAsync(registry, "f2", "--lease", $"{shortLease}");
        using VmmConnection atOne = one.Connect(), atTwo = two.Connect();
        await atOne.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = "p", Project = new Project { Quota = new ProjectQuota { Streams = 2 } } });
        using AsyncServerStreamingCall<VmEvent> first = (await WatchAsync(atOne))!;
        AsyncServerStreamingCall<VmEvent> second = (await WatchAsync(atTwo))!;
        Assert.Null(await WatchAsync(atOne));
        Assert.Null(await WatchAsync(atTwo));
        // A stream that ends at one leaves its place to the other.
        second.Dispose();
        AsyncServerStreamingCall<VmEvent>? third = null;
        await Eventually.HoldsAsync(async () => (third = await WatchAsync(atOne)) is not null, "the place is free", [one, two]);
        Assert.Null(await WatchAsync(atTwo));

        one.Kill();
        using AsyncServerStreamingCall<VmEvent> fourth = await TakeAsync(), fifth = await TakeAsync();
        // Those of a front end that lives are renewed: its lease would have ended by then.
        await Task.Delay(TimeSpan.FromSeconds(shortLease * 2));
        Assert.Null(await WatchAsync(atTwo));

        async Task<AsyncServerStreamingCall<VmEvent>> TakeAsync()
        {
            AsyncServerStreamingCall<VmEvent>? taken = null;
            await Eventually.HoldsAsync(async () => (taken = await WatchAsync(atTwo)) is not null, "the dead front end's place is free", [two]);
            return taken!;
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task Streams_go_on_while_the_database_is_away_and_count_when_it_is_back()
    {
        await using PostgresServer database = await PostgresServer.StartAsync();
        string registry = await database.NewSchemaAsync();
        const int shortLease = 4;
        FleetProcess frontend = await FrontendAsync(registry, "f1", "--lease", $"{shortLease}"), other = await FrontendAsync(registry, "f2", "--lease", $"{shortLease}");
        FleetProcess worker = Keep(await FleetProcess.StartAsync("Vmm.Services.Tests.dll", Path.Combine(_folder, "witness"), Path.Combine(_folder, "state"), registry, "a", "300"));
        using VmmConnection connection = frontend.Connect(), atOther = other.Connect();
        await connection.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = "p", Project = new Project { Quota = new ProjectQuota { Streams = 1 } } });
        string kernel = Path.Combine(_folder, "kernel");
        await File.WriteAllTextAsync(kernel, "kernel");
        Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = "projects/p", VmId = "vm", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } });
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        using VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = vm.Name, Write = true }, CancellationToken.None);
        Task<VmEnd?> reading = console.CopyToAsync(Stream.Null);
        await console.WriteAsync("before"u8.ToArray(), CancellationToken.None);

        await database.StopAsync();
        await Eventually.HoldsAsync(() => frontend.Output.Contains("which streams are under way", StringComparison.Ordinal), "the front end misses the database", [frontend]);
        if (reading.IsCompleted)
            await reading;
        await console.WriteAsync("meanwhile"u8.ToArray(), CancellationToken.None);
        // Its lease ends, and its place is forgotten.
        await Task.Delay(TimeSpan.FromSeconds(shortLease + 1));
        await console.WriteAsync("still"u8.ToArray(), CancellationToken.None);
        await database.ContinueAsync();
        await Eventually.HoldsAsync(
            async () =>
            {
                using AsyncServerStreamingCall<VmEvent>? more = await WatchAsync(atOther);
                return more is null;
            },
            "the console counts again",
            [frontend, other, worker]);
        await console.WriteAsync("after"u8.ToArray(), CancellationToken.None);
        Assert.False(reading.IsCompleted);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_front_end_that_is_killed_leaves_the_entries_of_its_streams_begins()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess one = await FrontendAsync(registry, "f1", "--admin-token", AdminToken), two = await FrontendAsync(registry, "f2", "--tokens");
        FleetProcess worker = Keep(await FleetProcess.StartAsync("Vmm.Services.Tests.dll", Path.Combine(_folder, "witness"), Path.Combine(_folder, "state"), registry, "a", "300"));
        var admin = new VmmCredentials { Token = (await File.ReadAllTextAsync(AdminToken)).Trim() };
        using VmmConnection atOne = one.Connect(admin), atTwo = two.Connect(admin);
        string kernel = Path.Combine(_folder, "kernel"), image = $"projects/default/images/sha256-{new string('1', 64)}";
        await File.WriteAllTextAsync(kernel, "kernel");
        Vm vm = await atOne.Vms.CreateVmAsync(new CreateVmRequest { VmId = "vm", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } });
        using VmConsole console = await VmConsole.AttachAsync(atOne, new ConsoleAttach { Name = vm.Name }, CancellationToken.None);
        // It has begun where its first answer is there; an upload where its entry is.
        Assert.Equal([("Console", vm.Name, "")], await StreamsAsync());
        using AsyncClientStreamingCall<UploadImageRequest, Image> upload = atOne.Images.UploadImage();
        await upload.RequestStream.WriteAsync(new UploadImageRequest { Start = new UploadImageStart { Parent = "projects/default", Sha256 = new string('1', 64), SizeBytes = 1 } });
        await Eventually.HoldsAsync(async () => (await StreamsAsync()).Length == 2, "the upload's entry", [one, two, worker]);

        one.Kill();
        using (await VmConsole.AttachAsync(atTwo, new ConsoleAttach { Name = vm.Name }, CancellationToken.None))
        {
        }

        await Eventually.HoldsAsync(async () => (await StreamsAsync()).Length == 4, "the other front end's console has both of its entries", [two]);
        Assert.Equal([("Console", vm.Name, ""), ("UploadImage", image, ""), ("Console", vm.Name, "")], (await StreamsAsync())[..3]);

        async Task<(string Method, string Resource, string Code)[]> StreamsAsync() =>
        [
            .. (await atTwo.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest())).AuditEntries.Reverse().Where(entry => entry.Stream.Length > 0)
                .Select(entry => (entry.Method.Split('/')[1], entry.Resource, entry.Code)),
        ];
    }

    /// <summary>Begins a watch of the project; null where there is no room for it.</summary>
    private static async Task<AsyncServerStreamingCall<VmEvent>?> WatchAsync(VmmConnection connection)
    {
        AsyncServerStreamingCall<VmEvent> watch = connection.Vms.WatchVms(new WatchVmsRequest { Parent = "projects/p" });
        try
        {
            Assert.True(await watch.ResponseStream.MoveNext(new CancellationTokenSource(TimeSpan.FromMinutes(1)).Token));
            return watch;
        }
        catch (RpcException exception) when (VmmError.From(exception).Reason == "QUOTA_EXCEEDED")
        {
            watch.Dispose();
            return null;
        }
    }

    private async Task<FleetProcess> FrontendAsync(string registry, string id, params string[] options)
    {
        FleetProcess process = await FleetProcess.StartAsync("vmmd.dll", ["frontend", "--listen", $"unix:{Path.Combine(_folder, id)}", "--registry", registry, .. options]);
        return Keep(process);
    }

    private FleetProcess Keep(FleetProcess process)
    {
        _processes.Add(process);
        return process;
    }
}
