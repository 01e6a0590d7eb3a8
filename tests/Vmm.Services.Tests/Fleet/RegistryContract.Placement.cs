using Grpc.Core;
using Vmm.Registry;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>Where VMs with checkpoints go.</content>
internal abstract partial class RegistryContract
{
    public async Task Vms_with_checkpoints_go_only_where_those_are_kept()
    {
        await Registry.RegisterWorkerAsync(Registration("a") with { HasSnapshotStore = false }, WorkerInventory.Empty, None);
        Client.VmmError refused = await RefusedAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => Registry.PlaceVmAsync(Saved("one"), None));
        Assert.Contains("1 without a snapshot store, where checkpoints are kept.", refused.Message, StringComparison.Ordinal);
        Assert.Equal(new Client.VmmViolation("workers/a", "", "has no snapshot store, where checkpoints are kept"), Assert.Single(refused.Quotas));
        Assert.Equal("workers/a", (await Registry.PlaceVmAsync(New("other"), None)).Worker!.Name);

        // One that has a store, and one of the version before, which does not say.
        foreach ((string worker, bool? hasStore) in ((string, bool?)[])[("b", true), ("c", null)])
        {
            WorkerLease lease = (await Registry.RegisterWorkerAsync(Registration(worker) with { HasSnapshotStore = hasStore }, WorkerInventory.Empty, None)).Lease;
            NewVm vm = Saved($"on-{worker}");
            Assert.Equal($"workers/{worker}", (await Registry.PlaceVmAsync(vm, None)).Worker!.Name);
            Vm made = Running($"on-{worker}", moves: true);
            made.Spec = vm.Spec;
            await Registry.ReportAsync(lease, [new VmReport(made)], None);
            await ExpireAsync($"workers/{worker}");
            // When it is lost there is no other.
            Assert.Empty((await Registry.FailOverAsync(None)).Targets);
        }

        await Registry.RegisterWorkerAsync(Registration("a") with { HasSnapshotStore = true }, WorkerInventory.Empty, None);
        Assert.Equal(2, (await Registry.FailOverAsync(None)).PlacedVms);
    }

    private static NewVm Saved(string id)
    {
        NewVm vm = New(id, moves: true);
        vm.Spec.RestartPolicy = RestartPolicy.FromLastCheckpoint;
        return vm;
    }
}
