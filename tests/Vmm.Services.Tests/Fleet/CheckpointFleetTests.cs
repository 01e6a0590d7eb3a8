using System.Diagnostics;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>VMs whose worker is killed and that go on from their last checkpoint elsewhere: real processes.</summary>
[Collection(PostgresTests.Name)]
public sealed class CheckpointFleetTests(SharedPostgres postgres) : IDisposable
{
    private const string Project = "projects/default";

    /// <summary>Seconds: of the worker that is killed, and of the one that is not to lose its own.</summary>
    private const string ShortLease = "10", LongLease = "300";

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-fleet-").FullName;
    private readonly List<FleetProcess> _processes = [];
    private VmmConnection _frontend = null!;

    private string Witness => Path.Combine(_folder, "witness");

    private string Contents => Path.Combine(_folder, "shared", "contents");

    public void Dispose()
    {
        _frontend?.Dispose();
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_vm_of_a_killed_worker_goes_on_from_its_checkpoint_and_one_without_boots()
    {
        string registry = await postgres.NewSchemaAsync();
        await FrontendAsync(registry);
        FleetProcess victim = await StubAsync(registry, "a", ShortLease);
        await CreateAsync("saved", TimeSpan.FromSeconds(1), new FileSource { Path = Kernel("saved") });
        await CreateAsync("fresh", TimeSpan.FromDays(1), new FileSource { Path = Kernel("fresh") });
        Vm first = await SavedAsync("saved", null);
        // One that is complete while there is one before.
        Vm before = await SavedAsync("saved", first.Status.Checkpoint);
        FleetProcess other = await StubAsync(registry, "b", LongLease);
        victim.Kill();
        List<Sighting> then = Sighting.Read(Witness);
        await EventuallyAsync(() => Task.FromResult(
            ((string[])["saved", "fresh"]).All(vm => Sighting.Read(Witness).Any(sighting => sighting.Vm == vm && sighting.Process == other.Id))), "the VMs run on the worker that is left");
        Vm after = await GetAsync("saved");
        Assert.Equal((before.Uid, "workers/b", VmState.Running, 2L), (after.Uid, after.Status.Worker, after.Status.State, after.Status.RunCount));
        List<Sighting> seen = Sighting.Read(Witness);
        Assert.False(Sighting.AnyRanTwice(seen));
        // It counts on from what it had counted, which it had got past by some.
        Sighting goesOn = seen.First(sighting => sighting.Vm == "saved" && sighting.Process == other.Id);
        Assert.InRange(goesOn.Count, before.Status.Checkpoint.InstructionsRetired + 1, then.Last(sighting => sighting.Vm == "saved").Count + 1);
        Assert.Equal(1UL, seen.First(sighting => sighting.Vm == "fresh" && sighting.Process == other.Id).Count);
        Assert.True(then.Last(sighting => sighting.Vm == "fresh").Count > 1);

        // What the worker that is gone has left is kept as long as it may be needed; its return takes nothing away.
        await StubAsync(registry, "a", LongLease);
        Vm again = await SavedAsync("saved", (await GetAsync("saved")).Status.Checkpoint);
        Assert.Equal("workers/b", again.Status.Worker);
        Assert.Contains(again.Status.Checkpoint.Uid, Directory.GetFiles(Contents).Select(path => Path.GetFileName(path)));
        int count = Sighting.Read(Witness).Count;
        await EventuallyAsync(() => Task.FromResult(Sighting.Read(Witness).Count > count + 50), "the VMs go on");
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(Witness)));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_real_guest_goes_on_where_l2_ran_with_its_deferred_inhibit_and_its_disk()
    {
        string registry = await postgres.NewSchemaAsync();
        await FrontendAsync(registry);
        FleetProcess victim = await RealAsync(registry, "a", ShortLease);
        string path = Path.Combine(_folder, "kernel"), disk = Path.Combine(_folder, "disk");
        await File.WriteAllBytesAsync(path, NestedGuest.Image());
        byte[] sectors = new byte[1 << 20];
        new Random(1).NextBytes(sectors);
        await File.WriteAllBytesAsync(disk, sectors);
        Image kernel = await _frontend.PushImageAsync(path, Project), image = await _frontend.PushImageAsync(disk, Project);
        string name = await CreateAsync("one", TimeSpan.FromSeconds(1), new FileSource { Image = kernel.Name }, new Disk { Source = new FileSource { Image = image.Name } });
        await ReadUntilAsync(name, "2");
        await _frontend.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Hyperv });
        Assert.True(await ApicvAsync(name) is { GuestMode: true, State: ApicvUpdateState.Deferred });
        // One that was begun before may be there first.
        Vm saved = await SavedAsync("one", (await SavedAsync("one", (await GetAsync("one")).Status.Checkpoint)).Status.Checkpoint);
        // The images are not what a checkpoint has: another worker must have them, or the worker be there.
        await RealAsync(registry, "b", LongLease);
        await _frontend.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/a" });
        await _frontend.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "images", Vm = new Vm { Spec = Plain(saved.Spec) } });
        victim.Kill();
        await EventuallyAsync(async () => await TryGetAsync("one") is { Status: { Worker: "workers/b", State: VmState.Running } }, "the VM runs on the worker that is left");
        Assert.True((await GetAsync("one")).Status.InstructionsRetired >= saved.Status.Checkpoint.InstructionsRetired);
        Assert.True(await ApicvAsync(name) is { Active: true, GuestMode: true, State: ApicvUpdateState.Deferred });
        Assert.Equal(sectors, ReadDisk(Path.Combine(_folder, "state-b", "vms", saved.Uid, "disk0")));
        // The bell makes L2 leave to L1, before which the inhibit is applied.
        await _frontend.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(name, "E");
        Assert.True(await ApicvAsync(name) is { Active: false, State: ApicvUpdateState.Applied });
    }

    // While the VM has it open.
    private byte[] ReadDisk(string path)
    {
        string copy = Path.Combine(_folder, "copy");
        using (Process process = Process.Start("cp", [path, copy]))
            process.WaitForExit();
        return File.ReadAllBytes(copy);
    }

    private static VmSpec Plain(VmSpec spec)
    {
        VmSpec plain = spec.Clone();
        (plain.RestartPolicy, plain.CheckpointInterval) = (RestartPolicy.Never, null);
        return plain;
    }

    private string Kernel(string id)
    {
        string path = Path.Combine(_folder, id);
        File.WriteAllText(path, "kernel");
        return path;
    }

    private async Task<string> CreateAsync(string id, TimeSpan interval, FileSource kernel, params Disk[] disks)
    {
        var spec = new VmSpec
        {
            MemoryMib = 64,
            Cpus = 2,
            Kernel = kernel,
            Disks = { disks },
            RestartPolicy = RestartPolicy.FromLastCheckpoint,
            CheckpointInterval = Duration.FromTimeSpan(interval),
        };
        Vm vm = await _frontend.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = id, Vm = new Vm { Spec = spec } });
        await _frontend.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        return vm.Name;
    }

    private async Task<Vm> GetAsync(string id) => await _frontend.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/{id}" });

    private async Task<Vm?> TryGetAsync(string id)
    {
        try
        {
            return await GetAsync(id);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
        {
            return null;
        }
    }

    /// <summary>Waits for a checkpoint that is another than that one.</summary>
    private async Task<Vm> SavedAsync(string id, Checkpoint? than)
    {
        Vm? vm = null;
        await EventuallyAsync(async () => (vm = await GetAsync(id)).Status.Checkpoint is { } now && now.Uid != than?.Uid, $"{id} is saved");
        return vm!;
    }

    private async Task<VcpuApicv> ApicvAsync(string name) => (await _frontend.Vms.GetApicvAsync(new GetApicvRequest { Name = name })).Vcpus[0];

    private async Task ReadUntilAsync(string vm, string text)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromMinutes(5));
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = _frontend.Vms.Console(cancellationToken: patience.Token);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm } });
        for (string seen = ""; !seen.Contains(text, StringComparison.Ordinal); seen += console.ResponseStream.Current.Output?.Data.ToStringUtf8())
            Assert.True(await console.ResponseStream.MoveNext(patience.Token), $"the console ended after '{seen}'");
    }

    private async Task FrontendAsync(string registry)
    {
        FleetProcess frontend = await BeginAsync("vmmd.dll", "frontend", "--listen", $"unix:{Path.Combine(_folder, "f")}", "--registry", registry);
        _frontend = VmmConnection.Open(frontend.Address);
    }

    private Task<FleetProcess> StubAsync(string registry, string id, string lease) =>
        BeginAsync("Vmm.Services.Tests.dll", Witness, Path.Combine(_folder, $"state-{id}"), registry, id, lease);

    private Task<FleetProcess> RealAsync(string registry, string id, string lease) => BeginAsync(
        "vmmd.dll", "worker", "--listen", "127.0.0.1:0", "--registry", registry, "--worker-id", id, "--state", Path.Combine(_folder, $"state-{id}"), "--lease", lease,
        "--snapshot-store", Path.Combine(_folder, "shared"));

    private async Task<FleetProcess> BeginAsync(string program, params string[] arguments)
    {
        FleetProcess process = await FleetProcess.StartAsync(program, arguments);
        _processes.Add(process);
        return process;
    }

    private Task EventuallyAsync(Func<Task<bool>> condition, string what) => Eventually.HoldsAsync(condition, what, _processes);
}
