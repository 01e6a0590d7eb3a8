using Google.Protobuf;
using Grpc.Core;
using Vmm.Machine.Snapshots;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;
using ApicvUpdateState = Vmm.V1.ApicvUpdateState;

namespace Vmm.Services.Tests;

/// <summary>Snapshots through the API, with the engine's machines and a guest that is a hypervisor whose L2 is active.</summary>
public sealed class RealSnapshotTests : NestedGuestTest
{
    private async Task<Vm> RestoreAsync(string id, bool paused = false) =>
        await Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = "projects/default/snapshots/s", VmId = id, Paused = paused });

    private async Task<Snapshot> TakeAsync() =>
        await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "s", Snapshot = new Snapshot { Vm = Name } });

    private async Task RingAsync(string vm) =>
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = vm, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });

    private async Task<VcpuApicv> ApicvOfAsync(string vm) => (await Vms.GetApicvAsync(new GetApicvRequest { Name = vm })).Vcpus[0];

    private async Task<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>> AttachAsync(string vm)
    {
        AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = Vms.Console();
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm } });
        return console;
    }

    [Fact]
    public async Task An_inhibit_that_is_deferred_is_deferred_in_the_restored_vm_and_applied_before_its_l1_runs()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> first = await StartInL2Async();
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        Assert.Equal(ApicvUpdateState.Deferred, (await ApicvOfAsync(Name)).State);
        Snapshot snapshot = await TakeAsync();
        Assert.True(snapshot is { InstructionsRetired: > 0, GuestTime: not null, FormatVersion: SnapshotFormat.Version });

        Vm two = await RestoreAsync("two", paused: true);
        Assert.True(two.Status.State == VmState.Paused);
        Assert.True(await ApicvOfAsync(two.Name) is { Active: true, GuestMode: true, State: ApicvUpdateState.Deferred });
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> second = await AttachAsync(two.Name);
        await Vms.ResumeVmAsync(new ResumeVmRequest { Name = two.Name });
        await RingAsync(two.Name);
        await ReadUntilAsync(second, "E");
        Assert.True(await ApicvOfAsync(two.Name) is { Active: false, State: ApicvUpdateState.Applied });

        // The VM that was saved has not noticed, and comes to the same.
        Assert.True(await ApicvOfAsync(Name) is { Active: true, GuestMode: true, State: ApicvUpdateState.Deferred });
        await RingAsync(Name);
        await ReadUntilAsync(first, "E");
        Assert.Equal(ApicvUpdateState.Applied, (await ApicvOfAsync(Name)).State);
    }

    [Fact]
    public async Task Ten_vms_from_one_snapshot_run_at_once_each_for_itself()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> first = await StartInL2Async();
        await TakeAsync();
        Vm[] vms = await Task.WhenAll(Enumerable.Range(0, 10).Select(i => RestoreAsync($"copy{i}")));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name, Force = true });
        // What is mapped stays when the snapshot goes.
        await Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = "projects/default/snapshots/s" });
        foreach (Vm vm in vms)
        {
            Assert.Equal(2, (await Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = vm.Name })).Level);
            using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await AttachAsync(vm.Name);
            await RingAsync(vm.Name);
            await ReadUntilAsync(console, "E");
        }

        Assert.All((await Vms.ListVmsAsync(new ListVmsRequest())).Vms, vm => Assert.Equal(VmState.Running, vm.Status.State));
        // Each bell was heard once: none of the others was rung with it.
        foreach (Vm vm in vms)
            Assert.Equal(new byte[4], (await Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = vm.Name, Address = NestedGuest.Bell, Length = 4 })).Data.ToByteArray());
    }

    [Theory]
    [InlineData(SnapshotFormat.StateFile)]
    [InlineData(SnapshotFormat.ManifestFile)]
    [InlineData(SnapshotFormat.MemoryFile)]
    public async Task A_file_that_is_cut_short_is_data_loss(string file)
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> first = await StartInL2Async();
        Snapshot snapshot = await TakeAsync();
        using (var cut = new FileStream(Path.Combine(Folder, "state", "snapshots", snapshot.Uid, "machine", file), FileMode.Open))
            cut.SetLength(cut.Length - 1);
        await FailsAsync(StatusCode.DataLoss, "SNAPSHOT_DAMAGED", Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "two" }));
        Assert.Single((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);
    }
}
