using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>Where a worker gets a snapshot from that it did not take. Nothing that comes from there is trusted: see <see cref="SnapshotContents.Parse"/> and <see cref="SnapshotChunks.Expand"/>.</summary>
internal interface ISnapshotSource
{
    /// <summary>The list of its content's digests, serialised; null where the source does not have the snapshot.</summary>
    /// <exception cref="DamagedSnapshotException">It is too long.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    /// <exception cref="Grpc.Core.RpcException">It cannot be read there.</exception>
    Task<byte[]?> ReadContentAsync(Snapshot snapshot, CancellationToken cancellation);

    /// <summary>Chunks, compressed, one for each place and in the same order. A buffer is good until the next.</summary>
    /// <param name="snapshot">The snapshot.</param>
    /// <param name="places">Of its content, at most <see cref="MostPlaces"/>.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="DamagedSnapshotException">One is not there, or too long.</exception>
    /// <exception cref="IOException">As above.</exception>
    /// <exception cref="Grpc.Core.RpcException">As above.</exception>
    IAsyncEnumerable<ReadOnlyMemory<byte>> ReadChunksAsync(Snapshot snapshot, IReadOnlyList<ChunkPlace> places, CancellationToken cancellation);

    /// <summary>How many chunks can be asked for at once.</summary>
    const int MostPlaces = 256;
}
