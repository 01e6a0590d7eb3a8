using Grpc.Core;
using Vmm.Machine;
using Vmm.Server;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>CloneVm: what clones are, which are made, and what a repetition does.</summary>
public sealed class CloneTests : ServerTest
{
    private const string One = "projects/default/vms/one";
    private const int MaxVms = 8;

    protected override ServerOptions Options => base.Options with { MaxVms = MaxVms };

    private static CloneVmRequest OfVm(int count = 0, string prefix = "", string requestId = "") =>
        new() { Parent = Project, Vm = One, Count = count, VmIdPrefix = prefix, RequestId = requestId };

    private async Task<IReadOnlyList<Vm>> ListAsync() => (await Vms.ListVmsAsync(new ListVmsRequest())).Vms;

    private async Task<IReadOnlyList<Snapshot>> SnapshotsAsync() => (await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest())).Snapshots;

    [Fact]
    public async Task Clones_of_a_vm_go_on_where_it_is_with_disks_and_identities_of_their_own()
    {
        string disk = Path.Combine(Folder, "allowed", "disk");
        await File.WriteAllTextAsync(disk, "disk");
        VmSpec spec = Spec();
        spec.Disks.Add(new Disk { Source = new FileSource { Path = disk } });
        Vm source = await StartAsync(spec: spec);
        CloneVmRequest request = OfVm(3, "c");
        request.Labels["tier"] = "web";
        CloneVmResponse response = await Vms.CloneVmAsync(request);
        Assert.Equal(["projects/default/vms/c-1", "projects/default/vms/c-2", "projects/default/vms/c-3"], response.Results.Select(result => result.Name));
        Assert.All(response.Results, result => Assert.Equal((result.Name, VmState.Running, "web"), (result.Vm.Name, result.Vm.Status.State, result.Vm.Labels["tier"])));
        Assert.Equal(4, response.Results.Select(result => result.Vm.Uid).Append(source.Uid).Distinct().Count());
        FakeMachine[] clones = [.. Factory.Made.Skip(1)];
        // Of one snapshot, which is not needed any more.
        Assert.Single(clones.Select(machine => machine.RestoredFrom).Distinct());
        Assert.Equal(4, clones.Select(machine => machine.Spec.Disks[0].Path).Append(disk).Distinct().Count());
        Assert.Empty(await SnapshotsAsync());
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(Folder, "state", "snapshots")));
        Assert.Equal(MachineRunState.Running, Factory.Made[0].RunState);

        CloneVmResponse paused = await Vms.CloneVmAsync(new CloneVmRequest { Parent = Project, Vm = One, Paused = true });
        Assert.Equal(VmState.Paused, Assert.Single(paused.Results).Vm.Status.State);
        Assert.Matches("^projects/default/vms/clone-[0-9a-f]{10}-1$", paused.Results[0].Name);
    }

    [Fact]
    public async Task Each_clone_is_made_or_not_by_itself_and_a_repetition_makes_those_that_are_missing()
    {
        await StartAsync();
        await CreateAsync("c-2");
        Snapshot snapshot = await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "s", Snapshot = new Snapshot { Vm = One } });
        var request = new CloneVmRequest { Parent = Project, Snapshot = snapshot.Name, Count = 3, VmIdPrefix = "c", RequestId = "again" };
        CloneVmResponse first = await Vms.CloneVmAsync(request);
        Assert.Equal([VmState.Running, null, VmState.Running], first.Results.Select(result => result.Vm?.Status.State));
        Assert.Equal(((int)StatusCode.AlreadyExists, "ALREADY_EXISTS"), (first.Results[1].Failure.Code, first.Results[1].Failure.Reason));
        Assert.Single(await SnapshotsAsync());

        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = "projects/default/vms/c-2" });
        CloneVmResponse second = await Vms.CloneVmAsync(request);
        Assert.Equal((first.Results[0].Vm, first.Results[2].Vm), (second.Results[0].Vm, second.Results[2].Vm));
        Assert.Equal(VmState.Running, second.Results[1].Vm.Status.State);
        Assert.Equal(second, await Vms.CloneVmAsync(request));

        // Two more fit in.
        request.VmIdPrefix = "d";
        request.RequestId = "more";
        request.Count = 6;
        CloneVmResponse third = await Vms.CloneVmAsync(request);
        Assert.Equal(MaxVms, (await ListAsync()).Count);
        Assert.Equal(MaxVms - 4, third.Results.Count(result => result.Vm is not null));
        Assert.All(third.Results.Where(result => result.Vm is null), result => Assert.Equal("TOO_MANY_VMS", result.Failure.Reason));
    }

    [Fact]
    public async Task However_many_come_at_once_as_many_are_made_as_fit()
    {
        for (int round = 0; round < 20; round++)
        {
            await Task.WhenAll(Enumerable.Range(0, 8 * MaxVms).Select(index => Task.Run(async () =>
            {
                try
                {
                    await CreateAsync($"vm-{index}");
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.ResourceExhausted)
                {
                }
            })));
            IReadOnlyList<Vm> made = await ListAsync();
            Assert.Equal(MaxVms, made.Count);
            foreach (Vm vm in made)
                await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
        }
    }

    [Fact]
    public async Task A_repetition_after_a_restart_gives_the_same_answer()
    {
        await StartAsync();
        CloneVmResponse response = await Vms.CloneVmAsync(OfVm(2, requestId: "once"));
        await CloseAsync();
        await OpenAsync();
        Assert.Equal(response, await Vms.CloneVmAsync(OfVm(2, requestId: "once")));
        Assert.Equal(3, (await ListAsync()).Count);
        Assert.Empty(await SnapshotsAsync());
    }

    [Fact]
    public async Task A_request_id_is_of_one_request_whichever_method_comes_with_it()
    {
        await StartAsync();
        Snapshot snapshot = await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "s", Snapshot = new Snapshot { Vm = One }, RequestId = "snapshot" });
        CloneVmResponse made = await Vms.CloneVmAsync(OfVm(2, requestId: "clones"));
        IReadOnlyList<Vm> before = await ListAsync();
        CloneVmRequest prefixed = OfVm(2, "c", "clones"), paused = OfVm(2, requestId: "clones"), labelled = OfVm(2, requestId: "clones");
        paused.Paused = true;
        labelled.Labels["a"] = "b";
        CloneVmRequest ofSnapshot = new() { Parent = Project, Snapshot = snapshot.Name, Count = 2, RequestId = "clones" };
        // Fewer would be answered by the requests that the first consisted of, and more would add to it.
        foreach (CloneVmRequest other in (CloneVmRequest[])[OfVm(1, requestId: "clones"), OfVm(3, requestId: "clones"), prefixed, paused, labelled, ofSnapshot, OfVm(2, requestId: "snapshot")])
            await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.CloneVmAsync(other));
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.PauseVmAsync(new PauseVmRequest { Name = One, RequestId = "clones" }));
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.CreateVmAsync(new CreateVmRequest { VmId = "new", Vm = new Vm { Spec = Spec() }, RequestId = "clones" }));
        CloneVmRequest same = OfVm(2, requestId: "clones");
        same.Parent = "";
        Assert.Equal(made, await Vms.CloneVmAsync(same));

        await CloseAsync();
        await OpenAsync();
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.CloneVmAsync(OfVm(3, requestId: "clones")));
        Assert.Equal(made, await Vms.CloneVmAsync(OfVm(2, requestId: "clones")));
        Assert.Equal(before.Select(vm => (vm.Name, vm.Uid)), (await ListAsync()).Select(vm => (vm.Name, vm.Uid)));
        Assert.Equal([snapshot.Name], (await SnapshotsAsync()).Select(there => there.Name));
        // One that found nothing to clone leaves its id.
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.CloneVmAsync(new CloneVmRequest { Vm = "projects/default/vms/none", RequestId = "free" }));
        await CreateAsync(spec: null, id: "free");
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = "projects/default/vms/free", RequestId = "free" });
    }

    [Fact]
    public async Task What_makes_no_clone_is_an_error_and_changes_nothing()
    {
        await CreateAsync();
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.CloneVmAsync(OfVm()));
        await Vms.StartVmAsync(new StartVmRequest { Name = One });
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.CloneVmAsync(new CloneVmRequest { Snapshot = "projects/default/snapshots/none", Count = 2 }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.CloneVmAsync(new CloneVmRequest { Vm = "projects/default/vms/none" }));
        foreach (CloneVmRequest wrong in (CloneVmRequest[])
        [
            new(), OfVm(-1), OfVm(257), OfVm(1, "Z"), OfVm(1, new string('a', 63)), new() { Vm = "projects/other/vms/one" }, new() { Snapshot = One }, new() { Vm = "one" }, OfVm(requestId: "?"),
            new() { Vm = One, Labels = { ["?"] = "" } },
        ])
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CloneVmAsync(wrong));
        Assert.Single(await ListAsync());
        Assert.Empty(await SnapshotsAsync());
    }
}
