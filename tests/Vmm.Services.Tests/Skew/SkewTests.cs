using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Client;
using Vmm.Registry;
using Vmm.Services.Tests.Fleet;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Skew;

/// <summary>Front ends and workers of this version and of the minor version before it, side by side as during an upgrade or a rollback.</summary>
public sealed class SkewTests
{
    private const string Project = "projects/default";
    private const string Name = $"{Project}/vms/vm";

    private static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token;

    [Theory]
    [InlineData("frontend")]
    [InlineData("a b")]
    [InlineData("a")]
    [InlineData("b")]
    [InlineData("frontend a")]
    public async Task A_fleet_of_which_some_processes_are_of_the_version_before_does_all_that_both_know(string old)
    {
        ProtoRecord before = ProtoContractTests.Before;
        HashSet<string> those = [.. old.Split(' ')];
        int differences = OtherVersion.Differences;
        await using MigrationFleet fleet = await MigrationFleet.StartAsync(Between, (process, _, arguments) =>
        {
            Change(those.Contains(process), arguments, vm => OtherVersion.Strip(before, vm));
            // The version before does not say it.
            if (those.Contains(process) && arguments is [WorkerRegistration registration, ..])
                arguments[0] = registration with { HasSnapshotStore = null };
        });
        (VmSpec spec, Snapshot snapshot, Vm restored) = await LiveAsync(fleet);

        // What only one of them knows is refused in so many words, and changes nothing.
        if (those.Contains("b"))
        {
            await RefusedAsync(StatusCode.Unimplemented, async () => await fleet.Vms.TraceVmAsync(new TraceVmRequest { Name = restored.Name }));
            var saved = new Vm { Spec = new VmSpec(spec) { RestartPolicy = RestartPolicy.FromLastCheckpoint, CheckpointInterval = new Google.Protobuf.WellKnownTypes.Duration { Seconds = 5 } } };
            if (!those.Contains("frontend"))
                Assert.Equal("UNKNOWN_FIELD", (await RefusedAsync(StatusCode.InvalidArgument, async () => await fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "saved", Vm = saved }))).Reason);
            await fleet.Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = restored.Name, Labels = { ["kept"] = "yes" } } });
            // A share, also the default one, which is not to be seen in a message that leaves it out.
            foreach (string path in (string[])["spec.cpu_weight", "spec.cpu_limit_millicpus"])
                if (!those.Contains("frontend"))
                    Assert.Equal("UNKNOWN_FIELD", (await RefusedAsync(StatusCode.InvalidArgument, async () => await fleet.Vms.UpdateVmAsync(
                        new UpdateVmRequest { Vm = new Vm { Name = restored.Name, Spec = new VmSpec() }, UpdateMask = new Google.Protobuf.WellKnownTypes.FieldMask { Paths = { path } } }))).Reason);
            Assert.Equal("yes", (await fleet.Vms.GetVmAsync(new GetVmRequest { Name = restored.Name })).Labels["kept"]);
            Assert.Equal(2, (await fleet.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms.Count);
        }

        await EndAsync(fleet, snapshot, restored);
        Assert.True(OtherVersion.Differences > differences, "both versions say the same: there is nothing that this test shows");

        Interceptor? Between(string caller, string server) => those.Contains(server) ? OtherVersion.OlderServer(before)
            : those.Contains(caller) ? OtherVersion.OlderCaller(before)
            : null;
    }

    [Theory]
    [InlineData("a b")]
    [InlineData("a")]
    [InlineData("b")]
    public async Task Workers_of_a_version_to_come_may_say_more_than_this_one_knows(string later)
    {
        HashSet<string> those = [.. later.Split(' ')];
        int differences = OtherVersion.Differences;
        await using MigrationFleet fleet = await MigrationFleet.StartAsync(
            (caller, server) => those.Contains(server) ? OtherVersion.LaterServer() : those.Contains(caller) ? OtherVersion.LaterCaller() : null,
            (process, _, arguments) => Change(those.Contains(process), arguments, static vm => OtherVersion.Extend(vm, static type => type == VmStatus.Descriptor.FullName)));
        (_, Snapshot snapshot, Vm restored) = await LiveAsync(fleet);
        await EndAsync(fleet, snapshot, restored);
        Assert.True(OtherVersion.Differences > differences, "nothing was added");
    }

    /// <summary>What both sides of a link know of a VM's life: made, changed, moved, saved and restored.</summary>
    private static async Task<(VmSpec Spec, Snapshot Snapshot, Vm Restored)> LiveAsync(MigrationFleet fleet)
    {
        await fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        Image image = await fleet.Connection.PushImageAsync(fleet.Write("image", new byte[100_000]), Project);
        var spec = new VmSpec
        {
            MemoryMib = 64,
            Kernel = new FileSource { Path = fleet.Write("kernel", "kernel"u8.ToArray()) },
            Disks = { new Disk { Source = new FileSource { Image = image.Name } } },
            RestartPolicy = RestartPolicy.Restart,
        };
        Vm vm = await fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "vm", Vm = new Vm { Spec = spec }, RequestId = "create" });
        Vm again = await fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "vm", Vm = new Vm { Spec = spec }, RequestId = "create" });
        Assert.Equal((vm.Uid, vm.Etag), (again.Uid, again.Etag));
        await fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });
        await fleet.Vms.StartVmAsync(new StartVmRequest { Name = Name });
        await fleet.Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = Name, Labels = { ["a"] = "b" } } });
        using var console = fleet.Vms.Console(cancellationToken: Soon);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = Name, Write = true } });
        Assert.True(await console.ResponseStream.MoveNext(Soon));
        await fleet.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = 0x2000, Data = ByteString.CopyFromUtf8("memory") });
        fleet.A.Last.EnterL2(0);
        Assert.Equal(ApicvUpdateState.Deferred, (await fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv })).Vcpus[0].State);

        // From one to the other and back: whichever of them is old.
        MigrateVmResponse moved = await fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, RequestId = "move" });
        Assert.Equal(("workers/b", VmState.Running), (moved.Vm.Status.Worker, moved.Vm.Status.State));
        fleet.B.Last.LeaveL2(0);
        await fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name });
        fleet.A.Last.Print("here");
        Assert.True(await console.ResponseStream.MoveNext(Soon));
        Assert.Equal("here", console.ResponseStream.Current.Output.Data.ToStringUtf8());
        Assert.Equal("memory", (await fleet.Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = Name, Address = 0x2000, Length = 6 })).Data.ToStringUtf8());

        await fleet.Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
        Snapshot snapshot = await fleet.Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, Snapshot = new Snapshot { Vm = Name } });
        await fleet.Vms.ResumeVmAsync(new ResumeVmRequest { Name = Name });
        await fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/a" });
        // The other worker fetches it from the one that took it.
        Vm restored = await fleet.Connection.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "restored" });
        Assert.Equal(("workers/b", VmState.Running), (restored.Status.Worker, restored.Status.State));
        Vm got = await fleet.Vms.GetVmAsync(new GetVmRequest { Name = Name });
        Assert.Equal((VmState.Running, 1L, "b"), (got.Status.State, got.Status.RunCount, got.Labels["a"]));
        Assert.Equal(2, (await fleet.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms.Count);

        return (spec, snapshot, restored);
    }

    private static async Task EndAsync(MigrationFleet fleet, Snapshot snapshot, Vm restored)
    {
        using var watch = fleet.Vms.WatchVms(new WatchVmsRequest { Parent = Project }, cancellationToken: Soon);
        await fleet.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        await fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name });
        await fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = restored.Name, Force = true });
        await fleet.Connection.Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = snapshot.Name });
        for (int ends = 0; ends < 2; ends += watch.ResponseStream.Current.Type == VmEvent.Types.Type.Removed ? 1 : 0)
            Assert.True(await watch.ResponseStream.MoveNext(Soon));
    }

    private static void Change(bool isOther, object?[] arguments, Func<Vm, Vm> change)
    {
        for (int i = 0; isOther && i < arguments.Length; i++)
            arguments[i] = arguments[i] switch
            {
                Vm told => change(told),
                IReadOnlyList<WorkerReport> reports => (IReadOnlyList<WorkerReport>)[.. reports.Select(report => report is VmReport { Vm: var seen } ? new VmReport(change(seen)) : report)],
                var other => other,
            };
    }

    private static async Task<VmmError> RefusedAsync(StatusCode code, Func<Task> call)
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(call);
        Assert.Equal(code, exception.StatusCode);
        return VmmError.From(exception);
    }
}
