using System.Runtime.CompilerServices;
using Grpc.Core;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>Snapshots that another worker has, over gRPC.</summary>
internal sealed class PeerSnapshots(VmHostService.VmHostServiceClient peer) : ISnapshotSource
{
    /// <inheritdoc/>
    public async Task<byte[]?> ReadContentAsync(Snapshot snapshot, CancellationToken cancellation)
    {
        using AsyncServerStreamingCall<SnapshotContentPart> call = peer.ReadSnapshotContent(
            new ReadSnapshotContentRequest { Name = snapshot.Name, Uid = snapshot.Uid }, cancellationToken: cancellation);
        using var content = new MemoryStream();
        try
        {
            await foreach (SnapshotContentPart part in call.ResponseStream.ReadAllAsync(cancellation))
            {
                if (content.Length + part.Data.Length > SnapshotContents.MostBytes)
                    throw new DamagedSnapshotException("The list of its content is longer than any that is read.");
                content.Write(part.Data.Span);
            }
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            return null;
        }

        return content.ToArray();
    }

    /// <inheritdoc/>
    public async IAsyncEnumerable<ReadOnlyMemory<byte>> ReadChunksAsync(Snapshot snapshot, IReadOnlyList<ChunkPlace> places, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var request = new ReadSnapshotChunksRequest { Name = snapshot.Name, Uid = snapshot.Uid };
        foreach (ChunkPlace place in places)
            request.Places.Add(new SnapshotChunkPlace { File = place.File, Index = place.Index });
        using AsyncServerStreamingCall<SnapshotChunk> call = peer.ReadSnapshotChunks(request, cancellationToken: cancellation);
        await foreach (SnapshotChunk chunk in call.ResponseStream.ReadAllAsync(cancellation))
            yield return chunk.Data.Memory;
    }
}
