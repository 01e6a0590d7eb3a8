using Google.Protobuf;
using Grpc.Core;
using Npgsql;
using Vmm.Client;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.InMemory;
using Vmm.Registry.Postgres;
using Vmm.Testing;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>What every registry does, whichever it is.</summary>
internal abstract partial class RegistryContract(IRegistry registry)
{
    private const string Project = "projects/p";
    private static readonly CancellationToken None = CancellationToken.None;

    private IRegistry Registry { get; } = registry;

    /// <summary>Every test of the contract.</summary>
    public static TheoryData<string> Names() =>
    [
        nameof(A_vm_is_where_it_was_placed_once_its_worker_reports_it),
        nameof(A_repeated_request_is_answered_and_another_of_its_id_refused),
        nameof(A_placement_without_a_vm_is_taken_back_and_frees_its_room),
        nameof(A_vm_whose_placement_was_taken_back_is_its_workers_unless_it_is_anothers_by_then),
        nameof(A_batch_that_is_reported_again_changes_nothing),
        nameof(Events_are_told_in_order_and_resume_anywhere),
        nameof(A_lost_worker_may_not_report_and_its_vms_move_once),
        nameof(A_worker_that_comes_back_drops_what_has_moved_and_keeps_the_rest),
        nameof(A_deletion_that_was_not_reported_is_noticed),
        nameof(A_name_belongs_to_one_state_directory),
        nameof(Cordoned_workers_take_nothing),
        nameof(Vms_keep_apart_and_together_as_asked),
        nameof(Vms_with_checkpoints_go_only_where_those_are_kept),
        nameof(Concurrent_placements_never_take_more_than_there_is),
        nameof(Images_and_snapshots_are_found_where_they_are),
        nameof(Vms_that_are_handed_over_are_placed_again_and_not_started),
        nameof(Old_events_are_forgotten_and_their_tokens_expire),
        nameof(Requests_of_which_only_the_journal_knew_are_known_once_their_worker_is_back),
        nameof(A_vm_moves_with_its_event_and_the_answer_in_one_step),
        nameof(A_move_that_was_settled_or_whose_worker_was_lost_is_not_committed),
        nameof(Projects_are_made_changed_and_deleted_once),
        nameof(A_project_is_deleted_only_when_nothing_is_in_it),
        nameof(Concurrent_placements_never_take_more_than_a_quota),
        nameof(Images_count_from_the_moment_they_are_announced),
        nameof(Streams_count_over_all_front_ends_until_they_end_or_their_front_end_does),
        nameof(Concurrent_streams_never_take_more_than_a_quota),
        nameof(A_request_id_is_taken_by_one_of_those_that_come_at_once),
        nameof(A_snapshot_of_a_lost_worker_is_deleted_for_good),
        nameof(Tokens_are_known_until_they_are_deleted),
        nameof(The_audit_log_is_read_backwards_in_parts),
    ];

    /// <summary>Makes the lease of a worker end.</summary>
    protected abstract Task ExpireAsync(string worker);

    /// <summary>Makes the lease end that a front end has of its streams.</summary>
    protected abstract Task ExpireStreamsAsync(string holder);

    public async Task A_vm_is_where_it_was_placed_once_its_worker_reports_it()
    {
        WorkerLease lease = await RegisterAsync("a");
        Located placed = await Registry.PlaceVmAsync(New("one"), None);
        Assert.Equal(("workers/a", 1L), (placed.Worker!.Name, placed.Generation));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateVmAsync(Name("one"), null, None));
        Assert.Empty(await Registry.ReportAsync(lease, [new VmReport(Made("one"))], None));
        Assert.Equal(new WorkerAddress("workers/a", "http://a", lease.Incarnation), (await Registry.LocateVmAsync(Name("one"), null, None)).Worker);
        Assert.Equal([Made("one")], await Registry.ListVmsAsync(Project, None));
        Assert.Empty(await Registry.ListVmsAsync("projects/pp", None));
        await RefusedAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", () => Registry.PlaceVmAsync(New("one"), None));
        await Registry.ReportAsync(lease, [new VmDeletedReport(Name("one"))], None);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateVmAsync(Name("one"), null, None));
        Assert.Equal(0, (await WorkerAsync("a")).Reserved.Vms);
    }

    public async Task A_repeated_request_is_answered_and_another_of_its_id_refused()
    {
        WorkerLease lease = await RegisterAsync("a");
        NewVm vm = New("one") with { Request = Key("r1", 1) };
        Located first = await Registry.PlaceVmAsync(vm, None);
        Assert.True(first.IsNew);
        Assert.Equal(first with { IsNew = false }, await Registry.PlaceVmAsync(vm, None));
        await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Registry.PlaceVmAsync(vm with { Request = Key("r1", 2) }, None));
        await Registry.ReportAsync(lease, [new VmReport(Made("one")), new RequestReport(Key("r1", 1), ByteString.CopyFromUtf8("answer"))], None);
        Located answered = await Registry.PlaceVmAsync(vm, None);
        Assert.Equal(("answer", false), (System.Text.Encoding.UTF8.GetString(answered.Answer!), answered.IsNew));
        Assert.Equal("answer"u8.ToArray(), (await Registry.LocateVmAsync(Name("one"), Key("r1", 1), None)).Answer);
        Assert.Null((await Registry.LocateVmAsync(Name("one"), Key("r2", 1), None)).Answer);
        await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Registry.LocateVmAsync(Name("one"), Key("r1", 2), None));
        // The answer outlives the VM and its worker.
        await Registry.ReportAsync(lease, [new VmDeletedReport(Name("one"))], None);
        await ExpireAsync("workers/a");
        Assert.Equal("answer"u8.ToArray(), (await Registry.LocateVmAsync(Name("one"), Key("r1", 1), None)).Answer);
    }

    public async Task A_placement_without_a_vm_is_taken_back_and_frees_its_room()
    {
        await RegisterAsync("a", memory: 64);
        Located placed = await Registry.PlaceVmAsync(New("one"), None);
        VmmError refused = await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlaceVmAsync(New("two"), None));
        Assert.Contains("1 short of memory, with 0 MiB free at most.", refused.Message, StringComparison.Ordinal);
        Assert.Equal(new VmmViolation("workers/a", "", "has 0 MiB of memory free"), Assert.Single(refused.Quotas));
        await Registry.AbandonVmAsync(Name("one"), placed.Generation + 1, None);
        Assert.Equal(64, (await WorkerAsync("a")).Reserved.MemoryMib);
        await Registry.AbandonVmAsync(Name("one"), placed.Generation, None);
        Assert.Equal(0, (await WorkerAsync("a")).Reserved.MemoryMib);
        await Registry.PlaceVmAsync(New("two"), None);
    }

    public async Task A_vm_whose_placement_was_taken_back_is_its_workers_unless_it_is_anothers_by_then()
    {
        WorkerLease a = await RegisterAsync("a"), b = await RegisterAsync("b");
        // Taken back while it was made.
        NewVm vm = New("one") with { Request = Key("r1", 1) };
        Located placed = await Registry.PlaceVmAsync(vm, None);
        await Registry.AbandonVmAsync(Name("one"), placed.Generation, None);
        (_, EventPosition start) = await Registry.SnapshotProjectAsync(Project, None);
        WorkerLease first = placed.Worker!.Name == a.Worker ? a : b, second = first == a ? b : a;
        WorkerReport[] made = [new VmReport(Made("one")), new RequestReport(Key("r1", 1), ByteString.CopyFromUtf8("answer"), Name("one"))];
        Assert.Empty(await Registry.ReportAsync(first, made, None));
        Assert.Equal(first.Worker, (await Registry.LocateVmAsync(Name("one"), null, None)).Worker!.Name);
        Assert.Equal((1, 64L), ((await WorkerAsync(first.Worker["workers/".Length..])).Reserved.Vms, (await WorkerAsync(first.Worker["workers/".Length..])).Reserved.MemoryMib));
        Assert.Equal(Made("one"), Assert.Single(await Registry.EventsAfterAsync(Project, start, None)).After);
        Assert.Equal("answer"u8.ToArray(), (await Registry.PlaceVmAsync(vm, None)).Answer);

        // Another worker's report of it is refused, and so is what it says was done by it; what else it says is taken.
        WorkerReport[] late = [new VmReport(Made("one")), new RequestReport(Key("r2", 2), ByteString.CopyFromUtf8("late"), Name("one")), new RequestReport(Key("r3", 3), ByteString.CopyFromUtf8("other"))];
        Assert.Equal([Name("one")], await Registry.ReportAsync(second, late, None));
        Assert.Equal([Name("one")], await Registry.ReportAsync(second, [late[1]], None));
        Assert.Null((await Registry.LocateVmAsync(Name("one"), Key("r2", 2), None)).Answer);
        Assert.Equal("other"u8.ToArray(), (await Registry.LocateVmAsync(Name("one"), Key("r3", 3), None)).Answer);
        Assert.Equal(first.Worker, (await Registry.LocateVmAsync(Name("one"), null, None)).Worker!.Name);
    }

    public async Task A_batch_that_is_reported_again_changes_nothing()
    {
        WorkerLease lease = await RegisterAsync("a");
        await Registry.PlaceVmAsync(New("one"), None);
        await Registry.PlaceVmAsync(New("two"), None);
        WorkerReport[] batch = [new VmReport(Made("one")), new VmReport(Made("two")), new VmDeletedReport(Name("two"))];
        await Registry.ReportAsync(lease, batch, None);
        (_, EventPosition end) = await Registry.SnapshotProjectAsync(Project, None);
        Assert.Empty(await Registry.ReportAsync(lease, batch, None));
        Assert.Equal(end, (await Registry.SnapshotProjectAsync(Project, None)).Position);
        Assert.Equal([Made("one")], await Registry.ListVmsAsync(Project, None));
        Assert.Equal(1, (await WorkerAsync("a")).Reserved.Vms);
    }

    public async Task Events_are_told_in_order_and_resume_anywhere()
    {
        WorkerLease lease = await RegisterAsync("a");
        (IReadOnlyList<Vm> none, EventPosition start) = await Registry.SnapshotProjectAsync(Project, None);
        Assert.Empty(none);
        Task<IReadOnlyList<VmEventRecord>> waiting = Registry.EventsAfterAsync(Project, start, None);
        foreach (string id in (string[])["one", "two"])
            await Registry.PlaceVmAsync(New(id), None);
        Assert.False(waiting.IsCompleted);
        await Registry.ReportAsync(
            lease,
            [new VmReport(Made("one")), new VmReport(Running("one")), new VmReport(Running("one")), new VmReport(Made("two")), new VmDeletedReport(Name("one"))],
            None);
        IReadOnlyList<VmEventRecord> events = await AllAfterAsync(start, 4);
        Assert.Equal(
            [(null, Made("one")), (Made("one"), Running("one")), (null, Made("two")), (Running("one"), null)],
            events.Select(item => (item.Before, item.After)));
        Assert.Equal(events[0], (await waiting)[0]);
        for (int i = 0; i < events.Count - 1; i++)
            Assert.Equal(events.Skip(i + 1), await AllAfterAsync(events[i].Position, events.Count - i - 1));
        (IReadOnlyList<Vm> left, EventPosition end) = await Registry.SnapshotProjectAsync(Project, None);
        Assert.Equal([Made("two")], left);
        Assert.Equal(events[^1].Position, end);
        await RefusedAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", () => Registry.EventsAfterAsync(Project, end with { Epoch = "other" }, None));
        await RefusedAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", () => Registry.EventsAfterAsync(Project, end with { Sequence = end.Sequence + 1 }, None));
    }

    public async Task A_lost_worker_may_not_report_and_its_vms_move_once()
    {
        WorkerLease lease = await RegisterAsync("a");
        foreach ((string id, bool moves) in ((string, bool)[])[("moves", true), ("pending", true), ("stays", false)])
            await Registry.PlaceVmAsync(New(id, moves), None);
        await Registry.ReportAsync(lease, [new VmReport(Running("moves", moves: true)), new VmReport(Running("stays"))], None);
        WorkerLease other = await RegisterAsync("b");
        await ExpireAsync("workers/a");
        await Assert.ThrowsAsync<LeaseLostException>(() => Registry.ReportAsync(lease, [new VmReport(Made("moves", moves: true))], None));
        await Assert.ThrowsAsync<LeaseLostException>(() => Registry.RenewLeaseAsync(lease, 0, None));
        Assert.True((await Registry.LocateVmAsync(Name("stays"), null, None)).IsLost);
        Assert.Equal((VmState.Running, WorkerCondition.Lost), await ConditionAsync("stays"));

        // Any number of front ends see it at once.
        FailoverOutcome[] given = await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => Task.Run(() => Registry.FailOverAsync(None))));
        Assert.Equal("workers/b", Assert.Single(given.SelectMany(each => each.Targets)).Name);
        Assert.Equal((1, 1), (given.Sum(each => each.PlacedVms), given.Sum(each => each.LostWorkers)));
        FleetCensus census = await Registry.CountAsync(None);
        Assert.Equal([(VmState.Stopped, 2L)], census.Vms.Select(each => (each.Key, each.Value)));
        Assert.Equal([(WorkerState.Ready, 1L), (WorkerState.Lost, 1L)], census.Workers.OrderBy(each => each.Key).Select(each => (each.Key, each.Value.Count)));
        Assert.Equal((0L, 1.0), (census.UnplacedVms, census.Workers[WorkerState.Ready].Vms.Reserved));
        Assert.True(census.Workers[WorkerState.Ready].ShortestLease > TimeSpan.Zero);
        Assert.True(census.Workers[WorkerState.Lost].ShortestLease < TimeSpan.Zero);
        Located moved = await Registry.LocateVmAsync(Name("moves"), null, None);
        // It has none before that has taken it.
        Assert.Equal((null, 2L), (moved.Worker, moved.Generation));
        Assert.Equal("workers/a", (await Registry.LocateVmAsync(Name("stays"), null, None)).Worker!.Name);
        IReadOnlyList<Vm> vms = await Registry.ListVmsAsync(Project, None);
        Assert.All(vms, vm => Assert.Equal((VmState.Stopped, VmEndReason.Interrupted), (vm.Status.State, vm.Status.End.Reason)));
        Assert.Equal([(Name("moves"), WorkerCondition.Replacing), (Name("stays"), WorkerCondition.Lost)], vms.Select(vm => (vm.Name, vm.Status.WorkerCondition)));
        Assert.Equal([(VmState.Stopped, WorkerCondition.Replacing), (VmState.Stopped, WorkerCondition.Lost)], [await ConditionAsync("moves"), await ConditionAsync("stays")]);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.FindVmAsync(Name("pending"), None));
        Vm adopted = Assert.Single((await Registry.RenewLeaseAsync(other, 0, None)).Adopt);
        Assert.Equal((Name("moves"), Made("moves").Uid), (adopted.Name, adopted.Uid));
        await Registry.ReportAsync(other, [new VmReport(Running("moves", moves: true))], None);
        moved = await Registry.LocateVmAsync(Name("moves"), null, None);
        Assert.Equal(("workers/b", 2L), (moved.Worker!.Name, moved.Generation));
        Assert.Empty((await Registry.RenewLeaseAsync(other, 1, None)).Adopt);
        Assert.Empty((await Registry.FailOverAsync(None)).Targets);
        Assert.Equal((VmState.Running, WorkerCondition.Unspecified), await ConditionAsync("moves"));
        Assert.Equal(WorkerCondition.Unspecified, (await Registry.ListVmsAsync(Project, None))[0].Status.WorkerCondition);

        async Task<(VmState, WorkerCondition)> ConditionAsync(string id) => await Registry.FindVmAsync(Name(id), None) is { Status: var status } ? (status.State, status.WorkerCondition) : default;
    }

    public async Task A_worker_that_comes_back_drops_what_has_moved_and_keeps_the_rest()
    {
        WorkerLease lease = await RegisterAsync("a");
        foreach ((string id, bool moves) in ((string, bool)[])[("moves", true), ("stays", false)])
            await Registry.PlaceVmAsync(New(id, moves), None);
        await Registry.ReportAsync(lease, [new VmReport(Running("moves", moves: true)), new VmReport(Running("stays"))], None);
        await RegisterAsync("b");
        await ExpireAsync("workers/a");
        await Registry.FailOverAsync(None);
        WorkerSession back = await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([Made("moves", moves: true), Made("stays")], [], [], []), None);
        Assert.Equal([Name("moves")], back.Drop);
        Assert.Empty(back.Instructions.Adopt);
        Assert.True(back.Lease.Incarnation > lease.Incarnation);
        Located stays = await Registry.LocateVmAsync(Name("stays"), null, None);
        Assert.Equal((back.Lease.Incarnation, false), (stays.Worker!.Incarnation, stays.IsLost));
        Assert.Null((await Registry.LocateVmAsync(Name("moves"), null, None)).Worker);
        // The lease of its former life is worth nothing.
        await Assert.ThrowsAsync<LeaseLostException>(() => Registry.ReportAsync(lease, [new VmReport(Running("stays"))], None));
    }

    public async Task A_deletion_that_was_not_reported_is_noticed()
    {
        WorkerLease lease = await RegisterAsync("a");
        foreach (string id in (string[])["gone", "pending", "kept"])
            await Registry.PlaceVmAsync(New(id), None);
        await Registry.ReportAsync(lease, [new VmReport(Made("gone")), new VmReport(Made("kept"))], None);
        WorkerSession back = await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([Made("kept"), Made("pending")], [], [], []), None);
        Assert.Empty(back.Drop);
        Assert.Equal([Name("kept"), Name("pending")], (await Registry.ListVmsAsync(Project, None)).Select(vm => vm.Name));
        Assert.Equal(2, (await WorkerAsync("a")).Reserved.Vms);
    }

    public async Task A_name_belongs_to_one_state_directory()
    {
        WorkerLease lease = await RegisterAsync("a");
        await Registry.PlaceVmAsync(New("one"), None);
        await Registry.ReportAsync(lease, [new VmReport(Made("one"))], None);
        WorkerRegistration other = Registration("a") with { Directory = "elsewhere" };
        await RefusedAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", () => Registry.RegisterWorkerAsync(other, WorkerInventory.Empty, None));
        await ExpireAsync("workers/a");
        await RefusedAsync(StatusCode.FailedPrecondition, "WORKER_HAS_VMS", () => Registry.RegisterWorkerAsync(other, WorkerInventory.Empty, None));
        WorkerSession same = await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([Made("one")], [], [], []), None);
        await Registry.ReportAsync(same.Lease, [new VmDeletedReport(Name("one"))], None);
        await Registry.EndLeaseAsync(same.Lease, None);
        await Registry.RegisterWorkerAsync(other, WorkerInventory.Empty, None);
    }

    public async Task Cordoned_workers_take_nothing()
    {
        WorkerLease lease = await RegisterAsync("a");
        Assert.Equal(WorkerState.Cordoned, (await Registry.SetWorkerStateAsync("workers/a", WorkerState.Cordoned, None)).State);
        VmmError refused = await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlaceVmAsync(New("one"), None));
        Assert.Equal(new VmmViolation("workers/a", "", "is cordoned"), Assert.Single(refused.Quotas));
        Assert.Equal(WorkerState.Cordoned, (await Registry.RenewLeaseAsync(lease, 0, None)).State);
        Assert.Equal(WorkerState.Cordoned, (await Registry.RegisterWorkerAsync(Registration("a"), WorkerInventory.Empty, None)).Instructions.State);
        await Registry.SetWorkerStateAsync("workers/a", WorkerState.Ready, None);
        await Registry.PlaceVmAsync(New("one"), None);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.SetWorkerStateAsync("workers/none", WorkerState.Ready, None));
    }

    public async Task Vms_keep_apart_and_together_as_asked()
    {
        foreach (string worker in (string[])["a", "b", "c"])
            await RegisterAsync(worker);
        var apart = new PlacementSpec { ApartFromVmLabels = { ["app"] = "db" } };
        Located[] placed = await Task.WhenAll(Enumerable.Range(0, 3).Select(i => Task.Run(() => Registry.PlaceVmAsync(With($"db{i}", apart), None))));
        Assert.Equal(["workers/a", "workers/b", "workers/c"], placed.Select(each => each.Worker!.Name).Order(StringComparer.Ordinal));
        await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlaceVmAsync(With("db3", apart), None));
        Located together = await Registry.PlaceVmAsync(With("web", new PlacementSpec { WithVmLabels = { ["id"] = "db1" } }), None);
        Assert.Equal(placed[1].Worker, together.Worker);
        Located chosen = await Registry.PlaceVmAsync(With("rack", new PlacementSpec { WorkerLabels = { ["rack"] = "c" } }), None);
        Assert.Equal("workers/c", chosen.Worker!.Name);
    }

    public async Task Concurrent_placements_never_take_more_than_there_is()
    {
        foreach (string worker in (string[])["a", "b"])
            await RegisterAsync(worker, memory: 64 * 6);
        int placed = 0, refused = 0;
        await Task.WhenAll(Enumerable.Range(0, 20).Select(i => Task.Run(async () =>
        {
            while (true)
            {
                try
                {
                    await Registry.PlaceVmAsync(New($"vm{i}"), None);
                    Interlocked.Increment(ref placed);
                    return;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.ResourceExhausted)
                {
                    Interlocked.Increment(ref refused);
                    return;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
                {
                    // As a client would, it tries again.
                }
            }
        })));
        Assert.Equal((12, 8), (placed, refused));
        foreach (string worker in (string[])["a", "b"])
            Assert.Equal((6, 64 * 6L), ((await WorkerAsync(worker)).Reserved.Vms, (await WorkerAsync(worker)).Reserved.MemoryMib));
    }

    public async Task Images_and_snapshots_are_found_where_they_are()
    {
        WorkerLease a = await RegisterAsync("a");
        WorkerLease b = await RegisterAsync("b");
        var image = new Image { Name = $"{Project}/images/sha256-{new string('1', 64)}", SizeBytes = 5 };
        var snapshot = new Snapshot { Name = $"{Project}/snapshots/s", Uid = "u" };
        await Registry.ReportAsync(a, [new ImageReport(image)], None);
        await Registry.ReportAsync(b, [new ImageReport(image), new SnapshotReport(snapshot)], None);
        Assert.Equal(["workers/a", "workers/b"], (await Registry.LocateImageAsync(image.Name, null, None)).Holders.Select(each => each.Name));
        Assert.Equal([image], await Registry.ListImagesAsync(Project, None));
        Assert.Equal([snapshot], await Registry.ListSnapshotsAsync(Project, None));
        Located there = await Registry.LocateSnapshotAsync(snapshot.Name, null, None);
        Assert.Equal(("workers/b", snapshot), (there.Worker!.Name, there.Snapshot));
        Assert.Equal("workers/b", (await Registry.PlaceVmAsync(New("restored") with { Snapshot = snapshot.Name }, None)).Worker!.Name);
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Cordoned, None);
        Assert.Equal("workers/a", (await Registry.PlaceVmAsync(New("elsewhere") with { Snapshot = snapshot.Name }, None)).Worker!.Name);
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Ready, None);
        await Registry.ReportAsync(a, [new ImageDeletedReport(image.Name)], None);
        NewVm needs = New("needs");
        needs.Spec.Kernel = new FileSource { Image = image.Name };
        Assert.Equal("workers/b", (await Registry.PlaceVmAsync(needs, None)).Worker!.Name);
        await Registry.ReportAsync(b, [new ImageDeletedReport(image.Name), new SnapshotDeletedReport(snapshot.Name)], None);
        Assert.Empty((await Registry.LocateImageAsync(image.Name, null, None)).Holders);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateSnapshotAsync(snapshot.Name, null, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.PlaceVmAsync(New("late") with { Snapshot = snapshot.Name }, None));
    }

    public async Task Vms_that_are_handed_over_are_placed_again_and_not_started()
    {
        WorkerLease lease = await RegisterAsync("a");
        foreach (string id in (string[])["stopped", "running"])
            await Registry.PlaceVmAsync(New(id, moves: true), None);
        await Registry.ReportAsync(lease, [new VmReport(Made("stopped", moves: true)), new VmReport(Running("running", moves: true))], None);
        Assert.Equal([Name("stopped")], await Registry.HandOverAsync(lease, [Name("stopped"), Name("running"), Name("none")], None));
        Assert.Null((await Registry.LocateVmAsync(Name("stopped"), null, None)).Worker);
        await Registry.SetWorkerStateAsync("workers/a", WorkerState.Draining, None);
        Assert.Empty((await Registry.FailOverAsync(None)).Targets);
        WorkerLease other = await RegisterAsync("b");
        Assert.Equal("workers/b", Assert.Single((await Registry.FailOverAsync(None)).Targets).Name);
        Assert.Null(Assert.Single((await Registry.RenewLeaseAsync(other, 0, None)).Adopt).Status.End);
    }

    public async Task Old_events_are_forgotten_and_their_tokens_expire()
    {
        WorkerLease lease = await RegisterAsync("a");
        (_, EventPosition start) = await Registry.SnapshotProjectAsync(Project, None);
        await Registry.PlaceVmAsync(New("one"), None);
        for (int i = 0; i < 10; i++)
            await Registry.ReportAsync(lease, [new VmReport(Made("one")), new VmReport(Running("one"))], None);
        await Registry.PruneAsync(None);
        await RefusedAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", () => Registry.EventsAfterAsync(Project, start, None));
        Assert.Equal(16, (await AllAfterAsync(start with { Sequence = start.Sequence + 4 }, 16)).Count);
    }

    public async Task Requests_of_which_only_the_journal_knew_are_known_once_their_worker_is_back()
    {
        WorkerLease lease = await RegisterAsync("a");
        await Registry.PlaceVmAsync(New("one"), None);
        await Registry.ReportAsync(lease, [new VmReport(Made("one"))], None);
        WorkerInventory deleted = WorkerInventory.Empty with { Requests = [new RequestReport(Key("delete", 1), ByteString.CopyFromUtf8("answer"), Name("one"))] };
        for (int life = 0; life < 2; life++)
            await Registry.RegisterWorkerAsync(Registration("a"), deleted, None);
        Assert.Equal("answer"u8.ToArray(), (await Registry.LocateVmAsync(Name("one"), Key("delete", 1), None)).Answer);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateVmAsync(Name("one"), null, None));
    }

    public async Task Requests_about_vms_that_are_anothers_by_the_time_their_worker_is_back_are_not_done()
    {
        WorkerLease lease = await RegisterAsync("a");
        foreach (string id in (string[])["changed", "deleted"])
            await Registry.PlaceVmAsync(New(id, moves: true), None);
        await Registry.PlaceVmAsync(New("kept"), None);
        await Registry.ReportAsync(lease, [new VmReport(Made("changed", moves: true)), new VmReport(Made("deleted", moves: true)), new VmReport(Made("kept"))], None);
        WorkerLease other = await RegisterAsync("b");
        await ExpireAsync("workers/a");
        await Registry.FailOverAsync(None);
        await Registry.ReportAsync(other, [new VmReport(Made("changed", moves: true)), new VmReport(Made("deleted", moves: true))], None);
        // It did all of this, and could tell nobody; one it made whose placement was lost with its lease.
        WorkerInventory inventory = new(
            [Made("changed", moves: true), Made("kept"), Made("made")],
            [],
            [],
            [.. ((string[])["changed", "deleted", "kept", "made", "gone"]).Select((id, i) => new RequestReport(Key(id, (byte)i), ByteString.CopyFromUtf8(id), Name(id)))]);
        WorkerSession back = await Registry.RegisterWorkerAsync(Registration("a"), inventory, None);
        Assert.Equal([Name("changed"), Name("made")], back.Drop.Order(StringComparer.Ordinal));
        foreach ((string id, int i, bool isDone) in ((string, int, bool)[])[("changed", 0, false), ("deleted", 1, false), ("kept", 2, true)])
            Assert.Equal(isDone, (await Registry.LocateVmAsync(Name(id), Key(id, (byte)i), None)).Answer is not null);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateVmAsync(Name("made"), Key("made", 3), None));
        Assert.NotNull((await Registry.LocateVmAsync(Name("gone"), Key("gone", 4), None)).Answer);

        // Likewise what it says of them under its new lease.
        WorkerReport[] late = [new VmDeletedReport(Name("deleted")), new RequestReport(Key("late", 9), ByteString.CopyFromUtf8("late"), Name("deleted"))];
        Assert.Equal([Name("deleted")], await Registry.ReportAsync(back.Lease, late, None));
        Assert.Null((await Registry.LocateVmAsync(Name("deleted"), Key("late", 9), None)).Answer);
    }

    private async Task<IReadOnlyList<VmEventRecord>> AllAfterAsync(EventPosition position, int count)
    {
        var all = new List<VmEventRecord>();
        while (all.Count < count)
            all.AddRange(await Registry.EventsAfterAsync(Project, all.Count == 0 ? position : all[^1].Position, None));
        return all;
    }

    private async Task<WorkerLease> RegisterAsync(string worker, long memory = 4096) =>
        (await Registry.RegisterWorkerAsync(Registration(worker, memory), WorkerInventory.Empty, None)).Lease;

    private async Task<V1.Worker> WorkerAsync(string worker) => (await Registry.ListWorkersAsync(None)).Single(each => each.Name == $"workers/{worker}");

    private static WorkerRegistration Registration(string worker, long memory = 4096) => new()
    {
        Name = $"workers/{worker}",
        Directory = worker,
        Address = $"http://{worker}",
        Labels = new Dictionary<string, string> { ["rack"] = worker },
        Capacity = new WorkerResources { Vms = 100, Vcpus = 100, MemoryMib = memory },
    };

    private static NewVm New(string id, bool moves = false) => new() { Name = Name(id), Spec = Made(id, moves).Spec };

    private static NewVm With(string id, PlacementSpec placement)
    {
        NewVm vm = New(id);
        vm.Spec.Placement = placement;
        return vm with { Labels = new Dictionary<string, string> { ["app"] = "db", ["id"] = id } };
    }

    private static string Name(string id) => $"{Project}/vms/{id}";

    private static RequestKey Key(string id, byte fingerprint) => new(Project, id, ByteString.CopyFrom(fingerprint));

    private static Vm Made(string id, bool moves = false)
    {
        var vm = new Vm
        {
            Name = Name(id),
            Uid = $"uid of {id}",
            Spec = new VmSpec { MemoryMib = 64, Cpus = 1, RestartPolicy = moves ? RestartPolicy.Restart : RestartPolicy.Never },
            Status = new VmStatus { State = VmState.Stopped },
        };
        vm.Etag = VmEtag.Of(vm);
        return vm;
    }

    private static Vm Running(string id, bool moves = false)
    {
        Vm vm = Made(id, moves);
        vm.Status.State = VmState.Running;
        vm.Etag = VmEtag.Of(vm);
        return vm;
    }

    private static async Task<VmmError> RefusedAsync(StatusCode code, string reason, Func<Task> call)
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(call);
        VmmError error = VmmError.From(exception);
        Assert.Equal((code, reason), (exception.StatusCode, error.Reason));
        return error;
    }
}

/// <summary>The contract for both registries.</summary>
[Collection(PostgresTests.Name)]
public sealed class RegistryContractTests(SharedPostgres postgres)
{
    private static readonly RegistryOptions Options = new() { LeaseDuration = TimeSpan.FromHours(1), MaxEvents = 16 };

    public static TheoryData<string> Names() => RegistryContract.Names();

    [Theory]
    [MemberData(nameof(Names))]
    public async Task In_memory(string test)
    {
        var time = new TestTime();
        await using var registry = new InMemoryRegistry(Options, time);
        await RunAsync(test, new InMemory(registry, time));
    }

    [RequiresPackageTheory("postgresql")]
    [MemberData(nameof(Names))]
    public async Task Postgres(string test)
    {
        string database = await postgres.NewSchemaAsync();
        await using PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, Options);
        await RunAsync(test, new InPostgres(registry, database));
        await PostgresCensus.AssertIsTrueAsync(database);
    }

    [RequiresPackageFact("postgresql")]
    public async Task Vms_of_an_earlier_version_are_counted_when_the_schema_is_brought_up_to_date()
    {
        string database = await postgres.NewSchemaAsync();
        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
        await using (PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, Options))
            await RunAsync(nameof(RegistryContract.A_lost_worker_may_not_report_and_its_vms_move_once), new InPostgres(registry, database));
        await using NpgsqlCommand back = source.CreateCommand("DROP TABLE vm_counts, streams, stream_holders, deleted_snapshots; DROP FUNCTION count_vms CASCADE; ALTER TABLE workers DROP COLUMN snapshot_store; DELETE FROM schema_migrations WHERE number >= 5");
        await back.ExecuteNonQueryAsync();
        await using (PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, Options))
            Assert.NotEmpty((await registry.CountAsync(CancellationToken.None)).Vms);
        await PostgresCensus.AssertIsTrueAsync(database);
    }

    [RequiresPackageFact("postgresql")]
    public async Task Processes_that_start_at_once_migrate_the_schema_once()
    {
        string database = await postgres.NewSchemaAsync();
        PostgresRegistry[] registries = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() => PostgresRegistry.OpenAsync(database, Options))));
        EventPosition[] positions = await Task.WhenAll(registries.Select(async registry => (await registry.SnapshotProjectAsync("projects/p", CancellationToken.None)).Position));
        Assert.Single(positions.Distinct());
        foreach (PostgresRegistry registry in registries)
            await registry.DisposeAsync();
        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
        await using NpgsqlCommand later = source.CreateCommand("INSERT INTO schema_migrations (number, name) VALUES (9999, 'of a later version')");
        await later.ExecuteNonQueryAsync();
        await Assert.ThrowsAsync<InvalidOperationException>(() => PostgresRegistry.OpenAsync(database, Options));
    }

    [Fact]
    public async Task A_registry_that_cannot_be_reached_is_unavailable()
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(() => PostgresRegistry.OpenAsync("Host=/nonexistent;Username=x;Timeout=1", Options));
        Assert.Equal((StatusCode.Unavailable, "REGISTRY_UNAVAILABLE"), (exception.StatusCode, VmmError.From(exception).Reason));
    }

    private static Task RunAsync(string test, RegistryContract contract) => (Task)typeof(RegistryContract).GetMethod(test)!.Invoke(contract, null)!;

    private sealed class InMemory(InMemoryRegistry registry, TestTime time) : RegistryContract(registry)
    {
        // The others renew theirs, as it were: an hour is not over for who came later.
        protected override Task ExpireAsync(string worker) => registry.ExpireAsync(worker, time);

        protected override Task ExpireStreamsAsync(string holder)
        {
            time.Advance(Options.LeaseDuration + TimeSpan.FromSeconds(1));
            return Task.CompletedTask;
        }
    }

    private sealed class InPostgres(PostgresRegistry registry, string database) : RegistryContract(registry)
    {
        protected override Task ExpireAsync(string worker) => ExpireAsync("workers", worker);

        protected override Task ExpireStreamsAsync(string holder) => ExpireAsync("stream_holders", holder);

        private async Task ExpireAsync(string table, string name)
        {
            await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
            await using NpgsqlCommand expire = source.CreateCommand($"UPDATE {table} SET lease_until = clock_timestamp() - interval '1 second' WHERE name = $1");
            expire.Parameters.Add(new NpgsqlParameter { Value = name });
            Assert.Equal(1, await expire.ExecuteNonQueryAsync());
        }
    }
}

internal static class InMemoryLeases
{
    /// <summary>Lets the time pass in which the worker should have renewed its lease; every other worker does renew it.</summary>
    public static async Task ExpireAsync(this InMemoryRegistry registry, string worker, TestTime time)
    {
        for (int step = 0; step < 3; step++)
        {
            time.Advance(TimeSpan.FromMinutes(31));
            foreach (V1.Worker other in await registry.ListWorkersAsync(CancellationToken.None))
                if (other.Name != worker && other.State != WorkerState.Lost)
                    await registry.RenewLeaseAsync(new WorkerLease(other.Name, other.Incarnation, TimeSpan.FromHours(1)), 0, CancellationToken.None);
        }
    }
}
