using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Registry.InMemory;

/// <content>Snapshots of workers that are lost.</content>
public sealed partial class InMemoryRegistry
{
    private static readonly TimeSpan TellOfDeletions = TimeSpan.FromHours(1);

    private readonly SortedDictionary<string, (string Worker, DateTimeOffset Time)> _deletedSnapshots = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public Task DeleteLostSnapshotAsync(string name, string etag, RequestKey? request, CancellationToken cancellation)
    {
        lock (_lock)
        {
            if (Answer(request) is not null)
                return Task.CompletedTask;
            if (!_snapshots.TryGetValue(name, out Snapshot? snapshot))
                throw ApiError.NotFound(name);
            Refusals.RequireEtag(snapshot, etag);
            string worker = _snapshotWorkers[name];
            if (!IsLost(_workers[worker]))
                throw Refusals.WorkerReturned(worker);
            RemoveSnapshot(name);
            _deletedSnapshots.TryAdd(snapshot.Uid, (worker, time.GetUtcNow()));
            if (request is not null)
                Remember(new RequestRow(request, [], time.GetUtcNow()));
            return Task.CompletedTask;
        }
    }

    /// <summary>Uids of a worker's snapshots that were deleted while it was lost; those that it has no more are forgotten.</summary>
    private HashSet<string> DeletedSnapshots(string worker, WorkerInventory inventory)
    {
        HashSet<string> present = [.. inventory.Snapshots.Select(snapshot => snapshot.Uid)];
        foreach (string uid in _deletedSnapshots.Where(deleted => deleted.Value.Worker == worker && !present.Contains(deleted.Key) && !IsToBeTold(deleted.Value)).Select(deleted => deleted.Key).ToList())
            _deletedSnapshots.Remove(uid);
        present.IntersectWith(_deletedSnapshots.Keys);
        return present;
    }

    private bool IsToBeTold((string Worker, DateTimeOffset Time) deleted) => deleted.Time >= time.GetUtcNow() - TellOfDeletions;
}
