using Google.Protobuf;
using Microsoft.Extensions.Logging;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Snapshots;

/// <summary>
/// Snapshots of a worker: which there are, and who reads their files just now. A snapshot's folder is complete and flushed
/// before the record that names it, and so is its content where workers share a directory; what no record names is removed at the
/// worker's start. Thread-safe.
/// </summary>
internal sealed class SnapshotStore(WorkerStore store, SharedSnapshots? shared, SpecFiles files, WorkerOptions options, ILogger log)
{
    private readonly Lock _lock = new();
    private readonly HashSet<string> _names = [.. store.Snapshots().Select(snapshot => snapshot.Name)];
    private readonly Dictionary<string, int> _readers = new(StringComparer.Ordinal);

    /// <summary>Uids of snapshots that are being deleted, and whether that lasts already.</summary>
    private readonly Dictionary<string, bool> _deleting = new(StringComparer.Ordinal);

    /// <summary>The folder of the snapshot with this uid.</summary>
    public SnapshotFolder Folder(string uid) => new(Path.Combine(store.SnapshotsDirectory, uid));

    /// <summary>The snapshot of that name.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    public Snapshot Require(string name) => store.FindSnapshot(name) ?? throw ApiError.NotFound(name);

    /// <summary>Takes a name for a snapshot that is being made.</summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS or RESOURCE_EXHAUSTED.</exception>
    public void Reserve(string name)
    {
        lock (_lock)
        {
            if (_names.Contains(name))
                throw ApiError.AlreadyExists(name);
            if (_names.Count >= options.MaxSnapshots)
                throw ApiError.ResourceExhausted("TOO_MANY_SNAPSHOTS", "snapshots", $"This server keeps at most {options.MaxSnapshots} snapshots.");
            _names.Add(name);
        }
    }

    /// <summary>Takes <see cref="Reserve"/> back: nothing came of it.</summary>
    public void Release(string name)
    {
        lock (_lock)
            _names.Remove(name);
    }

    /// <summary>
    /// Finishes the folder of a snapshot, into which its machine and disks have been written, and fills in what the snapshot says of it. Then
    /// the content lasts, here and where workers share it.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED: the host's disk is full.</exception>
    public async Task KeepAsync(Snapshot snapshot)
    {
        try
        {
            SnapshotFolder folder = Folder(snapshot.Uid);
            SnapshotContent content = SnapshotContents.Of(folder, store.Id);
            byte[] list = content.ToByteArray();
            await File.WriteAllBytesAsync(folder.Content, list);
            snapshot.SizeBytes = folder.Flush();
            snapshot.ContentSha256 = SnapshotContents.DigestOf(list);
            if (shared is not null)
                await shared.AddAsync(snapshot.Uid, folder, content);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The snapshot cannot be written: {exception.Message}");
        }
    }

    /// <summary>Removes from where workers share snapshots what a process that died has left there.</summary>
    public async Task SweepAsync()
    {
        try
        {
            if (shared is not null)
                await shared.SweepAsync(store.Id, store.Snapshots().Select(snapshot => snapshot.Uid).ToHashSet(StringComparer.Ordinal));
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            log.SharedSnapshotsNotSwept(exception);
        }
    }

    /// <summary>Makes a snapshot last whose content does.</summary>
    public Task CommitAsync(Snapshot snapshot, CompletedRequest? completed) =>
        store.CommitAsync(new JournalRecord { Mutations = { new Mutation { PutSnapshot = snapshot } }, Request = completed });

    /// <summary>Keeps a snapshot's files until the result is disposed, whoever deletes it.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    public IDisposable Use(string name, out Snapshot snapshot)
    {
        lock (_lock)
        {
            snapshot = Require(name);
            if (_deleting.ContainsKey(snapshot.Uid))
                throw ApiError.NotFound(name);
            _readers[snapshot.Uid] = _readers.GetValueOrDefault(snapshot.Uid) + 1;
            return new Reader(this, snapshot.Uid);
        }
    }

    /// <summary>Deletes a snapshot. Its files go when nobody reads them any more.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND or ABORTED (etag).</exception>
    public async Task DeleteAsync(DeleteSnapshotRequest request, CompletedRequest? completed)
    {
        Snapshot snapshot;
        lock (_lock)
        {
            snapshot = Require(request.Name);
            Refusals.RequireEtag(snapshot, request.Etag);
            if (!_deleting.TryAdd(snapshot.Uid, false))
                throw ApiError.NotFound(snapshot.Name);
        }

        try
        {
            await store.CommitAsync(new JournalRecord { Mutations = { new Mutation { DeleteSnapshot = snapshot.Name } }, Request = completed });
        }
        catch
        {
            lock (_lock)
                _deleting.Remove(snapshot.Uid);
            throw;
        }

        bool unused;
        lock (_lock)
        {
            _names.Remove(snapshot.Name);
            _deleting[snapshot.Uid] = true;
            unused = !_readers.ContainsKey(snapshot.Uid);
        }

        files.UnpinAll(snapshot.Spec, snapshot.Name);
        if (unused)
            await RemoveAsync(snapshot.Uid);
    }

    /// <summary>Removes the files of a snapshot that no record names; the worker's next start tries again where that fails.</summary>
    public async Task RemoveAsync(string uid)
    {
        try
        {
            Folder(uid).Remove();
            if (shared is not null)
                await shared.RemoveAsync(uid);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            log.SnapshotFilesNotRemoved(uid, exception);
        }

        lock (_lock)
            _deleting.Remove(uid);
    }

    /// <summary>Removes what workers that are lost have left, where workers share it, of snapshots that are no more.</summary>
    public async Task RemoveSharedAsync(IReadOnlyList<string> uids)
    {
        if (shared is null)
            return;
        foreach (string uid in uids)
        {
            try
            {
                await shared.RemoveAsync(uid);
            }
            catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or DamagedSnapshotException)
            {
                // Told again with the next renewals of the lease, it tries again.
                log.SnapshotFilesNotRemoved(uid, exception);
            }
        }
    }

    private void Leave(string uid)
    {
        bool last;
        lock (_lock)
        {
            last = --_readers[uid] == 0;
            if (last)
                _readers.Remove(uid);
            last &= _deleting.GetValueOrDefault(uid);
        }

        // Nobody waits for it.
        if (last)
            _ = RemoveAsync(uid);
    }

    private sealed class Reader(SnapshotStore snapshots, string uid) : IDisposable
    {
        private int _left;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _left, 1) == 0)
                snapshots.Leave(uid);
        }
    }
}
