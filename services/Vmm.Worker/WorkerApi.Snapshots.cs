using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <content>Snapshots.</content>
public sealed partial class WorkerApi
{
    /// <inheritdoc/>
    public override Task<Snapshot> CreateSnapshot(CreateSnapshotRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(request.Parent, nameof(CreateSnapshot), request, scope => host.TakeSnapshotAsync(request, scope));

    /// <inheritdoc/>
    public override Task<Snapshot> GetSnapshot(GetSnapshotRequest request, ServerCallContext context) => Task.FromResult(host.Snapshots.Require(request.Name));

    /// <inheritdoc/>
    public override Task<Empty> DeleteSnapshot(DeleteSnapshotRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(SnapshotParentOf(request.Name), nameof(DeleteSnapshot), request, async scope =>
        {
            await host.DeleteSnapshotAsync(request, scope);
            return new Empty();
        });

    /// <inheritdoc/>
    public override Task<Vmm.V1.Vm> RestoreSnapshot(RestoreSnapshotRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(SnapshotParentOf(request.Name), nameof(RestoreSnapshot), request, scope => host.RestoreSnapshotAsync(request, scope));

    private static string SnapshotParentOf(string name) =>
        ResourceName.TryParseSnapshot(name, out string? parent, out _) ? parent : throw ApiError.InvalidField("name", "is not a snapshot's name.");
}
