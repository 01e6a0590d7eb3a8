using Google.Protobuf;
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
    public override Task<Empty> DeleteSnapshot(DeleteSnapshotRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(SnapshotParentOf(request.Name), nameof(DeleteSnapshot), request, async scope =>
        {
            await host.DeleteSnapshotAsync(request, scope);
            return new Empty();
        });

    /// <inheritdoc/>
    public override Task<Vmm.V1.Vm> RestoreSnapshot(RestoreSnapshotRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(SnapshotParentOf(request.Name), nameof(RestoreSnapshot), request, scope => host.RestoreSnapshotAsync(request, scope));

    /// <inheritdoc/>
    public override async Task ReadSnapshotContent(ReadSnapshotContentRequest request, IServerStreamWriter<SnapshotContentPart> responseStream, ServerCallContext context)
    {
        byte[] content = await host.ReadSnapshotContentAsync(request.Name, request.Uid);
        for (int at = 0; at < content.Length; at += ImageChunkBytes)
            await responseStream.WriteAsync(
                new SnapshotContentPart { Data = UnsafeByteOperations.UnsafeWrap(content.AsMemory(at, Math.Min(ImageChunkBytes, content.Length - at))) }, context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task ReadSnapshotChunks(ReadSnapshotChunksRequest request, IServerStreamWriter<SnapshotChunk> responseStream, ServerCallContext context)
    {
        foreach (byte[] chunk in host.ReadSnapshotChunks(request))
            await responseStream.WriteAsync(new SnapshotChunk { Data = UnsafeByteOperations.UnsafeWrap(chunk) }, context.CancellationToken);
    }

    private static string SnapshotParentOf(string name) =>
        ResourceName.TryParseSnapshot(name, out string? parent, out _) ? parent : throw ApiError.InvalidField("name", "is not a snapshot's name.");
}
