using System.Diagnostics;
using Grpc.Core;
using Microsoft.Extensions.Logging;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>
/// Files of snapshots that other workers have taken, made again here so that VMs can map their memory: once for all VMs, kept
/// while the snapshot lives, gone with this process. Thread-safe.
/// </summary>
internal sealed class SnapshotReplicas(WorkerStore store, SharedSnapshots? shared, IRegistry registry, IWorkerConnector connector, ILogger log)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Replica> _replicas = new(StringComparer.Ordinal);

    /// <summary>Keeps a snapshot's files here until the result is disposed; makes them first where they are not.</summary>
    /// <exception cref="RpcException">NOT_FOUND: there is no such snapshot. DATA_LOSS: it is damaged. UNAVAILABLE: it is out of reach.
    /// RESOURCE_EXHAUSTED: the disk is full.</exception>
    public async Task<(IDisposable Use, Snapshot Snapshot, SnapshotFolder Folder)> UseAsync(string name, CancellationToken cancellation)
    {
        Located located = await registry.LocateSnapshotAsync(name, null, cancellation);
        Snapshot snapshot = located.Snapshot!;
        Replica replica;
        lock (_lock)
        {
            if (!_replicas.TryGetValue(snapshot.Uid, out replica!) || replica.IsGone)
            {
                replica = new Replica(snapshot, new SnapshotFolder(Path.Combine(store.ReplicasDirectory, Guid.NewGuid().ToString())));
                _replicas[snapshot.Uid] = replica;
                // It goes on for others when this caller leaves.
                replica.Made = Task.Run(() => MakeAsync(replica, located));
            }

            replica.Users++;
        }

        var use = new Use(this, replica);
        try
        {
            await replica.Made;
            return (use, snapshot, replica.Folder);
        }
        catch
        {
            lock (_lock)
                replica.IsGone = true;
            use.Dispose();
            throw;
        }
    }

    /// <summary>Removes what is of snapshots that are not there any more.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: the registry does not answer.</exception>
    public async Task DropGoneAsync(CancellationToken cancellation)
    {
        Replica[] replicas;
        lock (_lock)
            replicas = [.. _replicas.Values];
        foreach (Replica replica in replicas)
        {
            if (await IsThereAsync(replica.Snapshot, cancellation))
                continue;
            lock (_lock)
            {
                replica.IsGone = true;
                replica.Users++;
            }

            Leave(replica);
        }
    }

    private async Task<bool> IsThereAsync(Snapshot snapshot, CancellationToken cancellation)
    {
        try
        {
            return (await registry.LocateSnapshotAsync(snapshot.Name, null, cancellation)).Snapshot!.Uid == snapshot.Uid;
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            return false;
        }
    }

    private async Task MakeAsync(Replica replica, Located located)
    {
        Snapshot snapshot = replica.Snapshot;
        using Activity? span = WorkerTraces.Source.StartActivity(WorkerTraces.SnapshotFetch);
        span?.SetTag("vmm.snapshot.name", snapshot.Name);
        try
        {
            (ISnapshotSource source, byte[] list) = await FindAsync(snapshot, located);
            await source.MaterializeAsync(snapshot, SnapshotContents.Parse(list, snapshot), replica.Folder);
        }
        catch (DamagedSnapshotException exception)
        {
            // What is being deleted may look damaged.
            throw await IsThereAsync(snapshot, CancellationToken.None)
                ? ApiError.DataLoss("SNAPSHOT_DAMAGED", $"The snapshot cannot be restored: {exception.Message}")
                : ApiError.NotFound(snapshot.Name);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The snapshot cannot be brought to this worker: {exception.Message}");
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.Unavailable or StatusCode.Cancelled or StatusCode.DeadlineExceeded)
        {
            throw Unreachable(located);
        }
    }

    private async Task<(ISnapshotSource Source, byte[] Content)> FindAsync(Snapshot snapshot, Located located)
    {
        if (snapshot.ContentSha256.Length == 0)
            throw ApiError.FailedPrecondition("SNAPSHOT_NOT_PORTABLE", "SNAPSHOT", snapshot.Name, $"{snapshot.Name} was taken by an earlier version, and can be restored on {located.Worker!.Name} only.");
        if (shared is not null && await shared.ReadContentAsync(snapshot, CancellationToken.None) is { } kept)
            return (shared, kept);
        if (located.IsLost)
            throw Unreachable(located);
        var peer = new PeerSnapshots(connector.Connect(located.Worker!));
        return (peer, await peer.ReadContentAsync(snapshot, CancellationToken.None) ?? throw ApiError.NotFound(snapshot.Name));
    }

    private static RpcException Unreachable(Located located) => ApiError.Unavailable("SNAPSHOT_UNREACHABLE", $"{located.Worker!.Name}, where the snapshot is, cannot be reached.");

    private void Leave(Replica replica)
    {
        lock (_lock)
        {
            if (--replica.Users > 0 || !replica.IsGone)
                return;
            if (_replicas.GetValueOrDefault(replica.Snapshot.Uid) == replica)
                _replicas.Remove(replica.Snapshot.Uid);
        }

        try
        {
            replica.Folder.Remove();
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            log.ReplicaNotRemoved(replica.Snapshot.Name, exception);
        }
    }

    private sealed class Replica(Snapshot snapshot, SnapshotFolder folder)
    {
        public Snapshot Snapshot { get; } = snapshot;

        public SnapshotFolder Folder { get; } = folder;

        /// <summary>Completes when the folder is complete.</summary>
        public Task Made { get; set; } = Task.CompletedTask;

        public int Users { get; set; }

        /// <summary>It goes with its last user: the snapshot is no more, or the folder could not be made.</summary>
        public bool IsGone { get; set; }
    }

    private sealed class Use(SnapshotReplicas replicas, Replica replica) : IDisposable
    {
        private int _left;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _left, 1) == 0)
                replicas.Leave(replica);
        }
    }
}
