using Google.Protobuf;
using Grpc.Core;
using Microsoft.Extensions.Logging;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>
/// Checkpoints of VMs, in the directory that workers share: whichever worker a VM comes to finds them there. Which of them counts, the VM's own
/// record says, in the registry as in the worker's journal; so one is durable before a record names it, and removed after no
/// record does any more. Thread-safe.
/// </summary>
internal sealed class CheckpointStore(WorkerStore store, SharedSnapshots? shared, TimeProvider time, ILogger log)
{
    /// <summary>One that no record names for so long was left by a worker that died: a report that would name it needs a lease.</summary>
    private static readonly TimeSpan Orphaned = TimeSpan.FromHours(1);

    private readonly SemaphoreSlim _turn = new(1, 1);
    private DateTimeOffset _sweep = DateTimeOffset.MinValue;

    /// <summary>Refuses a VM that needs checkpoints where there is no place for them.</summary>
    /// <exception cref="RpcException">FAILED_PRECONDITION, reason NO_SNAPSHOT_STORE.</exception>
    public void Require(VmSpec spec, string worker)
    {
        if (shared is null && spec.RestartPolicy == RestartPolicy.FromLastCheckpoint)
            throw ApiError.FailedPrecondition(
                "NO_SNAPSHOT_STORE", "WORKER", worker, $"{worker} has no --snapshot-store, where checkpoints of VMs with RESTART_POLICY_FROM_LAST_CHECKPOINT are kept.");
    }

    /// <summary>A folder for one checkpoint, of this process only.</summary>
    public SnapshotFolder NewFolder() => new(Path.Combine(store.ReplicasDirectory, Guid.NewGuid().ToString()));

    /// <summary>Waits until no other VM of this worker is being saved. To be released with <see cref="EndTurn"/>.</summary>
    public Task TurnAsync() => _turn.WaitAsync();

    /// <summary>The next may begin.</summary>
    public void EndTurn() => _turn.Release();

    /// <summary>Makes the content of a checkpoint last; gives the digest of its list.</summary>
    /// <param name="uid">The checkpoint's.</param>
    /// <param name="vm">The VM's name.</param>
    /// <param name="folder">The files, complete.</param>
    /// <exception cref="IOException">The directory does not take it.</exception>
    public async Task<string> AddAsync(string uid, string vm, SnapshotFolder folder)
    {
        SnapshotContent content = SnapshotContents.Of(folder, "", vm);
        await shared!.AddAsync(uid, folder, content);
        return SnapshotContents.DigestOf(content.ToByteArray());
    }

    /// <summary>Makes the files of a checkpoint here.</summary>
    /// <returns>Their folder, which is the caller's to remove.</returns>
    /// <exception cref="RpcException">DATA_LOSS: it is damaged. RESOURCE_EXHAUSTED: the disk is full. FAILED_PRECONDITION: there is no store.</exception>
    public async Task<SnapshotFolder> FetchAsync(Vm vm, Checkpoint checkpoint)
    {
        Require(vm.Spec, vm.Status.Worker);
        // What a list and its chunks are compared with is the same for both.
        var snapshot = new Snapshot { Name = vm.Name, Uid = checkpoint.Uid, ContentSha256 = checkpoint.ContentSha256, Spec = vm.Spec };
        SnapshotFolder folder = NewFolder();
        try
        {
            byte[] list = await shared!.ReadContentAsync(snapshot, CancellationToken.None) ?? throw new DamagedSnapshotException("It is not in the snapshot store.");
            await shared.MaterializeAsync(snapshot, SnapshotContents.Parse(list, snapshot), folder);
            return folder;
        }
        catch (Exception exception)
        {
            Remove(folder);
            throw exception switch
            {
                DamagedSnapshotException => ApiError.DataLoss("CHECKPOINT_DAMAGED", $"The checkpoint cannot be restored: {exception.Message}"),
                IOException or UnauthorizedAccessException => ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The checkpoint cannot be brought to this worker: {exception.Message}"),
                _ => exception,
            };
        }
    }

    /// <summary>Removes a folder; the worker's next start tries again where that fails. Memory that machines have mapped stays with them.</summary>
    public void Remove(SnapshotFolder folder)
    {
        try
        {
            folder.Remove();
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            log.CheckpointFolderNotRemoved(folder.Path, exception);
        }
    }

    /// <summary>Removes a checkpoint that no record names any more; <see cref="SweepAsync"/> does later where that fails.</summary>
    public async Task RemoveAsync(string uid)
    {
        if (shared is null)
            return;
        try
        {
            await shared.RemoveAsync(uid);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or DamagedSnapshotException)
        {
            log.CheckpointNotRemoved(uid, exception);
        }
    }

    /// <summary>Removes, once an hour, what workers that died have left: old checkpoints that are not the last of their VM.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: the registry does not answer.</exception>
    public async Task SweepAsync(IRegistry registry, CancellationToken cancellation)
    {
        DateTimeOffset now = time.GetUtcNow();
        if (shared is null || now < _sweep)
            return;
        _sweep = now + Orphaned;
        try
        {
            foreach (IGrouping<string, (string Vm, string Uid)> project in shared.CheckpointsBefore(now - Orphaned).GroupBy(found => ProjectOf(found.Vm), StringComparer.Ordinal))
            {
                HashSet<string> used = [.. (await registry.ListVmsAsync(project.Key, cancellation)).Select(vm => vm.Status.Checkpoint?.Uid).OfType<string>()];
                foreach ((_, string uid) in project.Where(found => !used.Contains(found.Uid)))
                    await RemoveAsync(uid);
            }
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            log.CheckpointsNotSwept(exception);
        }
    }

    private static string ProjectOf(string vm) => vm.IndexOf("/vms/", StringComparison.Ordinal) is > 0 and int end ? vm[..end] : "";
}
