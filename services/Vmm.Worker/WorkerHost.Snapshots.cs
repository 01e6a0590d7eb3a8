using Microsoft.Win32.SafeHandles;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <content>Snapshots.</content>
public sealed partial class WorkerHost
{
    internal SnapshotStore Snapshots => _services.Snapshots;

    /// <summary>Snapshots of others; null where there are no others.</summary>
    internal SnapshotReplicas? Replicas { get; private set; }

    /// <summary>Takes a snapshot of a VM.</summary>
    internal async Task<Snapshot> TakeSnapshotAsync(CreateSnapshotRequest request, RequestScope scope)
    {
        HostedVm vm = Require(request.Snapshot?.Vm ?? "");
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

    /// <summary>Makes a VM from a snapshot, of this worker or of another.</summary>
    internal async Task<Vm> RestoreSnapshotAsync(RestoreSnapshotRequest request, RequestScope scope)
    {
        RequireOpen();
        (IDisposable use, Snapshot snapshot, SnapshotFolder folder) = await UseSnapshotAsync(request.Name);
        using (use)
        {
            if (Images.Fetcher is { } fetcher)
                await fetcher.FetchAsync(snapshot.Spec, _closing.Token);
            string parent = request.Name[..request.Name.IndexOf("/snapshots/", StringComparison.Ordinal)];
            return await AddAsync(NewVm(parent, request.VmId, snapshot.Spec, request.Labels), async (hosted, vm) =>
            {
                using (WorkerTraces.Source.Start(WorkerTraces.RestoreDisks, vm.Name))
                    await Task.Run(() => MakeDisks(() => _services.Files.CopyDisksFrom(folder, vm.Uid, vm.Spec)));
                return await hosted.RestoreAsync(folder, request.Paused, scope);
            });
        }
    }

    /// <summary>The list of a snapshot's content, for another worker.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    internal async Task<byte[]> ReadSnapshotContentAsync(string name, string uid)
    {
        using IDisposable use = UseOwn(name, uid, out SnapshotFolder folder);
        return File.Exists(folder.Content) ? await File.ReadAllBytesAsync(folder.Content) : throw ApiError.NotFound(name);
    }

    /// <summary>Chunks of a snapshot, compressed, for another worker.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND; INVALID_ARGUMENT: there is no such chunk; DATA_LOSS.</exception>
    internal IEnumerable<byte[]> ReadSnapshotChunks(ReadSnapshotChunksRequest request)
    {
        using IDisposable use = UseOwn(request.Name, request.Uid, out SnapshotFolder folder);
        IReadOnlyList<string> names = folder.FileNames();
        byte[] buffer = new byte[SnapshotChunks.Bytes];
        SafeFileHandle? file = null;
        int opened = -1;
        try
        {
            foreach (SnapshotChunkPlace place in request.Places)
            {
                if (place.File != opened)
                {
                    file?.Dispose();
                    file = null;
                    file = SnapshotContents.OpenToRead(folder.PathOf(place.File >= 0 && place.File < names.Count ? names[place.File] : throw NoSuchChunk()));
                    opened = place.File;
                }

                long size = RandomAccess.GetLength(file!);
                if (place.Index < 0 || place.Index >= SnapshotChunks.CountOf(size))
                    throw NoSuchChunk();
                yield return SnapshotChunks.Compress(SnapshotContents.Read(file!, buffer, size, place.Index));
            }
        }
        finally
        {
            file?.Dispose();
        }

        static Exception NoSuchChunk() => ApiError.InvalidField("places", "names a chunk that the snapshot does not have.");
    }

    private async Task<(IDisposable Use, Snapshot Snapshot, SnapshotFolder Folder)> UseSnapshotAsync(string name)
    {
        if (Replicas is not { } replicas || Store.FindSnapshot(name) is not null)
        {
            IDisposable use = Snapshots.Use(name, out Snapshot snapshot);
            return (use, snapshot, Snapshots.Folder(snapshot.Uid));
        }

        return await replicas.UseAsync(name, _closing.Token);
    }

    private IDisposable UseOwn(string name, string uid, out SnapshotFolder folder)
    {
        IDisposable use = Snapshots.Use(name, out Snapshot snapshot);
        folder = Snapshots.Folder(snapshot.Uid);
        if (snapshot.Uid == uid)
            return use;
        use.Dispose();
        throw ApiError.NotFound(name);
    }

    /// <summary>Removes a snapshot that was deleted while this worker was lost.</summary>
    internal async Task DropSnapshotAsync(string name)
    {
        if (Store.FindSnapshot(name) is not null)
            await Snapshots.DeleteAsync(new DeleteSnapshotRequest { Name = name }, null);
    }

    /// <summary>Deletes a snapshot.</summary>
    internal Task DeleteSnapshotAsync(DeleteSnapshotRequest request, RequestScope scope)
    {
        RequireOpen();
        return Snapshots.DeleteAsync(request, scope.Completed(new Google.Protobuf.WellKnownTypes.Empty()));
    }
}
