using System.Text;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Client;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>VMs that move from one worker to another, through the API, with fake machines: what goes along, and what is left where it breaks.</summary>
public sealed class MigrationTests : IAsyncLifetime
{
    private const string Project = "projects/default";
    private const string Name = $"{Project}/vms/vm";

    private MigrationFleet _fleet = null!;

    private static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(1)).Token;

    public async Task InitializeAsync() => _fleet = await MigrationFleet.StartAsync();

    public async Task DisposeAsync() => await _fleet.DisposeAsync();

    [Fact]
    public async Task A_running_vm_moves_with_memory_disks_console_and_what_was_deferred()
    {
        FakeMachine source = await StartAsync();
        source.InstructionsRetired = 1234;
        source.EnterL2(0);
        await _fleet.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = 0x2100, Data = ByteString.CopyFromUtf8("memory") });
        string disk = Directory.GetFiles(Path.Combine(_fleet.StateOf("a"), "vms"), "disk0", SearchOption.AllDirectories).Single();
        using var console = await ConsoleAsync();
        source.Print("before ");
        await console.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFromUtf8("first ") });
        using var watch = _fleet.Vms.WatchVms(new WatchVmsRequest { Parent = Project, ApicvVm = Name }, cancellationToken: Soon);
        await NextAsync(watch, item => item.Type == VmEvent.Types.Type.Synced);
        await WaitAsync(() => source.Input == "first ", "the guest has the input");
        // This call waits until the inhibit is applied, wherever that is.
        Task<ApicvChange> waiting = _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv, Wait = true, RequestId = "inhibit" }).ResponseAsync;
        await NextAsync(watch, item => item.Apicv?.Type == ApicvEvent.Types.Type.UpdateDeferred);
        // What the guest writes while the copy is under way goes along.
        bool written = false;
        _fleet.BeforeSend = request =>
        {
            if (request.Round is null || written)
                return;
            written = true;
            Assert.True(source.WriteMemory(MemoryAddressing.Physical, 0, 0x5000, "later"u8));
            File.WriteAllBytes(disk, [.. File.ReadAllBytes(disk)[..^5], .. "later"u8]);
            source.WrittenBlocks[0] = [2];
            source.Print("under way ");
        };
        // Input that does not fit waits, and is the target's.
        source.InputRoom = 3;
        await console.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFromUtf8("second ") });
        await WaitAsync(() => source.Input == "first sec", "the guest has a part");

        var request = new MigrateVmRequest { Name = Name, RequestId = "move" };
        MigrateVmResponse moved = await _fleet.Vms.MigrateVmAsync(request);
        Assert.Equal(("workers/a", "workers/b", VmState.Running), (moved.SourceWorker, moved.Vm.Status.Worker, moved.Vm.Status.State));
        Assert.True(moved is { Rounds: >= 2, TransferredBytes: > 0, Pause: not null });
        Assert.Equal(moved, await _fleet.Vms.MigrateVmAsync(request));
        FakeMachine target = _fleet.B.Last;
        Assert.True(source.Disposed);
        Assert.Equal((MachineRunState.Running, 1234UL), (target.RunState, target.InstructionsRetired));
        target.Print("after");
        await WaitAsync(() => target.Input == "first second ", "no input is lost or doubled");
        await console.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFromUtf8("third") });
        await WaitAsync(() => target.Input == "first second third", "input goes on");
        Assert.Equal("before under way after", await OutputAsync(console, "after"));
        foreach ((ulong address, string text) in ((ulong, string)[])[(0x2100, "memory"), (0x5000, "later")])
            Assert.Equal(text, (await _fleet.Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = Name, Address = address, Length = text.Length })).Data.ToStringUtf8());
        string moved0 = Directory.GetFiles(Path.Combine(_fleet.StateOf("b"), "vms"), "disk0", SearchOption.AllDirectories).Single();
        Assert.Equal([.. DiskImage()[..^5], .. "later"u8], File.ReadAllBytes(moved0));
        Assert.False(File.Exists(disk));

        await NextAsync(watch, item => item.Vm is { Status.Worker: "workers/b" });
        Assert.False(waiting.IsCompleted);
        Assert.Equal(["set HyperV"], source.ApicvChanges);
        target.LeaveL2(0);
        Assert.Equal(V1.ApicvUpdateState.Applied, (await waiting).Vcpus[0].State);
        Assert.Empty(target.ApicvChanges);
        await NextAsync(watch, item => item.Apicv?.Type == ApicvEvent.Types.Type.UpdateApplied);

        // And back again.
        _fleet.BeforeSend = static _ => { };
        Assert.Equal("workers/a", (await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, Worker = "workers/a" })).Vm.Status.Worker);
        _fleet.A.Last.Print(" again");
        Assert.Equal(" again", await OutputAsync(console, " again"));
        await _fleet.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        Assert.Equal((1, 0), await CountAsync());
    }

    [Fact]
    public async Task A_paused_vm_moves_as_it_is_and_so_does_a_stopped_one()
    {
        FakeMachine source = await StartAsync();
        await _fleet.Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
        MigrateVmResponse moved = await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        Assert.Equal((VmState.Paused, null), (moved.Vm.Status.State, moved.Pause));
        Assert.Equal(MachineRunState.Paused, _fleet.B.Last.RunState);
        await _fleet.Vms.ResumeVmAsync(new ResumeVmRequest { Name = Name });
        await _fleet.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        string disk = Directory.GetFiles(Path.Combine(_fleet.StateOf("b"), "vms"), "disk0", SearchOption.AllDirectories).Single();
        File.WriteAllText(disk, "written");
        moved = await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        Assert.Equal((VmState.Stopped, "workers/a", 0), (moved.Vm.Status.State, moved.Vm.Status.Worker, moved.Rounds));
        Assert.Equal("written", File.ReadAllText(Directory.GetFiles(Path.Combine(_fleet.StateOf("a"), "vms"), "disk0", SearchOption.AllDirectories).Single()));
        Assert.Equal((1L, VmState.Running), (moved.Vm.Status.RunCount, (await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = Name })).Status.State));
        Assert.True(source.Disposed);
    }

    /// <summary>Where a move can break before the registry has made it. Nothing has changed afterwards, and the next move works.</summary>
    [Theory]
    [InlineData("send Offer")]
    [InlineData("take Accepted")]
    [InlineData("send Pages")]
    [InlineData("send Block")]
    [InlineData("send Round")]
    [InlineData("take Round")]
    [InlineData("send State")]
    [InlineData("send End")]
    [InlineData("take Ready")]
    [InlineData("registry PlanMoveAsync")]
    [InlineData("registry FindMoveAsync")]
    [InlineData("registry CommitMoveAsync")]
    [InlineData("registry CommitMoveAsync aborted")]
    [InlineData("digest")]
    [InlineData("page")]
    public async Task A_move_that_breaks_leaves_the_vm_running_as_if_nothing_had_been(string phase)
    {
        FakeMachine source = await StartAsync();
        using var console = await ConsoleAsync();
        int broken = 0;
        _fleet.BeforeSend = request =>
        {
            if (phase == "digest" && request.End is { } end)
                (end.Sha256, broken) = (ByteString.CopyFrom(new byte[32]), broken + 1);
            if (phase == "page" && request.Pages is { Runs.Count: > 0 } pages)
                (pages.Runs[0].First, broken) = (int.MaxValue, broken + 1);
            Break($"send {request.RequestCase}");
        };
        _fleet.BeforeTake = response => Break($"take {response.ResponseCase}");
        _fleet.AroundRegistry = async (method, call) =>
        {
            Break($"registry {method}");
            if (phase == $"registry {method} aborted")
            {
                broken++;
                throw ApiError.Aborted("MOVE_ENDED", "for the test");
            }

            await call();
        };
        string etag = (await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name })).Etag;
        await Assert.ThrowsAsync<RpcException>(async () => await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, RequestId = "broken" }));
        Assert.True(broken > 0);
        Assert.Equal(MachineRunState.Running, source.RunState);
        source.Print("still here");
        Assert.Equal("still here", await OutputAsync(console, "here"));
        await console.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFromUtf8("hello") });
        await WaitAsync(() => source.Input == "hello", "the guest has the input");
        Vm now = await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name });
        Assert.Equal(("workers/a", etag, null), (now.Status.Worker, now.Etag, now.Status.Migration));
        Assert.Equal(0, (await _fleet.Connection.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/b" })).Reserved.Vms);
        await WaitAsync(() => _fleet.B.Made.All(machine => machine.Disposed) && Directory.GetDirectories(Path.Combine(_fleet.StateOf("b"), "vms")).Length == 0, "nothing is left at the target");

        (_fleet.BeforeSend, _fleet.BeforeTake, _fleet.AroundRegistry) = (static _ => { }, static _ => { }, static (_, call) => call());
        Assert.Equal("workers/b", (await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, RequestId = "broken" })).Vm.Status.Worker);
        Assert.Equal((true, MachineRunState.Running), (source.Disposed, _fleet.B.Last.RunState));

        void Break(string here)
        {
            if (here != phase)
                return;
            broken++;
            throw here.StartsWith("registry", StringComparison.Ordinal) ? ApiError.Unavailable("REGISTRY_UNAVAILABLE", "for the test") : new RpcException(new Status(StatusCode.Unavailable, "for the test"));
        }
    }

    /// <summary>The registry has moved the VM, and whoever is to hear of it does not.</summary>
    [Theory]
    [InlineData("answer of the commit")]
    [InlineData("committed")]
    [InlineData("running")]
    public async Task A_move_that_was_committed_is_made_whoever_hears_of_it(string lost)
    {
        FakeMachine source = await StartAsync();
        using var console = await ConsoleAsync();
        bool away = false;
        int asked = 0;
        _fleet.AroundRegistry = async (method, call) =>
        {
            if (lost == "answer of the commit" && method == nameof(IRegistry.SettleMoveAsync) && Interlocked.Increment(ref asked) < 3)
                throw ApiError.Unavailable("REGISTRY_UNAVAILABLE", "for the test");
            await call();
            // Nobody runs while it is not known who may.
            if (method != nameof(IRegistry.CommitMoveAsync))
                return;
            Assert.NotEqual(MachineRunState.Running, source.RunState);
            Assert.All(_fleet.B.Made, machine => Assert.NotEqual(MachineRunState.Running, machine.RunState));
            away = true;
            if (lost == "answer of the commit")
                throw ApiError.Unavailable("REGISTRY_UNAVAILABLE", "for the test");
        };
        _fleet.BeforeSend = request => Cut(lost == "committed" && request.Committed is not null);
        _fleet.BeforeTake = response => Cut(lost == "running" && response.Running is not null);
        MigrateVmResponse moved = await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        Assert.True(away);
        Assert.Equal("workers/b", moved.Vm.Status.Worker);
        Assert.True(source.Disposed);
        await WaitAsync(() => _fleet.B.Last.RunState == MachineRunState.Running, "it runs at the target");
        _fleet.B.Last.Print("here");
        Assert.Equal("here", await OutputAsync(console, "here"));
        Assert.Equal((0, 1), await CountAsync());

        static void Cut(bool now)
        {
            if (now)
                throw new RpcException(new Status(StatusCode.Unavailable, "for the test"));
        }
    }

    [Fact]
    public async Task A_call_that_was_on_its_way_when_the_vm_moved_is_to_be_repeated_and_no_other_error()
    {
        await StartAsync();
        V1.Worker a = await _fleet.Connection.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" });
        VmHostService.VmHostServiceClient former = _fleet.Connect(new WorkerAddress(a.Name, a.Address, a.Incarnation));
        string? answer = null;
        _fleet.BeforeTake = response =>
        {
            if (response.Running is null)
                return;
            try
            {
                former.GetVm(new GetVmRequest { Name = Name });
                answer = "OK";
            }
            catch (RpcException exception)
            {
                answer = ApiError.ReasonOf(exception);
            }
        };
        await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        _fleet.BeforeTake = static _ => { };
        Assert.Equal("VM_MOVED", answer);
        Assert.Equal("VM_MOVED", ApiError.ReasonOf(await Assert.ThrowsAsync<RpcException>(async () => await former.PauseVmAsync(new PauseVmRequest { Name = Name }))));
        // It comes back, and is here.
        await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        Assert.Equal(VmState.Running, (await former.GetVmAsync(new GetVmRequest { Name = Name })).Status.State);
    }

    [Fact]
    public async Task A_target_that_was_not_told_asks_until_the_registry_answers()
    {
        FakeMachine source = await StartAsync();
        int asked = 0;
        _fleet.BeforeTake = response =>
        {
            if (response.Ready is not null)
                throw new RpcException(new Status(StatusCode.Unavailable, "for the test"));
        };
        _fleet.AroundRegistry = async (method, call) =>
        {
            if (method == nameof(IRegistry.SettleMoveAsync) && Interlocked.Increment(ref asked) < 4)
                throw ApiError.Unavailable("REGISTRY_UNAVAILABLE", "for the test");
            await call();
        };
        await Assert.ThrowsAsync<RpcException>(async () => await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name }));
        await WaitAsync(() => Volatile.Read(ref asked) >= 4 && _fleet.B.Made.All(machine => machine.Disposed), "the target has given up");
        Assert.Equal(MachineRunState.Running, source.RunState);
        Assert.All(_fleet.B.Made, machine => Assert.NotEqual(MachineRunState.Running, machine.RunState));
        await WaitAsync(async () => await CountAsync() == (1, 0), "the place at the target is free");
    }

    [Fact]
    public async Task What_cannot_move_is_refused_with_the_reason()
    {
        FakeMachine source = await StartAsync();
        await RefusedAsync(StatusCode.FailedPrecondition, "ALREADY_THERE", new MigrateVmRequest { Name = Name, Worker = "workers/a" });
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", new MigrateVmRequest { Name = Name, Worker = "workers/c" });
        await RefusedAsync(StatusCode.InvalidArgument, "INVALID_FIELD", new MigrateVmRequest { Name = Name, Worker = "b" });
        await RefusedAsync(StatusCode.InvalidArgument, "INVALID_FIELD", new MigrateVmRequest { Name = Name, MaxPause = new Duration { Nanos = 1 } });
        await RefusedAsync(StatusCode.InvalidArgument, "INVALID_FIELD", new MigrateVmRequest { Name = Name, MaxPause = new Duration { Seconds = 601 } });
        await RefusedAsync(StatusCode.Aborted, "ETAG_MISMATCH", new MigrateVmRequest { Name = Name, Etag = "x" });
        await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        VmmError full = await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", new MigrateVmRequest { Name = Name });
        Assert.Contains(new VmmViolation("workers/b", "", "is cordoned"), full.Quotas);
        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });

        // A disk that is the host's own file, and a guest that is checked by another.
        Vm host = await CreateAsync("host", spec => spec.Disks.Add(new Disk { Source = new FileSource { Path = _fleet.Write("host-disk", new byte[512]) } }));
        await RefusedAsync(StatusCode.FailedPrecondition, "NOT_MIGRATABLE", new MigrateVmRequest { Name = host.Name });
        Vm lockstep = await CreateAsync("lockstep", spec => (spec.Engine, spec.Clock) = (V1.ExecutionEngine.Lockstep, Clock.Virtual));
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = lockstep.Name });
        await RefusedAsync(StatusCode.FailedPrecondition, "NOT_MIGRATABLE", new MigrateVmRequest { Name = lockstep.Name, Worker = Other((await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = lockstep.Name })).Status.Worker) });

        // A guest that writes everything all the time.
        source.PagesWrittenPerRound = (int)(source.Spec.MemoryBytes / 4096);
        source.WrittenBlocks.Clear();
        VmmError fast = await RefusedAsync(StatusCode.Aborted, "NOT_CONVERGING", new MigrateVmRequest { Name = Name, MaxPause = new Duration { Nanos = 1_000_000 } });
        Assert.Contains("30 rounds", fast.Message, StringComparison.Ordinal);
        Assert.Equal(MachineRunState.Running, source.RunState);
        Assert.Equal("workers/b", (await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, MaxPause = new Duration { Seconds = 600 } })).Vm.Status.Worker);
    }

    [Fact]
    public async Task What_comes_uninvited_or_garbled_is_refused_and_nothing_is_left()
    {
        await StartAsync();
        Vm vm = await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name });
        V1.Worker b = await _fleet.Connection.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/b" }), a = await _fleet.Connection.Workers.GetWorkerAsync(new GetWorkerRequest { Name = "workers/a" });
        VmHostService.VmHostServiceClient target = _fleet.Connect(new WorkerAddress(b.Name, b.Address, b.Incarnation));
        var lease = new WorkerLease(a.Name, a.Incarnation, TimeSpan.FromMinutes(10));
        MoveOffer Offer(string ticket, Action<MoveOffer>? change = null)
        {
            var offer = new MoveOffer { Ticket = ticket, Vm = vm.Clone(), DiskBytes = { DiskImage().Length } };
            change?.Invoke(offer);
            return offer;
        }

        await SendAsync(StatusCode.InvalidArgument, new ReceiveVmRequest { Committed = new MoveCommitted() });
        await SendAsync(StatusCode.FailedPrecondition, new ReceiveVmRequest { Offer = Offer("none") });
        string ticket = (await _fleet.Registry.PlanMoveAsync(lease, Name, null, CancellationToken.None)).Ticket;
        await SendAsync(StatusCode.InvalidArgument, new ReceiveVmRequest { Offer = Offer(ticket, offer => offer.Vm.Uid = "another") });
        await SendAsync(StatusCode.InvalidArgument, new ReceiveVmRequest { Offer = Offer(ticket, offer => offer.Vm.Spec.MemoryMib = 1) });
        await SendAsync(StatusCode.InvalidArgument, new ReceiveVmRequest { Offer = Offer(ticket, offer => offer.DiskBytes.Clear()) });
        await SendAsync(StatusCode.InvalidArgument, new ReceiveVmRequest { Offer = Offer(ticket, offer => offer.DiskBytes[0] = -1) });
        var good = new ReceiveVmRequest { Offer = Offer(ticket) };
        foreach (ReceiveVmRequest bad in (ReceiveVmRequest[])
            [
                new(),
                good,
                new() { Committed = new MoveCommitted() },
                new() { Pages = new MemoryPages { Runs = { new Vmm.Worker.V1.PageRun { First = 0, Count = 1 } } } },
                new() { Pages = new MemoryPages { Runs = { new Vmm.Worker.V1.PageRun { First = -1, Count = 1, Zero = true } } } },
                new() { Pages = new MemoryPages { Data = ByteString.CopyFrom(new byte[4096]) } },
                new() { Block = new DiskBlock { Disk = 1, Data = ByteString.CopyFrom(1) } },
                new() { Block = new DiskBlock { Offset = DiskImage().Length, Data = ByteString.CopyFrom(1) } },
                new() { Block = new DiskBlock { Offset = -1, Data = ByteString.CopyFrom(1) } },
                new() { Block = new DiskBlock { Offset = long.MaxValue, Data = ByteString.CopyFrom(1) } },
                new() { Round = new MoveRound { Rehearsal = new MachineDocuments() } },
                new() { End = new MoveEnd() },
            ])
            await SendAsync(null, good, bad);
        // A stream that just ends.
        await SendAsync(StatusCode.InvalidArgument, good);
        Assert.Empty(Directory.GetDirectories(Path.Combine(_fleet.StateOf("b"), "vms")));
        Assert.Empty(_fleet.B.Made);
        Assert.Equal("workers/b", (await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name })).Vm.Status.Worker);

        async Task SendAsync(StatusCode? expected, params ReceiveVmRequest[] requests)
        {
            using var call = target.ReceiveVm(cancellationToken: Soon);
            RpcException refused = await Assert.ThrowsAsync<RpcException>(async () =>
            {
                foreach (ReceiveVmRequest request in requests)
                    await call.RequestStream.WriteAsync(request);
                await call.RequestStream.CompleteAsync();
                while (await call.ResponseStream.MoveNext(Soon))
                {
                }
            });
            Assert.True(expected is null || refused.StatusCode == expected, $"{requests[^1]}: {refused.Status}");
            Assert.True(ApiError.HasDetails(refused) && refused.StatusCode is StatusCode.InvalidArgument or StatusCode.FailedPrecondition or StatusCode.DataLoss, $"{requests[^1]}: {refused.Status}");
        }
    }

    [Fact]
    public async Task A_worker_that_is_drained_moves_its_vms_and_keeps_those_that_nobody_has_room_for()
    {
        FakeMachine source = await StartAsync();
        Vm large = await CreateAsync("large", spec => (spec.MemoryMib, spec.Placement) = (1900, new PlacementSpec { Strategy = PlacementSpec.Types.Strategy.Pack }));
        Assert.Equal("workers/a", large.Status.Worker);
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = large.Name });
        await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/a" });
        // b has room for one of them.
        await CreateAsync("other", spec => spec.MemoryMib = 1800);
        using var console = await ConsoleAsync();
        await _fleet.Connection.Workers.DrainWorkerAsync(new DrainWorkerRequest { Name = "workers/a" });
        await WaitAsync(() => source.Disposed && _fleet.B.Made.Count > 0 && _fleet.B.Last.RunState == MachineRunState.Running, "the VM is on the other worker");
        _fleet.B.Last.Print("moved");
        Assert.Equal("moved", await OutputAsync(console, "moved"));
        Assert.Equal(("workers/b", 1L), ((await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name })).Status.Worker, (await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name })).Status.RunCount));
        Assert.Equal((VmState.Running, "workers/a"), ((await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = large.Name })).Status.State, (await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = large.Name })).Status.Worker));
        // Why it stays is told as long as it does.
        WorkerDrain drain = new();
        await WaitAsync(async () => (drain = await DrainAsync()).Vms is [{ Obstacle: not null }], "it is known that the VM stays");
        Assert.Equal((large.Name, "NO_WORKER"), (drain.Vms[0].Name, drain.Vms[0].Obstacle.Reason));
        Assert.Contains("short of memory", drain.Vms[0].Obstacle.Message, StringComparison.Ordinal);
        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/a" });
        RpcException ended = await Assert.ThrowsAsync<RpcException>(DrainAsync);
        Assert.Equal((StatusCode.FailedPrecondition, "NOT_DRAINING"), (ended.StatusCode, ApiError.ReasonOf(ended)));

        // Room comes about, and it goes too.
        await _fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = $"{Project}/vms/other" });
        await _fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name, Force = true });
        await _fleet.Connection.Workers.DrainWorkerAsync(new DrainWorkerRequest { Name = "workers/a" });
        await WaitAsync(async () => await CountAsync() == (0, 1), "nothing is left on the worker");
        await WaitAsync(async () => (await DrainAsync()).Vms.Count == 0, "nothing is left that could stay");

        async Task<WorkerDrain> DrainAsync() => await _fleet.Connection.Workers.GetWorkerDrainAsync(new GetWorkerDrainRequest { Name = "workers/a" });
    }

    [Fact]
    public async Task A_drain_boots_elsewhere_what_cannot_move_when_another_worker_has_room_and_not_before()
    {
        await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        Vm vm = await CreateAsync("lockstep", spec => (spec.Engine, spec.Clock, spec.RestartPolicy) = (V1.ExecutionEngine.Lockstep, Clock.Virtual, RestartPolicy.Restart));
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        FakeMachine source = _fleet.A.Last;
        await _fleet.Connection.Workers.DrainWorkerAsync(new DrainWorkerRequest { Name = "workers/a" });
        WorkerDrain drain = new();
        await WaitAsync(
            async () => (drain = await _fleet.Connection.Workers.GetWorkerDrainAsync(new GetWorkerDrainRequest { Name = "workers/a" })).Vms is [{ Obstacle: not null }], "it is known that the VM stays");
        Assert.Equal((vm.Name, "NO_WORKER"), (drain.Vms[0].Name, drain.Vms[0].Obstacle.Reason));
        Assert.Equal(MachineRunState.Running, source.RunState);

        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });
        await _fleet.Connection.Workers.DrainWorkerAsync(new DrainWorkerRequest { Name = "workers/a" });
        await WaitAsync(() => source.Disposed && _fleet.B.Made.Count > 0 && _fleet.B.Last.RunState == MachineRunState.Running, "the VM runs on the other worker");
        Vm there = await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
        Assert.Equal((VmState.Running, "workers/b", 2L), (there.Status.State, there.Status.Worker, there.Status.RunCount));
    }

    private static string Other(string worker) => worker == "workers/a" ? "workers/b" : "workers/a";

    private static byte[] DiskImage() => [.. Enumerable.Range(0, 150_016).Select(i => i < 70_000 ? (byte)0 : (byte)i)];

    /// <summary>Starts the VM with a private disk, on worker a.</summary>
    private async Task<FakeMachine> StartAsync()
    {
        await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        Image image = await _fleet.Connection.PushImageAsync(_fleet.Write("image", DiskImage()), Project);
        await CreateAsync("vm", spec => spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name } }));
        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = Name });
        return _fleet.A.Last;
    }

    private async Task<Vm> CreateAsync(string id, Action<VmSpec> change)
    {
        var spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = _fleet.Write("kernel", "kernel"u8.ToArray()) } };
        change(spec);
        return await _fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = id, Vm = new Vm { Spec = spec } });
    }

    private async Task<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>> ConsoleAsync()
    {
        AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = _fleet.Vms.Console(cancellationToken: Soon);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = Name, Write = true } });
        Assert.True(await console.ResponseStream.MoveNext(Soon));
        Assert.True(console.ResponseStream.Current.Attached.Writer);
        return console;
    }

    /// <summary>Output until it ends with a text. Whatever else comes fails the test.</summary>
    private static async Task<string> OutputAsync(AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console, string last)
    {
        var text = new StringBuilder();
        while (!text.ToString().EndsWith(last, StringComparison.Ordinal))
        {
            Assert.True(await console.ResponseStream.MoveNext(Soon));
            Assert.True(console.ResponseStream.Current.ResponseCase == ConsoleResponse.ResponseOneofCase.Output, $"'{text}', then {console.ResponseStream.Current}");
            text.Append(console.ResponseStream.Current.Output.Data.ToStringUtf8());
        }

        return text.ToString();
    }

    private async Task<VmmError> RefusedAsync(StatusCode code, string reason, MigrateVmRequest request)
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(async () => await _fleet.Vms.MigrateVmAsync(request));
        VmmError error = VmmError.From(exception);
        Assert.True((code, reason) == (exception.StatusCode, error.Reason), $"expected {code}/{reason}, got {exception.StatusCode}/{error.Reason}: {error.ToText()}");
        return error;
    }

    /// <summary>How many VMs each worker has.</summary>
    private async Task<(int A, int B)> CountAsync()
    {
        IReadOnlyList<V1.Worker> workers = (await _fleet.Connection.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers;
        return (workers.Single(worker => worker.Name == "workers/a").Reserved.Vms, workers.Single(worker => worker.Name == "workers/b").Reserved.Vms);
    }

    private static async Task NextAsync(AsyncServerStreamingCall<VmEvent> watch, Predicate<VmEvent> wanted)
    {
        while (await watch.ResponseStream.MoveNext(Soon))
            if (wanted(watch.ResponseStream.Current))
                return;
        Assert.Fail("the watch ended");
    }

    private static Task WaitAsync(Func<bool> condition, string what) => WaitAsync(() => Task.FromResult(condition()), what);

    private static async Task WaitAsync(Func<Task<bool>> condition, string what)
    {
        for (int i = 0; i < 3000; i++)
        {
            if (await condition())
                return;
            await Task.Delay(10);
        }

        Assert.Fail($"{what} did not come about");
    }
}
