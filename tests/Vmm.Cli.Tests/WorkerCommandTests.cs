using System.Text.Json;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl worker</c>, and where <c>vm create</c> asks for VMs to be.</summary>
public sealed class WorkerCommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(params string[] arguments) => Invocation.RunAsync([.. arguments, "--server", _server.Address]);

    private static string[] Words(string line) => line.Split("  ", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    [Fact]
    public async Task List_shows_what_is_placed_on_each_of_what_it_offers()
    {
        var run = await RunAsync("worker", "list");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        var lines = run.Output.Split('\n');
        Assert.Equal(["WORKER", "STATE", "VMS", "RUNNING", "VCPUS", "MEMORY", "VERSION", "ADDRESS", "LABELS"], Words(lines[0]));
        Assert.Equal(["a", "ready", "2 of 100", "1", "3 of 32", "512 of 4096 MiB", "0.1.0", "http://127.0.0.1:1", "disk=fast"], Words(lines[1]));
        var json = await RunAsync("worker", "list", "-o", "json");
        Assert.Equal("workers/a", JsonDocument.Parse(json.Output).RootElement.GetProperty("workers")[0].GetProperty("name").GetString());
    }

    [Theory]
    [InlineData("get", "ready")]
    [InlineData("cordon", "cordoned")]
    [InlineData("uncordon", "ready")]
    [InlineData("drain", "draining")]
    public async Task Verbs_print_the_worker_as_it_then_is(string verb, string state)
    {
        foreach (var name in (string[])["a", "workers/a"])
            Assert.Equal(state, Words((await RunAsync("worker", verb, name)).Output.Split('\n')[1])[1]);
        var missing = await RunAsync("worker", verb, "none");
        Assert.Equal(ExitCode.Failed, missing.ExitCode);
    }

    [Fact]
    public async Task Drain_waits_until_all_have_gone()
    {
        DrainedVm one = Drained("one"), two = Drained("two");
        foreach (var vms in (DrainedVm[][])[[one, two], [two], []])
            _server.Workers.Drains.Enqueue(new WorkerDrain { Vms = { vms } });
        var run = await RunAsync("worker", "drain", "a", "--wait");
        Assert.Equal((0, "vmmctl: one has gone; 1 VM(s) left on a.\nvmmctl: two has gone; 0 VM(s) left on a.\n"), (run.ExitCode, run.Error));
        Assert.Equal("a", Words(run.Output.Split('\n')[1])[0]);
    }

    [Fact]
    public async Task Drain_says_which_stay_and_why()
    {
        DrainedVm one = Drained("one"), two = Drained("two", "None of 1 worker(s) has room.");
        // One that moves again may yet go.
        var moving = two.Clone();
        moving.Migration = new MigrationProgress { Round = 1 };
        foreach (var vms in (DrainedVm[][])[[one, two], [one, moving], [moving], [two]])
            _server.Workers.Drains.Enqueue(new WorkerDrain { Vms = { vms } });
        var run = await RunAsync("worker", "drain", "a", "--wait");
        Assert.Equal(
            (ExitCode.Failed, "vmmctl: two stays: None of 1 worker(s) has room. [NO_WORKER]\nvmmctl: one has gone; 1 VM(s) left on a.\nvmmctl: 1 VM(s) stay on a, which goes on trying.\n"),
            (run.ExitCode, run.Error));
        Assert.Single(_server.Workers.Drains);
    }

    [Fact]
    public async Task An_interrupted_wait_leaves_the_worker_draining()
    {
        _server.Workers.Drains.Enqueue(new WorkerDrain { Vms = { Drained("one") } });
        using var interrupt = new CancellationTokenSource();
        _server.Workers.Asked = interrupt.Cancel;
        var run = await Invocation.RunAsync(["worker", "drain", "a", "--wait", "--server", _server.Address], null, cancellation: interrupt.Token);
        Assert.Equal((ExitCode.Interrupted, "", "vmmctl: a goes on draining; 'vmmctl worker uncordon a' ends that.\n"), (run.ExitCode, run.Output, run.Error));
    }

    private static DrainedVm Drained(string id, string obstacle = "") => new()
    {
        Name = $"projects/default/vms/{id}",
        Obstacle = obstacle.Length > 0 ? new DrainObstacle { Reason = "NO_WORKER", Message = obstacle } : null,
    };

    [Theory]
    [InlineData("vm", "migrate")]
    [InlineData("migrate")]
    public async Task Migrate_moves_a_vm_and_says_what_it_took(params string[] command)
    {
        var kernel = Path.GetTempFileName();
        await File.WriteAllTextAsync(kernel, "kernel");
        await RunAsync("vm", "create", "one", "--kernel", kernel);
        File.Delete(kernel);
        var run = await RunAsync([.. command, "one", "--to", "b", "--max-pause", "50"]);
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        Assert.Equal("one moved from a to b: 2.0 MiB in 3 round(s), standing for 42 ms", run.Output.TrimEnd());
        Assert.Equal(
            new MigrateVmRequest { Name = "projects/default/vms/one", Worker = "workers/b", MaxPause = new Google.Protobuf.WellKnownTypes.Duration { Nanos = 50_000_000 } },
            _server.Vms.Requests.OfType<MigrateVmRequest>().Select(WithoutId).Single());
        var json = await RunAsync([.. command, "one", "-o", "json"]);
        Assert.Equal("workers/a", JsonDocument.Parse(json.Output).RootElement.GetProperty("sourceWorker").GetString());
        Assert.Equal("", _server.Vms.Requests.OfType<MigrateVmRequest>().Last().Worker);
        Assert.Equal(ExitCode.Usage, (await RunAsync([.. command, "one", "--max-pause", "0"])).ExitCode);

        // The last move was to no worker in particular, and the fake has it nowhere.
        await RunAsync([.. command, "one", "--to", "b"]);
        var lines = (await RunAsync("vm", "list")).Output.Split('\n');
        Assert.Equal(("WORKER", "b"), (Words(lines[0])[^1], Words(lines[1])[^1]));
        foreach (var (condition, text) in ((WorkerCondition, string)[])[(WorkerCondition.Unreachable, "b (unreachable)"), (WorkerCondition.Lost, "b (lost)"), (WorkerCondition.Replacing, "b (lost, waits for another)")])
        {
            _server.Vms.Vms["projects/default/vms/one"].Resource.Status.WorkerCondition = condition;
            Assert.Equal(text, Words((await RunAsync("vm", "get", "one")).Output.Split('\n')[1])[^1]);
        }

        static MigrateVmRequest WithoutId(MigrateVmRequest request)
        {
            Assert.NotEmpty(request.RequestId);
            return new MigrateVmRequest(request) { RequestId = "" };
        }
    }

    [Fact]
    public async Task Create_says_where_a_vm_may_be_and_what_becomes_of_it()
    {
        var kernel = Path.GetTempFileName();
        await File.WriteAllTextAsync(kernel, "kernel");
        try
        {
            await RunAsync(
                "vm", "create", "one", "--kernel", kernel, "--restart", "on-failure", "--on-worker", "disk=fast", "--with-vm", "app=db", "--apart-from", "app=web", "--place", "pack");
            await RunAsync("vm", "create", "two", "--kernel", kernel);
            await RunAsync("vm", "create", "saved", "--kernel", kernel, "--restart-policy", "from-last-checkpoint", "--checkpoint-interval", "2m");
            Assert.Equal(ExitCode.Usage, (await RunAsync("vm", "create", "four", "--kernel", kernel, "--checkpoint-interval", "2d")).ExitCode);
            var wrong = await RunAsync("vm", "create", "three", "--kernel", kernel, "--on-worker", "disk");
            Assert.Equal(ExitCode.Usage, wrong.ExitCode);
        }
        finally
        {
            File.Delete(kernel);
        }

        var specs = _server.Vms.Requests.OfType<CreateVmRequest>().Select(request => request.Vm.Spec).ToList();
        Assert.Equal(
            new PlacementSpec { WorkerLabels = { ["disk"] = "fast" }, WithVmLabels = { ["app"] = "db" }, ApartFromVmLabels = { ["app"] = "web" }, Strategy = PlacementSpec.Types.Strategy.Pack },
            specs[0].Placement);
        Assert.Equal((RestartPolicy.Restart, null, RestartPolicy.Unspecified), (specs[0].RestartPolicy, specs[1].Placement, specs[1].RestartPolicy));
        Assert.Equal((RestartPolicy.FromLastCheckpoint, 120L), (specs[2].RestartPolicy, specs[2].CheckpointInterval.Seconds));
    }

    [Fact]
    public async Task A_watch_shows_which_worker_has_a_vm()
    {
        foreach (var (type, worker, end) in ((VmEvent.Types.Type, string, VmEnd?)[])
            [(VmEvent.Types.Type.Added, "workers/a", null), (VmEvent.Types.Type.Modified, "workers/b", null), (VmEvent.Types.Type.Modified, "workers/local", new VmEnd { Reason = VmEndReason.PowerOff })])
            _server.Vms.Events.Add(new VmEvent
            {
                Type = type,
                ResumeToken = "t",
                Vm = new V1.Vm { Name = "projects/default/vms/one", Spec = new VmSpec { Cpus = 1 }, Status = new VmStatus { State = VmState.Running, Worker = worker, End = end } },
            });
        var watch = await Invocation.RunAsync("vm", "watch", "--server", _server.Address);
        Assert.Equal(
            ["ADDED one running 1 vCPU(s) a", "MODIFIED one running 1 vCPU(s) b", "MODIFIED one running 1 vCPU(s) power-off"],
            watch.Output.Trim().Split('\n').Select(line => string.Join(' ', line.Split(' ', StringSplitOptions.RemoveEmptyEntries))));
    }
}
