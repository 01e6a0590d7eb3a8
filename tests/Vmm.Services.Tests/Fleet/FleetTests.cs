using System.Collections.Concurrent;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Front ends and workers in processes of their own, with a registry in PostgreSQL, and what may happen to each of them.</summary>
[Collection(PostgresTests.Name)]
public sealed class FleetTests(SharedPostgres postgres) : IDisposable
{
    private const string Project = "projects/default";
    private const string StubProgram = "Vmm.Services.Tests.dll";

    /// <summary>Seconds, for workers that are not to lose their lease whatever else the machine does.</summary>
    private const int LongLease = 300;

    /// <summary>Seconds, for workers whose lease the test waits for to end.</summary>
    private const int ShortLease = 10;

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-fleet-").FullName;
    private readonly List<FleetProcess> _processes = [];

    private string Witness => Path.Combine(_folder, "witness");

    private static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(5)).Token;

    public void Dispose()
    {
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_fleet_of_processes_serves_as_one()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), FrontendAsync(registry, "f2"), WorkerAsync(registry, "a", LongLease), WorkerAsync(registry, "b", LongLease));
        using VmmConnection one = started[0].Connect(), two = started[1].Connect();
        using AsyncServerStreamingCall<VmEvent> watch = two.Vms.WatchVms(new WatchVmsRequest { Parent = Project }, cancellationToken: Soon);
        await NextAsync(watch, VmEvent.Types.Type.Synced, "");

        // An image goes to both workers, and so do VMs of it.
        string path = Path.Combine(_folder, "image");
        await File.WriteAllTextAsync(path, "kernel");
        Image image = await one.PushImageAsync(path, Project);
        CreateVmRequest creation = Creation("vm0", image: image.Name);
        creation.RequestId = "r0";
        Vm first = await one.Vms.CreateVmAsync(creation);
        Assert.Equal(first, await two.Vms.CreateVmAsync(creation));
        Assert.Equal(StatusCode.AlreadyExists, (await Assert.ThrowsAsync<RpcException>(async () => await two.Vms.CreateVmAsync(Creation("vm0", image: image.Name)))).StatusCode);
        for (int i = 1; i < 4; i++)
        {
            CreateVmRequest next = Creation($"vm{i}", image: image.Name);
            next.Vm.Spec.Placement = new PlacementSpec { WorkerLabels = { ["id"] = i % 2 == 0 ? "a" : "b" } };
            await two.Vms.CreateVmAsync(next);
        }

        Assert.Equal(4, (await one.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms.Count);
        await Task.WhenAll(Enumerable.Range(0, 4).Select(async i => await (i % 2 == 0 ? one : two).Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/vm{i}" })));
        await NextAsync(watch, VmEvent.Types.Type.Modified, "vm3", VmState.Running);
        foreach (VmmConnection connection in (VmmConnection[])[one, two])
            Assert.All((await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms, vm => Assert.Equal(VmState.Running, vm.Status.State));
        IReadOnlyList<V1.Worker> workers = (await one.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers;
        Assert.Equal(["workers/a", "workers/b"], workers.Select(worker => worker.Name));
        Assert.All(workers, worker => Assert.Equal((WorkerState.Ready, true), (worker.State, worker.Reserved.Vms >= 1)));
        Assert.Equal(4, workers.Sum(worker => worker.Reserved.Vms));

        // A snapshot is restored where it is, and images that are in use stay.
        Snapshot snapshot = await two.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = "s", Snapshot = new Snapshot { Vm = first.Name } });
        Assert.Equal(VmState.Running, (await one.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "again" })).Status.State);
        Assert.Equal(StatusCode.FailedPrecondition, (await Assert.ThrowsAsync<RpcException>(async () => await one.Images.DeleteImageAsync(new DeleteImageRequest { Name = image.Name }))).StatusCode);

        // A console goes through a front end, either of them.
        using (VmConsole console = await VmConsole.AttachAsync(one, new ConsoleAttach { Name = first.Name, Write = true }, Soon))
            await console.WriteAsync("hello"u8.ToArray(), Soon);
        VmmError refused = VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await one.Vms.StartVmAsync(new StartVmRequest { Name = first.Name })));
        Assert.Equal("ILLEGAL_STATE", refused.Reason);

        // Nothing goes to workers that are cordoned, and the refusal says so.
        foreach (V1.Worker worker in workers)
            await two.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = worker.Name });
        VmmError full = VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await one.Vms.CreateVmAsync(Creation("vm9"))));
        Assert.Equal("NO_WORKER", full.Reason);
        Assert.Contains("2 cordoned or draining.", full.Message, StringComparison.Ordinal);
        Assert.Equal([("workers/a", "is cordoned"), ("workers/b", "is cordoned")], full.Quotas.Select(quota => (quota.Subject, quota.Description)).Order());
        await two.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/a" });
        await one.Vms.CreateVmAsync(Creation("vm9"));

        // A request with files that no worker has leaves nothing behind.
        CreateVmRequest missing = Creation("vm10");
        missing.Vm.Spec.Kernel = new FileSource { Image = $"{Project}/images/sha256-{new string('0', 64)}" };
        Assert.Equal(StatusCode.InvalidArgument, (await Assert.ThrowsAsync<RpcException>(async () => await one.Vms.CreateVmAsync(missing))).StatusCode);
        await one.Vms.CreateVmAsync(Creation("vm10"));
    }

    [RequiresPackageFact("postgresql")]
    public async Task Vms_of_a_killed_worker_go_on_elsewhere_and_the_others_come_back_with_it()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), FrontendAsync(registry, "f2"), WorkerAsync(registry, "a"), WorkerAsync(registry, "b", LongLease));
        FleetProcess victim = started[2];
        using VmmConnection one = started[0].Connect();
        var before = new Dictionary<string, Vm>();
        foreach (string id in (string[])["m0", "m1", "m2", "stays"])
        {
            CreateVmRequest creation = Creation(id, restart: id != "stays");
            creation.Vm.Spec.Placement = new PlacementSpec { WorkerLabels = { ["id"] = "a" } };
            // The worker of the rule is gone with the worker: moving VMs must not ask for it.
            if (id != "stays")
                creation.Vm.Spec.Placement = null;
            await one.Vms.CreateVmAsync(creation);
            before[id] = await one.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/{id}", RequestId = $"start-{id}" });
        }

        await SeenAsync(before.Keys, sightings => sightings.Count > 0);
        victim.Kill();
        await EventuallyAsync(
            async () => (await one.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms.Where(vm => vm.Spec.RestartPolicy == RestartPolicy.Restart).All(vm => vm.Status.State == VmState.Running)
                && (await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" })).State == WorkerState.Lost
                && (await one.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project, Filter = "name = \"projects/default/vms/stays\"" })).Vms.Single().Status.State == VmState.Stopped,
            "the VMs run on the worker that is left");
        await SeenAsync(["m0", "m1", "m2"], sightings => sightings[^1].Process == started[3].Id);
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(Witness)));
        foreach (string id in (string[])["m0", "m1", "m2"])
        {
            Vm now = await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/{id}" });
            Assert.Equal((before[id].Uid, before[id].CreateTime), (now.Uid, now.CreateTime));
            // What was acknowledged by the worker that is gone is answered again, and not done again.
            Assert.Equal(before[id], await one.Vms.StartVmAsync(new StartVmRequest { Name = now.Name, RequestId = $"start-{id}" }));
        }

        VmmError lost = VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await one.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/stays" })));
        Assert.Equal((StatusCode.Unavailable, "WORKER_LOST"), (lost.Code, lost.Reason));
        VmStatus known = (await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/stays" })).Status;
        Assert.Equal((VmState.Stopped, VmEndReason.Interrupted, "workers/a", WorkerCondition.Lost), (known.State, known.End.Reason, known.Worker, known.WorkerCondition));
        await WorkerAsync(registry, "a", LongLease);
        Vm back = await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/stays" });
        Assert.Equal((before["stays"].Uid, VmState.Stopped, VmEndReason.Interrupted), (back.Uid, back.Status.State, back.Status.End.Reason));
        Assert.Equal(WorkerCondition.Unspecified, back.Status.WorkerCondition);
        await one.Vms.StartVmAsync(new StartVmRequest { Name = back.Name });
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_that_hangs_or_is_gone_is_unavailable_and_no_incident()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess frontend = await FrontendAsync(registry, "f1"), worker = await WorkerAsync(registry, "a", LongLease);
        using VmmConnection one = frontend.Connect();
        Vm vm = await one.Vms.CreateVmAsync(Creation("vm"));
        // Front ends find out by pings: until then a call waits, and one that is under way then fails otherwise than one that is made later.
        await worker.SignalAsync("STOP");
        for (int call = 0; call < 2; call++)
            await UnreachableAsync();
        worker.Kill();
        await UnreachableAsync();
        Assert.DoesNotContain("Incident", frontend.Output, StringComparison.Ordinal);
        Assert.Contains("its worker cannot be reached", frontend.Output, StringComparison.Ordinal);

        async Task UnreachableAsync()
        {
            // What the VM is the registry knows, too.
            Vm known = await one.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
            Assert.Equal(WorkerCondition.Unreachable, known.Status.WorkerCondition);
            known.Status.WorkerCondition = WorkerCondition.Unspecified;
            Assert.Equal(vm, known);
            VmmError error = VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await one.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name })));
            Assert.Equal((StatusCode.Unavailable, "WORKER_UNREACHABLE", "The worker that this call is for cannot be reached at the moment."), (error.Code, error.Reason, error.Message));
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_that_is_stopped_past_its_lease_has_fenced_itself_when_it_goes_on()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), WorkerAsync(registry, "a"));
        FleetProcess frontend = started[0], sleeper = started[1];
        using VmmConnection one = frontend.Connect();
        await one.Vms.CreateVmAsync(Creation("vm", restart: true));
        await one.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/vm" });
        FleetProcess other = await WorkerAsync(registry, "b", LongLease);
        await SeenAsync(["vm"], sightings => sightings.Count > 0);
        long incarnation = (await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" })).Incarnation;
        await sleeper.SignalAsync("STOP");
        await SeenAsync(["vm"], sightings => sightings[^1].Process == other.Id);
        // Up to here not even a moment of both.
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(Witness)));
        await sleeper.SignalAsync("CONT");
        await EventuallyAsync(
            async () => await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" }) is { State: WorkerState.Ready } worker && worker.Incarnation > incarnation,
            "the worker serves again");
        int seen = Sighting.Read(Witness).Count;
        await SeenAsync(["vm"], sightings => sightings.Count > seen + 50);
        Assert.All(Sighting.Read(Witness).Skip(seen), sighting => Assert.Equal(other.Id, sighting.Process));
        Assert.Equal(0, (await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" })).Reserved.Vms);
        Assert.Equal(VmState.Running, (await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/vm" })).Status.State);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_front_end_that_is_killed_in_the_middle_of_calls_loses_none_and_repeats_none()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), FrontendAsync(registry, "f2"), WorkerAsync(registry, "a", LongLease));
        using VmmConnection one = started[0].Connect(), two = started[1].Connect();
        const int requests = 60;
        var acknowledged = new ConcurrentDictionary<int, Vm>();
        var killed = new TaskCompletionSource();
        Task[] calls = [.. Enumerable.Range(0, requests).Select(i => Task.Run(async () =>
        {
            CreateVmRequest request = Creation("");
            request.RequestId = $"r{i}";
            request.Vm.Labels["number"] = $"{i}";
            try
            {
                acknowledged[i] = await one.Vms.CreateVmAsync(request);
                if (acknowledged.Count == requests / 4 && killed.TrySetResult())
                    started[0].Kill();
            }
            catch (RpcException)
            {
                // Who knows whether it was done: that is the question.
            }
        }))];
        await Task.WhenAll(calls);
        Assert.InRange(acknowledged.Count, requests / 4, requests);
        for (int i = 0; i < requests; i++)
        {
            CreateVmRequest request = Creation("");
            request.RequestId = $"r{i}";
            request.Vm.Labels["number"] = $"{i}";
            Vm vm = await two.Vms.CreateVmAsync(request);
            Assert.Equal(acknowledged.GetValueOrDefault(i, vm), vm);
        }

        IReadOnlyList<Vm> all = (await two.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project, PageSize = 1000 })).Vms;
        Assert.Equal(Enumerable.Range(0, requests).Select(i => $"{i}").Order(StringComparer.Ordinal), all.Select(vm => vm.Labels["number"]).Order(StringComparer.Ordinal));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_vm_that_is_another_workers_by_the_time_it_is_made_is_not_acknowledged_and_goes()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), WorkerAsync(registry, "a", LongLease), WorkerAsync(registry, "b", LongLease));
        using VmmConnection one = started[0].Connect();
        CreateVmRequest request = Creation("vm");
        request.RequestId = "r";
        request.Vm.Spec.Placement = new PlacementSpec { WorkerLabels = { ["id"] = "b" } };
        Vm vm = await one.Vms.CreateVmAsync(request);
        // As a front end would call that was held up from when the VM was placed there.
        V1.Worker a = await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" });
        using var connector = new ChannelConnector(null);
        VmHostService.VmHostServiceClient worker = connector.Connect(new WorkerAddress(a.Name, a.Address, a.Incarnation));
        foreach (string id in (string[])["late", "late", ""])
        {
            CreateVmRequest late = request.Clone();
            late.RequestId = id;
            RpcException refused = await Assert.ThrowsAsync<RpcException>(async () => await worker.CreateVmAsync(late));
            Assert.Equal((StatusCode.Unavailable, "VM_ELSEWHERE"), (refused.StatusCode, VmmError.From(refused).Reason));
            await EventuallyAsync(async () => await IsGoneAsync(), "the VM goes");
        }

        Assert.Equal(vm, await one.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name }));
        Assert.Equal(vm, await one.Vms.CreateVmAsync(request));

        // One that nobody has is the worker's that made it: its placement was taken back, or lost with the database.
        CreateVmRequest lost = Creation("lost");
        lost.RequestId = "lost";
        Vm made = await worker.CreateVmAsync(lost);
        Assert.Equal(made, await one.Vms.GetVmAsync(new GetVmRequest { Name = made.Name }));
        Assert.Contains(made, (await one.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms);

        async Task<bool> IsGoneAsync()
        {
            try
            {
                await worker.GetVmAsync(new GetVmRequest { Name = vm.Name });
                return false;
            }
            catch (RpcException exception)
            {
                return VmmError.From(exception).Reason == "VM_MOVED" || exception.StatusCode == StatusCode.NotFound;
            }
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task While_the_database_is_away_vms_run_on_and_calls_fail_until_it_is_back()
    {
        await using PostgresServer server = await PostgresServer.StartAsync();
        string registry = await server.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), WorkerAsync(registry, "a", LongLease));
        using VmmConnection one = started[0].Connect();
        await one.Vms.CreateVmAsync(Creation("runs", restart: true));
        await one.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/runs" });
        await one.Vms.CreateVmAsync(Creation("changes"));
        int done = 0, failed = 0;
        using var ending = new CancellationTokenSource();
        // A client that goes on, and repeats what fails with the same id.
        Task client = Task.Run(async () =>
        {
            while (!ending.IsCancellationRequested)
            {
                string id = Guid.NewGuid().ToString();
                while (true)
                {
                    try
                    {
                        Vm vm = await one.Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = $"{Project}/vms/changes", Labels = { ["done"] = $"{done + 1}" } }, RequestId = id });
                        Assert.Equal($"{done + 1}", vm.Labels["done"]);
                        Interlocked.Increment(ref done);
                        break;
                    }
                    catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
                    {
                        Interlocked.Increment(ref failed);
                    }
                }
            }
        });
        await EventuallyAsync(() => Task.FromResult(Volatile.Read(ref done) > 10), "the client has got on");
        await server.StopAsync();
        await EventuallyAsync(() => Task.FromResult(Volatile.Read(ref failed) > 0), "calls fail");
        int seen = Sighting.Read(Witness).Count;
        await SeenAsync(["runs"], sightings => sightings.Count > seen + 50);
        await server.ContinueAsync();
        int then = Volatile.Read(ref done);
        await EventuallyAsync(() => Task.FromResult(Volatile.Read(ref done) > then + 10), "the client gets on again");
        await ending.CancelAsync();
        await client;
        Assert.Equal($"{done}", (await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/changes" })).Labels["done"]);
        Vm still = await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/runs" });
        Assert.Equal((VmState.Running, 1L), (still.Status.State, still.Status.RunCount));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_that_is_drained_or_ends_moves_its_vms_to_others_where_they_go_on()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] started = await Task.WhenAll(FrontendAsync(registry, "f1"), WorkerAsync(registry, "a", LongLease));
        using VmmConnection one = started[0].Connect();
        foreach ((string id, bool restart) in ((string, bool)[])[("restarts", true), ("never", false)])
        {
            await one.Vms.CreateVmAsync(Creation(id, restart));
            await one.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/{id}" });
        }

        FleetProcess other = await WorkerAsync(registry, "b", LongLease);
        Assert.Equal(WorkerState.Draining, (await one.Workers.DrainWorkerAsync(new DrainWorkerRequest { Name = "workers/a" })).State);
        await SeenAsync(["restarts", "never"], sightings => sightings[^1].Process == other.Id);
        await EventuallyAsync(async () => (await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" })).Reserved.Vms == 0, "nothing is left on the worker");
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(Witness)));
        await one.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/a" });
        await Task.WhenAll(((string[])["restarts", "never"]).Select(async id => Assert.Equal((VmState.Running, 1L), await StateAsync(id))));

        // An orderly end does the same at once.
        int seen = Sighting.Read(Witness).Count;
        Assert.Equal(0, await other.TerminateAsync());
        await SeenAsync(["restarts", "never"], sightings => sightings[^1].Process == started[1].Id);
        Assert.Equal(WorkerState.Lost, (await one.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/b" })).State);
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(Witness).Skip(seen)));
        await Task.WhenAll(((string[])["restarts", "never"]).Select(async id => Assert.Equal((VmState.Running, 1L), await StateAsync(id))));
        Assert.Equal(0, await started[1].TerminateAsync());

        async Task<(VmState State, long Runs)> StateAsync(string id)
        {
            VmStatus status = (await one.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/{id}" })).Status;
            return (status.State, status.RunCount);
        }
    }

    /// <summary>Kills come at moments that a seed gives, in the middle of moves as often as not.</summary>
    [RequiresPackageFact("postgresql")]
    public async Task Vms_that_move_all_the_time_run_in_one_place_at_a_time_while_workers_and_a_front_end_are_killed()
    {
        const int seed = 20261130;
        var random = new Random(seed);
        string registry = await postgres.NewSchemaAsync();
        FleetProcess[] frontends = await Task.WhenAll(FrontendAsync(registry, "f1"), FrontendAsync(registry, "f2"));
        var workers = new Dictionary<string, FleetProcess>();
        foreach (string id in (string[])["a", "b", "c"])
            workers[id] = await WorkerAsync(registry, id);
        using VmmConnection one = frontends[0].Connect(), two = frontends[1].Connect();
        await two.Vms.CreateVmAsync(Creation("vm", restart: true));
        await two.Vms.StartVmAsync(new StartVmRequest { Name = $"{Project}/vms/vm" });
        int attempts = 0, moves = 0, kills = 0;
        bool isOneDead = false;
        using var ending = new CancellationTokenSource();
        Task mover = Task.Run(async () =>
        {
            while (!ending.IsCancellationRequested)
            {
                var request = new MigrateVmRequest { Name = $"{Project}/vms/vm", RequestId = $"move-{attempts}" };
                Interlocked.Increment(ref attempts);
                MigrateVmResponse? first = null;
                try
                {
                    if (!Volatile.Read(ref isOneDead))
                        first = await one.Vms.MigrateVmAsync(request);
                }
                catch (RpcException)
                {
                    // Who knows whether it was done: the other front end does.
                }

                try
                {
                    MigrateVmResponse answer = await two.Vms.MigrateVmAsync(request);
                    Assert.Equal(first ?? answer, answer);
                    Interlocked.Increment(ref moves);
                }
                catch (RpcException exception)
                {
                    Assert.True(first is null && exception.StatusCode is StatusCode.Unavailable or StatusCode.Aborted or StatusCode.ResourceExhausted or StatusCode.FailedPrecondition, $"seed {seed}: {exception.Status}");
                }
            }
        });
        for (; kills < 3; kills++)
        {
            int then = Volatile.Read(ref moves);
            await EventuallyAsync(() => Task.FromResult(Volatile.Read(ref moves) >= then + 3 || mover.IsCompleted), $"the VM moves (seed {seed})");
            await Task.Delay(random.Next(100));
            // The one that runs it, or the one that it may be on its way to.
            int running = Sighting.Read(Witness)[^1].Process;
            string victim = workers.OrderBy(worker => worker.Value.Id == running).ElementAt(random.Next(2) == 0 ? 2 : random.Next(2)).Key;
            workers[victim].Kill();
            if (kills == 1)
            {
                frontends[0].Kill();
                Volatile.Write(ref isOneDead, true);
            }

            int seen = Sighting.Read(Witness).Count;
            await EventuallyAsync(() => Task.FromResult(Sighting.Read(Witness).Count > seen + 20), $"the VM runs (seed {seed})");
            workers[victim] = await WorkerAsync(registry, victim);
        }

        await ending.CancelAsync();
        await mover;
        // Each change of its place is a move, or a kill: were it in two places at once, it would be one every few milliseconds.
        List<Sighting> sightings = [.. Sighting.Read(Witness).OrderBy(sighting => sighting.Time)];
        int changes = sightings.Zip(sightings.Skip(1)).Count(pair => pair.First.Process != pair.Second.Process);
        Assert.InRange(changes, 1, attempts + 2 * kills);
        Assert.Equal(VmState.Running, (await two.Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/vm" })).Status.State);
        Assert.Equal(1, (await two.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers.Sum(worker => worker.Reserved.Vms));
    }

    private static async Task NextAsync(AsyncServerStreamingCall<VmEvent> watch, VmEvent.Types.Type type, string id, VmState? state = null)
    {
        while (await watch.ResponseStream.MoveNext(Soon))
            if (watch.ResponseStream.Current is { } item && item.Type == type && (id.Length == 0 || item.Vm.Name == $"{Project}/vms/{id}") && (state is null || item.Vm.Status.State == state))
                return;
        Assert.Fail($"the watch ended before {type} {id}");
    }

    private async Task<FleetProcess> FrontendAsync(string registry, string id) =>
        Keep(await FleetProcess.StartAsync("vmmd.dll", "frontend", "--listen", $"unix:{Path.Combine(_folder, id)}", "--registry", registry, "--verbose"));

    private async Task<FleetProcess> WorkerAsync(string registry, string id, int lease = ShortLease) =>
        Keep(await FleetProcess.StartAsync(StubProgram, Witness, Path.Combine(_folder, $"state-{id}"), registry, id, $"{lease}"));

    private FleetProcess Keep(FleetProcess process)
    {
        lock (_processes)
            _processes.Add(process);
        return process;
    }

    private CreateVmRequest Creation(string id, bool restart = false, string? image = null)
    {
        string kernel = Path.Combine(_folder, id.Length > 0 ? id : "any");
        File.WriteAllText(kernel, "kernel");
        return new CreateVmRequest
        {
            Parent = Project,
            VmId = id,
            Vm = new Vm
            {
                Spec = new VmSpec
                {
                    MemoryMib = 64,
                    Kernel = image is null ? new FileSource { Path = kernel } : new FileSource { Image = image },
                    RestartPolicy = restart ? RestartPolicy.Restart : RestartPolicy.Unspecified,
                },
            },
        };
    }

    /// <summary>Waits until what the witness saw of each VM is as it is to be.</summary>
    private Task SeenAsync(IEnumerable<string> vms, Predicate<List<Sighting>> condition) => EventuallyAsync(
        () =>
        {
            List<Sighting> all = Sighting.Read(Witness);
            return Task.FromResult(vms.All(vm => all.Where(sighting => sighting.Vm == vm).ToList() is { Count: > 0 } of && condition(of)));
        },
        "the witness has seen it");

    private Task EventuallyAsync(Func<Task<bool>> condition, string what) => Eventually.HoldsAsync(condition, what, _processes);
}
