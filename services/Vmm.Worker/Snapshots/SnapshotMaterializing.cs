using Microsoft.Win32.SafeHandles;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>From what a source has of a snapshot to its files.</summary>
internal static class SnapshotMaterializing
{
    /// <summary>Makes a snapshot's folder. Where that fails, what is there of it is the caller's to remove.</summary>
    /// <exception cref="DamagedSnapshotException">What came is not what the list has.</exception>
    /// <exception cref="IOException">The host's disk does not take it.</exception>
    /// <exception cref="Grpc.Core.RpcException">It cannot be read where it is.</exception>
    public static async Task MaterializeAsync(this ISnapshotSource source, Snapshot snapshot, SnapshotContent content, SnapshotFolder folder)
    {
        folder.Create();
        var files = new List<SafeFileHandle>();
        try
        {
            foreach (SnapshotFile file in content.Files)
            {
                files.Add(File.OpenHandle(folder.PathOf(file.Name), FileMode.CreateNew, FileAccess.Write, FileShare.None));
                RandomAccess.SetLength(files[^1], file.SizeBytes);
            }

            byte[] buffer = new byte[SnapshotChunks.Bytes];
            foreach (ChunkPlace[] places in SnapshotContents.Places(content).Chunk(ISnapshotSource.MostPlaces))
            {
                int next = 0;
                await foreach (ReadOnlyMemory<byte> compressed in source.ReadChunksAsync(snapshot, places, CancellationToken.None))
                {
                    if (next == places.Length)
                        throw new DamagedSnapshotException("More chunks came than were asked for.");
                    ChunkPlace place = places[next++];
                    Memory<byte> chunk = buffer.AsMemory(0, SnapshotChunks.LengthOf(content.Files[place.File].SizeBytes, place.Index));
                    SnapshotChunks.Expand(compressed.Span, chunk.Span, place.Digest.Span);
                    await RandomAccess.WriteAsync(files[place.File], chunk, place.Index * SnapshotChunks.Bytes);
                }

                if (next < places.Length)
                    throw new DamagedSnapshotException("Fewer chunks came than were asked for.");
            }
        }
        finally
        {
            foreach (SafeFileHandle file in files)
                file.Dispose();
        }
    }
}
