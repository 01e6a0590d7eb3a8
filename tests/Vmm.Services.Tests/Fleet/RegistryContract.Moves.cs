using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>VMs that go from one worker to another.</content>
internal abstract partial class RegistryContract
{
    public async Task A_vm_moves_with_its_event_and_the_answer_in_one_step()
    {
        WorkerLease source = await RegisterAsync("a"), target = await RegisterAsync("b", memory: 64);
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Cordoned, None);
        await Registry.PlaceVmAsync(New("one"), None);
        await Registry.ReportAsync(source, [new VmReport(Running("one"))], None);
        (_, EventPosition before) = await Registry.SnapshotProjectAsync(Project, None);

        VmmError full = await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlanMoveAsync(source, Name("one"), null, None));
        Assert.Contains("None of 1 worker(s)", full.Message, StringComparison.Ordinal);
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Ready, None);
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.PlanMoveAsync(source, Name("two"), null, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.PlanMoveAsync(target, Name("one"), null, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.PlanMoveAsync(source, Name("one"), "workers/c", None));
        await RefusedAsync(StatusCode.FailedPrecondition, "ALREADY_THERE", () => Registry.PlanMoveAsync(source, Name("one"), "workers/a", None));
        PlannedMove earlier = await Registry.PlanMoveAsync(source, Name("one"), "workers/b", None);
        // A plan takes the place of the one before, with the room.
        PlannedMove move = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        Assert.Equal((Name("one"), "workers/a", "workers/b", 1L), (move.Vm, move.Source.Name, move.Target.Name, move.Generation));
        Assert.Equal((64L, 64L), ((await WorkerAsync("a")).Reserved.MemoryMib, (await WorkerAsync("b")).Reserved.MemoryMib));
        await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlaceVmAsync(With("other", new PlacementSpec { WorkerLabels = { ["rack"] = "b" } }), None));
        Assert.Equal((move, Running("one")), await Registry.FindMoveAsync(target, move.Ticket, None));
        Assert.Null(await Registry.FindMoveAsync(source, move.Ticket, None));
        Assert.Null(await Registry.FindMoveAsync(target, earlier.Ticket, None));

        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(source, earlier, Moved("one"), null, None));
        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(target, move, Moved("one"), null, None));
        await Registry.CommitMoveAsync(source, move, Moved("one"), new RequestReport(Key("move", 1), ByteString.CopyFromUtf8("answer")), None);
        Located now = await Registry.LocateVmAsync(Name("one"), Key("move", 1), None);
        Assert.Equal(("workers/b", 2L), (now.Worker!.Name, now.Generation));
        Assert.Equal("answer"u8.ToArray(), now.Answer);
        Assert.Equal((0L, 64L), ((await WorkerAsync("a")).Reserved.MemoryMib, (await WorkerAsync("b")).Reserved.MemoryMib));
        VmEventRecord told = Assert.Single(await Registry.EventsAfterAsync(Project, before, None));
        Assert.Equal((Running("one"), Moved("one")), (told.Before, told.After));
        Assert.Equal(MoveOutcome.Moved, await Registry.SettleMoveAsync(move, None));
        Assert.Equal([Name("one")], await Registry.ReportAsync(source, [new VmReport(Made("one"))], None));
        Assert.Empty(await Registry.ReportAsync(source, [new VmDeletedReport(Name("one"))], None));
        Assert.Empty(await Registry.ReportAsync(target, [new VmReport(Moved("one"))], None));
        Assert.Equal([Moved("one")], await Registry.ListVmsAsync(Project, None));
        // It is not adopted: its target has it.
        Assert.Empty((await Registry.RenewLeaseAsync(target, 1, None)).Adopt);
    }

    public async Task A_move_that_was_settled_or_whose_worker_was_lost_is_not_committed()
    {
        WorkerLease source = await RegisterAsync("a"), target = await RegisterAsync("b");
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Cordoned, None);
        await Registry.PlaceVmAsync(New("one"), None);
        await Registry.ReportAsync(source, [new VmReport(Running("one"))], None);
        await Registry.SetWorkerStateAsync("workers/b", WorkerState.Ready, None);

        PlannedMove settled = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        Assert.Equal(MoveOutcome.Stayed, await Registry.SettleMoveAsync(settled, None));
        Assert.Equal(MoveOutcome.Stayed, await Registry.SettleMoveAsync(settled, None));
        Assert.Equal(0, (await WorkerAsync("b")).Reserved.Vms);
        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(source, settled, Moved("one"), null, None));

        // Its target begins anew: what has come there is gone.
        PlannedMove restarted = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        target = await RegisterAsync("b");
        Assert.Equal(0, (await WorkerAsync("b")).Reserved.Vms);
        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(source, restarted, Moved("one"), null, None));

        // Its target's lease has ended, whether or not anybody has seen it.
        PlannedMove lost = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        await ExpireAsync("workers/b");
        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(source, lost, Moved("one"), null, None));
        await Registry.FailOverAsync(None);
        await RefusedAsync(StatusCode.Aborted, "MOVE_ENDED", () => Registry.CommitMoveAsync(source, lost, Moved("one"), null, None));
        Assert.Equal(0, (await WorkerAsync("b")).Reserved.Vms);
        Assert.Equal(("workers/a", 1L), ((await Registry.LocateVmAsync(Name("one"), null, None)).Worker!.Name, (await Registry.LocateVmAsync(Name("one"), null, None)).Generation));

        // Its source's has.
        target = await RegisterAsync("b");
        PlannedMove late = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        await ExpireAsync("workers/a");
        await Assert.ThrowsAsync<LeaseLostException>(() => Registry.CommitMoveAsync(source, late, Moved("one"), null, None));
        await Assert.ThrowsAsync<LeaseLostException>(() => Registry.PlanMoveAsync(source, Name("one"), null, None));
        await Registry.FailOverAsync(None);
        Assert.Null(await Registry.FindMoveAsync(target, late.Ticket, None));
        Assert.Equal(MoveOutcome.Stayed, await Registry.SettleMoveAsync(late, None));
        // A VM that is deleted takes its move along.
        source = (await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([Made("one")], [], [], []), None)).Lease;
        PlannedMove deleted = await Registry.PlanMoveAsync(source, Name("one"), null, None);
        await Registry.ReportAsync(source, [new VmDeletedReport(Name("one"))], None);
        Assert.Equal(0, (await WorkerAsync("b")).Reserved.Vms);
        Assert.Equal(MoveOutcome.Elsewhere, await Registry.SettleMoveAsync(deleted, None));
    }

    private static Vm Moved(string id)
    {
        Vm vm = Running(id);
        vm.Status.Worker = "workers/b";
        vm.Etag = VmEtag.Of(vm);
        return vm;
    }
}
