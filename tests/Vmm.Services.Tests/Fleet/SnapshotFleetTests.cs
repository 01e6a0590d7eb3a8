using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Snapshots that are restored on another worker than the one that took them: real processes, and the engine's machines.</summary>
[Collection(PostgresTests.Name)]
public sealed class SnapshotFleetTests(SharedPostgres postgres) : IDisposable
{
    private const string Project = "projects/default";

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-fleet-").FullName;
    private readonly List<FleetProcess> _processes = [];
    private string _registry = "";
    private FleetProcess _a = null!;
    private VmmConnection _frontend = null!;
    private Snapshot _snapshot = null!;

    private static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token;

    private string Shared => Path.Combine(_folder, "shared");

    public void Dispose()
    {
        _frontend?.Dispose();
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_fetches_from_the_one_that_took_it_and_keeps_it_as_long_as_it_lives()
    {
        await StartAsync(shared: false);
        Vm[] copies = await Task.WhenAll(Enumerable.Range(0, 3).Select(i => RestoreAsync($"copy{i}")));
        foreach (Vm copy in copies)
            await HearAsync(copy.Name);
        // Fetched once, for all of them, and just as it was.
        string replica = Assert.Single(Directory.GetDirectories(Replicas("b")));
        string original = Path.Combine(_folder, "state-a", "snapshots", _snapshot.Uid);
        foreach (string file in (string[])["machine/memory", "machine/state.json", "machine/manifest.json", "disk0"])
            Assert.Equal(await File.ReadAllBytesAsync(Path.Combine(original, file)), await File.ReadAllBytesAsync(Path.Combine(replica, file)));
        Assert.Equal(2, (await _frontend.Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = $"{Project}/vms/one" })).Level);

        await _frontend.Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = _snapshot.Name });
        await Eventually.HoldsAsync(() => Directory.GetDirectories(Replicas("b")).Length == 0, "the copy goes with the snapshot");
        Assert.Equal(VmState.Running, (await _frontend.Vms.GetVmAsync(new GetVmRequest { Name = copies[0].Name })).Status.State);
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", () => RestoreAsync("late"));
    }

    [RequiresPackageFact("postgresql")]
    public async Task With_a_directory_that_they_share_a_snapshot_outlives_the_worker_that_took_it()
    {
        await StartAsync(shared: true);
        _a.Kill();
        // A chunk, and then the list, that is cut short, changed, or not there.
        string list = Path.Combine(Shared, "contents", _snapshot.Uid);
        string chunk = Directory.GetFiles(Path.Combine(Shared, "chunks"), "*", SearchOption.AllDirectories).MaxBy(path => new FileInfo(path).Length)!;
        foreach (string path in (string[])[chunk, list])
        {
            byte[] good = await File.ReadAllBytesAsync(path);
            byte[] changed = [.. good];
            changed[^1] ^= 1;
            foreach (byte[]? bad in (byte[]?[])[good[..^1], [.. good, 0], changed, [], null])
            {
                File.Delete(path);
                if (bad is not null)
                    await File.WriteAllBytesAsync(path, bad);
                // Without the list there is only the worker, which is dead.
                await FailsAsync(bad is null && path == list ? StatusCode.Unavailable : StatusCode.DataLoss, bad is null && path == list ? "SNAPSHOT_UNREACHABLE" : "SNAPSHOT_DAMAGED", () => RestoreAsync("two"));
                Assert.Empty(Directory.GetDirectories(Replicas("b")));
                Assert.Single((await _frontend.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms);
            }

            await File.WriteAllBytesAsync(path, good);
        }

        await HearAsync((await RestoreAsync("two")).Name);
    }

    [RequiresPackageFact("postgresql")]
    public Task A_snapshot_of_a_lost_worker_is_deleted_and_its_chunks_with_it() => DeleteLostAsync(shared: true);

    [RequiresPackageFact("postgresql")]
    public Task A_snapshot_of_a_lost_worker_is_restored_from_another_ones_copy_until_it_is_deleted() => DeleteLostAsync(shared: false);

    private async Task DeleteLostAsync(bool shared)
    {
        await StartAsync(shared);
        if (!shared)
            await RestoreAsync("first");
        _a.Kill();
        await RestoreAsync("copy");
        var deletion = new DeleteSnapshotRequest { Name = _snapshot.Name, Etag = _snapshot.Etag, RequestId = "deletion" };
        // As long as its lease lasts, the worker may be back at any moment.
        await Eventually.HoldsAsync(async () => await IsDoneAsync(_frontend.Snapshots.DeleteSnapshotAsync(deletion)), "the snapshot of a lost worker is deleted", _processes);
        await _frontend.Snapshots.DeleteSnapshotAsync(deletion);
        Assert.Empty((await _frontend.Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = Project })).Snapshots);
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", () => RestoreAsync("late"));
        await Eventually.HoldsAsync(() => Directory.GetDirectories(Replicas("b")).Length == 0, "the copy goes with the snapshot", _processes);
        await Eventually.HoldsAsync(
            () => !shared || Directory.GetFiles(Path.Combine(Shared, "contents")).Length + Directory.GetFiles(Path.Combine(Shared, "chunks"), "*", SearchOption.AllDirectories).Length == 0,
            "what workers share of it is removed",
            _processes);

        // Its name is another's when the worker comes back, which removes what it has.
        string folder = Path.Combine(_folder, "state-a", "snapshots");
        Assert.Single(Directory.GetDirectories(folder));
        Snapshot other = await _frontend.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = "s", Snapshot = new Snapshot { Vm = $"{Project}/vms/copy" } });
        await WorkerAsync("a", shared);
        Assert.Empty(Directory.GetDirectories(folder));
        Assert.Equal([other], (await _frontend.Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = Project })).Snapshots);
    }

    private static async Task<bool> IsDoneAsync(AsyncUnaryCall<Google.Protobuf.WellKnownTypes.Empty> call)
    {
        try
        {
            await call;
            return true;
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
        {
            return false;
        }
    }

    /// <summary>A front end, a worker that has a VM with L2 active and a snapshot of it and takes no more, and another worker.</summary>
    private async Task StartAsync(bool shared)
    {
        _registry = await postgres.NewSchemaAsync();
        FleetProcess frontend = await BeginAsync("frontend", "--listen", $"unix:{Path.Combine(_folder, "f")}", "--registry", _registry);
        _frontend = VmmConnection.Open(frontend.Address);
        _a = await WorkerAsync("a", shared);
        string path = Path.Combine(_folder, "kernel"), disk = Path.Combine(_folder, "disk");
        await File.WriteAllBytesAsync(path, NestedGuest.Image());
        byte[] sectors = new byte[3 << 20];
        new Random(1).NextBytes(sectors.AsSpan(1 << 20, 1 << 20));
        await File.WriteAllBytesAsync(disk, sectors);
        Image kernel = await _frontend.PushImageAsync(path, Project), image = await _frontend.PushImageAsync(disk, Project);
        var spec = new VmSpec { MemoryMib = 64, Cpus = 2, Kernel = new FileSource { Image = kernel.Name }, Disks = { new Disk { Source = new FileSource { Image = image.Name } } } };
        Vm vm = await _frontend.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "one", Vm = new Vm { Spec = spec } });
        await _frontend.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await ReadUntilAsync(vm.Name, "2");
        _snapshot = await _frontend.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = "s", Snapshot = new Snapshot { Vm = vm.Name } });
        await WorkerAsync("b", shared);
        await _frontend.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/a" });
        if (shared)
        {
            // The images are what the snapshot does not have.
            await _frontend.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "images", Vm = new Vm { Spec = spec.Clone() } });
            await _frontend.Vms.DeleteVmAsync(new DeleteVmRequest { Name = $"{Project}/vms/images" });
        }
    }

    private Task<FleetProcess> WorkerAsync(string id, bool shared) => BeginAsync(
        ["worker", "--listen", "127.0.0.1:0", "--registry", _registry, "--worker-id", id, "--state", Path.Combine(_folder, $"state-{id}"), "--lease", "10", .. (string[])(shared ? ["--snapshot-store", Shared] : [])]);

    private string Replicas(string worker) => Path.Combine(_folder, $"state-{worker}", "replicas");

    private async Task<FleetProcess> BeginAsync(params string[] arguments)
    {
        FleetProcess process = await FleetProcess.StartAsync("vmmd.dll", arguments);
        _processes.Add(process);
        return process;
    }

    // What has failed because of something that may come back is tried again under its own id, which has the name.
    private async Task<Vm> RestoreAsync(string id)
    {
        var request = new RestoreSnapshotRequest { Name = _snapshot.Name, VmId = id, RequestId = id };
        return await _frontend.Snapshots.RestoreSnapshotAsync(request);
    }

    /// <summary>Rings the guest's bell, which makes L2 leave to L1, and hears L1 say so.</summary>
    private async Task HearAsync(string vm)
    {
        await _frontend.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = vm, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(vm, "E");
    }

    private async Task ReadUntilAsync(string vm, string text)
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = _frontend.Vms.Console(cancellationToken: Soon);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm } });
        for (string seen = ""; !seen.Contains(text, StringComparison.Ordinal); seen += console.ResponseStream.Current.Output?.Data.ToStringUtf8())
            Assert.True(await console.ResponseStream.MoveNext(Soon), $"the console ended after '{seen}'");
    }

    private static async Task FailsAsync(StatusCode code, string reason, Func<Task> call)
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(call);
        Assert.Equal((code, reason), (exception.StatusCode, VmmError.From(exception).Reason));
    }
}
