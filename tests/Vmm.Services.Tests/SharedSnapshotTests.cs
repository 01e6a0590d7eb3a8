using Vmm.Server;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>The directory that workers share for the content of snapshots: what is in it, and when it goes.</summary>
public sealed class SharedSnapshotTests : ServerTest
{
    private const int ChunkBytes = 128 << 10;

    private string Shared => Path.Combine(Folder, "shared");

    protected override ServerOptions Options => base.Options with { SharedSnapshotDirectory = Shared };

    private string[] Chunks => Directory.GetFiles(Path.Combine(Shared, "chunks"), "*", SearchOption.AllDirectories);

    private string[] Contents => Directory.GetFiles(Path.Combine(Shared, "contents"));

    private async Task<Snapshot> TakeAsync(string id) =>
        await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = id, Snapshot = new Snapshot { Vm = "projects/default/vms/one" } });

    private async Task DeleteAsync(string id) => await Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = $"{Project}/snapshots/{id}" });

    [Fact]
    public async Task Chunks_are_kept_once_compressed_and_as_long_as_a_snapshot_has_them()
    {
        await StartAsync();
        // Text, zeros, text that is there twice, and the rest of a chunk.
        byte[] memory = new byte[5 * ChunkBytes + 10];
        memory.AsSpan(0, ChunkBytes).Fill((byte)'a');
        memory.AsSpan(2 * ChunkBytes, 2 * ChunkBytes).Fill((byte)'b');
        memory[^1] = 1;
        Factory.Last.SavedMemory = memory;
        Snapshot first = await TakeAsync("first");
        Assert.Equal(64, first.ContentSha256.Length);
        // The engine's manifest, 'a', 'b' and the rest.
        string[] before = Chunks;
        Assert.Equal(4, before.Length);
        Assert.All(before, chunk => Assert.InRange(new FileInfo(chunk).Length, 1, 1024));
        memory[0] = 0;
        await TakeAsync("second");
        Assert.Equal(5, Chunks.Length);
        Assert.Equal(2, Contents.Length);

        await DeleteAsync("first");
        Assert.Equal(4, Chunks.Length);
        Assert.Single(before.Except(Chunks));
        await DeleteAsync("second");
        Assert.Empty(Chunks);
        Assert.Empty(Contents);
        Assert.Empty(Directory.GetFiles(Path.Combine(Shared, "temporary")));
    }

    [Fact]
    public async Task What_a_process_that_died_has_left_goes_at_the_next_start_and_nothing_else_does()
    {
        await StartAsync();
        Snapshot snapshot = await TakeAsync("kept");
        string id = await File.ReadAllTextAsync(Path.Combine(Folder, "state", "id"));
        string[] before = [.. Chunks, .. Contents];
        await CloseAsync();
        // A list of this worker's without a record, one of another worker's, a chunk of neither, and one that was being written.
        byte[] own = await File.ReadAllBytesAsync(Contents[0]);
        byte[] others = System.Text.Encoding.Latin1.GetBytes(System.Text.Encoding.Latin1.GetString(own).Replace(id, new string('0', id.Length), StringComparison.Ordinal));
        string other = Path.Combine(Shared, "contents", Guid.NewGuid().ToString());
        await File.WriteAllBytesAsync(other, others);
        await File.WriteAllBytesAsync(Path.Combine(Shared, "contents", Guid.NewGuid().ToString()), own);
        string chunk = Path.Combine(Path.GetDirectoryName(Chunks[0])!, new string('f', 64));
        await File.WriteAllTextAsync(chunk, "chunk");
        await File.WriteAllTextAsync(Path.Combine(Shared, "temporary", "part"), "part");
        await OpenAsync();
        Assert.Equal([.. before.Append(other).Order()], ((string[])[.. Chunks, .. Contents]).Order());
        Assert.Empty(Directory.GetFiles(Path.Combine(Shared, "temporary")));
        await Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "two" });
    }

    [Fact]
    public async Task A_snapshot_that_the_directory_does_not_take_is_none()
    {
        await StartAsync();
        await TakeAsync("first");
        Directory.Delete(Path.Combine(Shared, "contents"), recursive: true);
        await FailsAsync(Grpc.Core.StatusCode.ResourceExhausted, "STORAGE_FAILED", () => TakeAsync("second"));
        Assert.Single(Directory.GetDirectories(Path.Combine(Folder, "state", "snapshots")));
        Assert.Single((await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest())).Snapshots);
        Directory.CreateDirectory(Path.Combine(Shared, "contents"));
        await TakeAsync("second");
    }
}
