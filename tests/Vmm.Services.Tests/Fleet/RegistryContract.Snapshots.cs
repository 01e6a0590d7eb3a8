using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>Snapshots of workers that are lost.</content>
internal abstract partial class RegistryContract
{
    public async Task A_snapshot_of_a_lost_worker_is_deleted_for_good()
    {
        WorkerLease a = await RegisterAsync("a"), b = await RegisterAsync("b");
        Snapshot gone = Of("s", "gone"), kept = Of("t", "kept"), other = Of("s", "other");
        await Registry.ReportAsync(a, [new SnapshotReport(gone), new SnapshotReport(kept)], None);
        RequestKey request = Key("deletion", 1);
        // A worker that is there deletes by itself.
        await RefusedAsync(StatusCode.Unavailable, "WORKER_RETURNED", () => Registry.DeleteLostSnapshotAsync(gone.Name, "", request, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.DeleteLostSnapshotAsync(Of("none", "").Name, "", request, None));
        await ExpireAsync("workers/a");
        await RefusedAsync(StatusCode.Aborted, "ETAG_MISMATCH", () => Registry.DeleteLostSnapshotAsync(gone.Name, "other", request, None));
        await Registry.DeleteLostSnapshotAsync(gone.Name, gone.Etag, request, None);
        await Registry.DeleteLostSnapshotAsync(gone.Name, gone.Etag, request, None);
        await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Registry.DeleteLostSnapshotAsync(kept.Name, "", Key("deletion", 2), None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Registry.LocateSnapshotAsync(gone.Name, null, None));
        Assert.NotNull((await Registry.LocateSnapshotAsync(gone.Name, request, None)).Answer);
        Assert.Equal([kept], await Registry.ListSnapshotsAsync(Project, None));
        Assert.Equal([gone.Uid], (await Registry.RenewLeaseAsync(b, 0, None)).DeletedSnapshots);

        // Its name is free, and what the worker comes back with is not what has the name.
        await Registry.ReportAsync(b, [new SnapshotReport(other)], None);
        WorkerSession back = await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([], [], [gone, kept], []), None);
        Assert.Equal([gone.Name], back.DropSnapshots);
        Assert.Equal([other, kept], await Registry.ListSnapshotsAsync(Project, None));
        await Registry.ReportAsync(back.Lease, [new SnapshotDeletedReport(gone.Name)], None);
        Assert.Equal([other, kept], await Registry.ListSnapshotsAsync(Project, None));
        Assert.Empty((await Registry.RegisterWorkerAsync(Registration("a"), new WorkerInventory([], [], [kept], []), None)).DropSnapshots);

        static Snapshot Of(string id, string uid) => new() { Name = ResourceName.Snapshot(Project, id), Uid = uid, Etag = $"etag of {uid}" };
    }
}
