using System.Security.Cryptography;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.V1;

namespace Vmm.Worker.Storage;

/// <summary>
/// What a worker keeps over its own death: VMs, images, snapshots and completed requests, in memory and in the journal. Messages that are
/// handed in or out are never changed afterwards. Thread-safe.
/// </summary>
internal sealed class WorkerStore : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, StoredVm> _vms = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Image> _images = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Snapshot> _snapshots = new(StringComparer.Ordinal);
    private readonly Dictionary<(string Parent, string Id), LinkedListNode<CompletedRequest>> _requests = [];
    private readonly LinkedList<CompletedRequest> _requestsByAge = new();
    private readonly WorkerOptions _options;
    private readonly TimeProvider _time;
    private readonly ReportQueue _reports;
    private readonly FileStream _exclusive;
    private readonly Journal _journal;

    private WorkerStore(WorkerOptions options, ReportQueue reports, TimeProvider time)
    {
        _options = options;
        _time = time;
        _reports = reports;
        foreach (string folder in (string[])[options.StateDirectory, ImagesDirectory, UploadsDirectory, VmsDirectory, SnapshotsDirectory, ReplicasDirectory])
            CreatePrivateDirectory(folder);
        try
        {
            _exclusive = new FileStream(Path.Combine(options.StateDirectory, "lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException exception)
        {
            throw new IOException($"{options.StateDirectory} is in use by another vmmd.", exception);
        }

        try
        {
            _journal = Journal.Open(Path.Combine(options.StateDirectory, "journal"), Apply, Snapshot);
            RemoveOrphans();
            Id = ReadId();
        }
        catch
        {
            _exclusive.Dispose();
            throw;
        }
    }

    /// <summary>Finished images: <c>{project}/{sha256}</c>.</summary>
    public string ImagesDirectory => Path.Combine(_options.StateDirectory, "images");

    /// <summary>Images on their way: <c>{project}.{sha256}</c>.</summary>
    public string UploadsDirectory => Path.Combine(_options.StateDirectory, "uploads");

    /// <summary>VMs' own disks: <c>{uid}/disk{n}</c>.</summary>
    public string VmsDirectory => Path.Combine(_options.StateDirectory, "vms");

    /// <summary>Snapshots: <c>{uid}/machine</c>, as the engine writes it, <c>{uid}/disk{n}</c> and <c>{uid}/content</c>.</summary>
    public string SnapshotsDirectory => Path.Combine(_options.StateDirectory, "snapshots");

    /// <summary>Copies of snapshots that other workers have taken; they do not outlive the process.</summary>
    public string ReplicasDirectory => Path.Combine(_options.StateDirectory, "replicas");

    /// <summary>Opens or creates a state directory.</summary>
    /// <exception cref="IOException">It cannot be used, or another worker uses it.</exception>
    /// <exception cref="DamagedJournalException">It holds acknowledged records that cannot be read.</exception>
    public static WorkerStore Open(WorkerOptions options, ReportQueue reports, TimeProvider time) => new(options, reports, time);

    /// <summary>Names this directory for good.</summary>
    public string Id { get; private set; } = "";

    /// <summary>Every VM.</summary>
    public List<StoredVm> Vms()
    {
        lock (_lock)
            return [.. _vms.Values];
    }

    /// <summary>The VM of that name, or null.</summary>
    public StoredVm? FindVm(string name)
    {
        lock (_lock)
            return _vms.GetValueOrDefault(name);
    }

    /// <summary>Every image.</summary>
    public List<Image> Images()
    {
        lock (_lock)
            return [.. _images.Values];
    }

    /// <summary>The image of that name, or null.</summary>
    public Image? FindImage(string name)
    {
        lock (_lock)
            return _images.GetValueOrDefault(name);
    }

    /// <summary>Every snapshot.</summary>
    public List<Snapshot> Snapshots()
    {
        lock (_lock)
            return [.. _snapshots.Values.OrderBy(snapshot => snapshot.Name, StringComparer.Ordinal)];
    }

    /// <summary>The snapshot of that name, or null.</summary>
    public Snapshot? FindSnapshot(string name)
    {
        lock (_lock)
            return _snapshots.GetValueOrDefault(name);
    }

    /// <summary>Every request that is remembered, the oldest first.</summary>
    public List<RequestReport> Requests()
    {
        lock (_lock)
            return [.. _requestsByAge.Where(request => !IsForgotten(request)).SelectMany(RequestLedger.ReportsOf)];
    }

    /// <summary>The request that was completed under that id, or null.</summary>
    public CompletedRequest? FindRequest(string parent, string id)
    {
        lock (_lock)
        {
            CompletedRequest? found = _requests.GetValueOrDefault((parent, id))?.Value;
            return found is null || IsForgotten(found) ? null : found;
        }
    }

    /// <summary>The file of a finished image.</summary>
    public string ImagePath(string imageName)
    {
        if (!ResourceName.TryParseImage(imageName, out string? parent, out string? sha256) || !ResourceName.TryParseProject(parent, out string? project))
            throw new ArgumentException($"{imageName} is not an image's name.", nameof(imageName));
        return Path.Combine(ImagesDirectory, project, sha256);
    }

    /// <summary>Makes a change last. What it changes shows here when the task completes.</summary>
    /// <exception cref="Grpc.Core.RpcException">UNAVAILABLE: the disk does not take it.</exception>
    public async Task CommitAsync(JournalRecord record)
    {
        if (record.Mutations.Count == 0 && record.Request is null)
            return;
        try
        {
            await _journal.AppendAsync(record, () => ApplyAndReport(record));
        }
        catch (IOException exception)
        {
            throw ApiError.Unavailable("STORAGE_FAILED", $"The server's state directory does not take changes: {exception.Message}");
        }
    }

    /// <summary>Creates a folder that only this user can look into, and makes it last.</summary>
    public static void CreatePrivateDirectory(string path)
    {
        if (Directory.Exists(path))
            return;
        if (OperatingSystem.IsWindows())
            Directory.CreateDirectory(path);
        else
            Directory.CreateDirectory(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } above)
            PosixFile.FlushDirectory(above);
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _journal.DisposeAsync();
        await _exclusive.DisposeAsync();
    }

    private void ApplyAndReport(JournalRecord record)
    {
        Apply(record);
        foreach (Mutation mutation in record.Mutations)
        {
            WorkerReport? report = mutation.MutationCase switch
            {
                Mutation.MutationOneofCase.PutImage => new ImageReport(mutation.PutImage),
                Mutation.MutationOneofCase.DeleteImage => new ImageDeletedReport(mutation.DeleteImage),
                Mutation.MutationOneofCase.PutSnapshot => new SnapshotReport(mutation.PutSnapshot),
                Mutation.MutationOneofCase.DeleteSnapshot => new SnapshotDeletedReport(mutation.DeleteSnapshot),
                // VMs are reported when they are shown, which is not always with a record.
                _ => null,
            };
            if (report is not null)
                _reports.Add([report, .. RequestLedger.ReportsOf(record.Request)]);
        }
    }

    private void Apply(JournalRecord record)
    {
        lock (_lock)
        {
            foreach (Mutation mutation in record.Mutations)
            {
                switch (mutation.MutationCase)
                {
                    case Mutation.MutationOneofCase.PutVm:
                        _vms[mutation.PutVm.Vm.Name] = mutation.PutVm;
                        break;
                    case Mutation.MutationOneofCase.DeleteVm:
                        _vms.Remove(mutation.DeleteVm);
                        break;
                    case Mutation.MutationOneofCase.DropVm:
                        _vms.Remove(mutation.DropVm);
                        ForgetRequestsOf(mutation.DropVm);
                        break;
                    case Mutation.MutationOneofCase.PutImage:
                        _images[mutation.PutImage.Name] = mutation.PutImage;
                        break;
                    case Mutation.MutationOneofCase.DeleteImage:
                        _images.Remove(mutation.DeleteImage);
                        break;
                    case Mutation.MutationOneofCase.PutSnapshot:
                        _snapshots[mutation.PutSnapshot.Name] = mutation.PutSnapshot;
                        break;
                    case Mutation.MutationOneofCase.DeleteSnapshot:
                        _snapshots.Remove(mutation.DeleteSnapshot);
                        break;
                    case Mutation.MutationOneofCase.PutRequest:
                        Remember(mutation.PutRequest);
                        break;
                }
            }

            if (record.Request is not null)
                Remember(record.Request);
        }
    }

    private string ReadId()
    {
        string path = Path.Combine(_options.StateDirectory, "id");
        if (!File.Exists(path))
        {
            File.WriteAllText($"{path}.new", Guid.NewGuid().ToString("n"));
            File.Move($"{path}.new", path, overwrite: true);
            PosixFile.FlushDirectory(_options.StateDirectory);
        }

        return File.ReadAllText(path);
    }

    private void Remember(CompletedRequest request)
    {
        if (_requests.Remove((request.Parent, request.RequestId), out LinkedListNode<CompletedRequest>? older))
            _requestsByAge.Remove(older);
        _requests[(request.Parent, request.RequestId)] = _requestsByAge.AddLast(request);
        while (_requestsByAge.First is { } first && (_requestsByAge.Count > _options.MaxRememberedRequests || IsForgotten(first.Value)))
        {
            _requestsByAge.RemoveFirst();
            _requests.Remove((first.Value.Parent, first.Value.RequestId));
        }
    }

    // Of those that the fleet knows of, the registry has the answers.
    private void ForgetRequestsOf(string vm)
    {
        for (LinkedListNode<CompletedRequest>? at = _requestsByAge.First; at is not null;)
        {
            LinkedListNode<CompletedRequest>? next = at.Next;
            if (at.Value.Vm == vm)
            {
                _requestsByAge.Remove(at);
                _requests.Remove((at.Value.Parent, at.Value.RequestId));
            }

            at = next;
        }
    }

    private bool IsForgotten(CompletedRequest request) => request.CompleteTime.ToDateTimeOffset() < _time.GetUtcNow() - _options.RememberRequests;

    private List<JournalRecord> Snapshot()
    {
        lock (_lock)
        {
            return
            [
                .. _vms.Values.Select(vm => new JournalRecord { Mutations = { new Mutation { PutVm = vm } } }),
                .. _images.Values.Select(image => new JournalRecord { Mutations = { new Mutation { PutImage = image } } }),
                .. _snapshots.Values.Select(snapshot => new JournalRecord { Mutations = { new Mutation { PutSnapshot = snapshot } } }),
                .. _requestsByAge.Select(request => new JournalRecord { Request = request }),
            ];
        }
    }

    /// <summary>Removes files whose change was never acknowledged, or whose removal was.</summary>
    private void RemoveOrphans()
    {
        RemoveFolders(VmsDirectory, [.. _vms.Values.Select(vm => vm.Vm.Uid)]);
        RemoveFolders(SnapshotsDirectory, [.. _snapshots.Values.Select(snapshot => snapshot.Uid)]);
        RemoveFolders(ReplicasDirectory, []);
        HashSet<string> images = [.. _images.Keys.Select(ImagePath)];
        foreach (string file in Directory.EnumerateFiles(ImagesDirectory, "*", SearchOption.AllDirectories))
            if (!images.Contains(file))
                File.Delete(file);
    }

    private static void RemoveFolders(string directory, HashSet<string> uids)
    {
        foreach (string folder in Directory.EnumerateDirectories(directory))
            if (!uids.Contains(Path.GetFileName(folder)))
                Directory.Delete(folder, recursive: true);
    }
}
