using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;

namespace Vmm.Worker;

/// <content>Snapshots.</content>
public sealed partial class WorkerHost
{
    internal SnapshotStore Snapshots => _services.Snapshots;

    /// <summary>Takes a snapshot of a VM.</summary>
    internal async Task<Snapshot> TakeSnapshotAsync(CreateSnapshotRequest request, RequestScope scope)
    {
        HostedVm vm = Require(request.Snapshot.Vm);
        string name = ResourceName.Snapshot(request.Parent, request.SnapshotId);
        Snapshots.Reserve(name);
        try
        {
            return await vm.TakeSnapshotAsync(name, scope);
        }
        catch
        {
            Snapshots.Release(name);
            throw;
        }
    }

    /// <summary>Makes a VM from a snapshot.</summary>
    internal async Task<Vm> RestoreSnapshotAsync(RestoreSnapshotRequest request, RequestScope scope)
    {
        RequireOpen();
        using IDisposable use = Snapshots.Use(request.Name, out Snapshot snapshot);
        SnapshotFolder folder = Snapshots.Folder(snapshot.Uid);
        string parent = request.Name[..request.Name.IndexOf("/snapshots/", StringComparison.Ordinal)];
        return await AddAsync(NewVm(parent, request.VmId, snapshot.Spec, request.Labels), async (hosted, vm) =>
        {
            await Task.Run(() => MakeDisks(() => _services.Files.CopyDisksFrom(folder, vm.Uid, vm.Spec)));
            return await hosted.RestoreAsync(folder, request.Paused, scope);
        });
    }

    /// <summary>Deletes a snapshot.</summary>
    internal Task DeleteSnapshotAsync(DeleteSnapshotRequest request, RequestScope scope)
    {
        RequireOpen();
        return Snapshots.DeleteAsync(request, scope.Completed(new Google.Protobuf.WellKnownTypes.Empty()));
    }
}
