using Google.Protobuf;
using Vmm.V1;

namespace Vmm.Registry;

/// <summary>What a registry remembers and for how long.</summary>
public sealed record RegistryOptions
{
    /// <summary>How long a worker may run VMs after it renewed its lease, and for how long a front end's streams count after it did. A shorter one moves
    /// VMs away earlier from a worker that failed; a longer one lets workers live through a longer outage of the registry.</summary>
    public TimeSpan LeaseDuration { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Events per project that a watch can resume over.</summary>
    public int MaxEvents { get; init; } = 8192;

    /// <summary>Completed requests that are remembered, of all projects.</summary>
    public int MaxRequests { get; init; } = 20_000;

    /// <summary>How long completed requests are remembered.</summary>
    public TimeSpan RememberRequests { get; init; } = TimeSpan.FromDays(1);

    /// <summary>How long a placement waits for its VM to be made before it is taken back.</summary>
    public TimeSpan AbandonAfter { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>How long the audit log is kept.</summary>
    public TimeSpan KeepAudit { get; init; } = TimeSpan.FromDays(90);

    /// <summary>Entries of the audit log that a registry in memory keeps.</summary>
    public int MaxAuditEntries { get; init; } = 100_000;

    /// <summary>Whether VMs and images are taken into projects only that were created; otherwise a project comes to be with the first.</summary>
    public bool RequiresProjects { get; init; }

    /// <summary>
    /// A worker that registers may bring VMs that the registry does not know: for a registry that has no memory of its own and one
    /// worker, whose state directory is the truth.
    /// </summary>
    public bool AcceptsInventory { get; init; }
}

/// <summary>A worker that makes itself known.</summary>
public sealed record WorkerRegistration
{
    /// <summary><c>workers/{worker}</c>.</summary>
    public required string Name { get; init; }

    /// <summary>Names the state directory, for good.</summary>
    public required string Directory { get; init; }

    /// <summary>Where front ends reach it.</summary>
    public required string Address { get; init; }

    /// <summary>Of its program.</summary>
    public string Version { get; init; } = "";

    /// <summary>What placements select by.</summary>
    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    /// <summary>What it offers.</summary>
    public required WorkerResources Capacity { get; init; }

    /// <summary>Whether it has the directory that workers share, without which it takes no VM with checkpoints; null where it is to say so itself, when it is asked to make one.</summary>
    public bool? HasSnapshotStore { get; init; }

    /// <summary>What it can execute VMs with; all that its program knows, where nothing else is said.</summary>
    public IReadOnlyList<ExecutionEngine> Engines { get; init; } = [.. Enum.GetValues<ExecutionEngine>().Where(engine => engine != ExecutionEngine.Unspecified)];
}

/// <summary>What a worker has in its state directory.</summary>
/// <param name="Vms">As they are: none runs.</param>
/// <param name="Images">All of them.</param>
/// <param name="Snapshots">All of them.</param>
/// <param name="Requests">Requests that were done here and that are remembered, the oldest first: of the last ones the registry may not know. Those that
/// are about a VM count where the registry has that VM as the worker does, here or not at all; the others are undone with what they were done to.</param>
public sealed record WorkerInventory(IReadOnlyList<Vm> Vms, IReadOnlyList<Image> Images, IReadOnlyList<Snapshot> Snapshots, IReadOnlyList<RequestReport> Requests)
{
    /// <summary>Nothing.</summary>
    public static WorkerInventory Empty { get; } = new([], [], [], []);
}

/// <summary>A worker's right to run VMs.</summary>
/// <param name="Worker">Its name.</param>
/// <param name="Incarnation">Grows with every registration; says which of them the lease is of.</param>
/// <param name="Duration">From each renewal on, by the registry's clock.</param>
public sealed record WorkerLease(string Worker, long Incarnation, TimeSpan Duration);

/// <summary>What a worker begins with.</summary>
/// <param name="Lease">Its lease.</param>
/// <param name="Drop">VMs of its inventory that are not its any more.</param>
/// <param name="DropSnapshots">Snapshots of its inventory that were deleted while it was lost, by name.</param>
/// <param name="Instructions">What it is to do first.</param>
public sealed record WorkerSession(WorkerLease Lease, IReadOnlyList<string> Drop, IReadOnlyList<string> DropSnapshots, WorkerInstructions Instructions);

/// <summary>What a worker is to do.</summary>
/// <param name="State">READY, CORDONED or DRAINING.</param>
/// <param name="Adopt">VMs that were placed on it and that it has not reported yet, as they were elsewhere; those whose end is
/// INTERRUPTED are to be started.</param>
/// <param name="DeletedSnapshots">Uids of snapshots that were deleted within the last hour while their worker was lost: to be removed where workers share a
/// directory.</param>
public sealed record WorkerInstructions(WorkerState State, IReadOnlyList<Vm> Adopt, IReadOnlyList<string> DeletedSnapshots);

/// <summary>Something that happened on a worker.</summary>
public abstract record WorkerReport;

/// <summary>A VM is new or has changed.</summary>
public sealed record VmReport(Vm Vm) : WorkerReport;

/// <summary>A VM was deleted.</summary>
public sealed record VmDeletedReport(string Name) : WorkerReport;

/// <summary>An image is there.</summary>
public sealed record ImageReport(Image Image) : WorkerReport;

/// <summary>An image was deleted.</summary>
public sealed record ImageDeletedReport(string Name) : WorkerReport;

/// <summary>A snapshot is there.</summary>
public sealed record SnapshotReport(Snapshot Snapshot) : WorkerReport;

/// <summary>A snapshot was deleted.</summary>
public sealed record SnapshotDeletedReport(string Name) : WorkerReport;

/// <summary>A request was done; everything that it changed was reported before it.</summary>
/// <param name="Request">Which.</param>
/// <param name="Response">The answer, serialised.</param>
/// <param name="Vm">The VM that it made or changed: where that is another worker's, it is not done.</param>
public sealed record RequestReport(RequestKey Request, ByteString Response, string? Vm = null) : WorkerReport;

/// <summary>A request that a client may repeat.</summary>
/// <param name="Project"><c>projects/{project}</c>.</param>
/// <param name="Id">The client's id of it.</param>
/// <param name="Fingerprint">A digest of what it asks for: see <see cref="Protos.RequestFingerprint"/>.</param>
public sealed record RequestKey(string Project, string Id, ByteString Fingerprint);

/// <summary>A VM that is to be made.</summary>
public sealed record NewVm
{
    /// <summary><c>projects/{project}/vms/{vm}</c>.</summary>
    public required string Name { get; init; }

    /// <summary>What it is made from; complete.</summary>
    public required VmSpec Spec { get; init; }

    /// <summary>Its labels.</summary>
    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    /// <summary>The request, where the client may repeat it.</summary>
    public RequestKey? Request { get; init; }

    /// <summary>The snapshot that it is restored from: best by the worker that has it.</summary>
    public string? Snapshot { get; init; }
}

/// <summary>A worker and how to call it.</summary>
/// <param name="Name"><c>workers/{worker}</c>.</param>
/// <param name="Address">Where it listens.</param>
/// <param name="Incarnation">Which of its lives is meant.</param>
public sealed record WorkerAddress(string Name, string Address, long Incarnation);

/// <summary>Where a VM or snapshot is.</summary>
/// <param name="Worker">Null where it has none at the moment, because its worker was lost, and no other has said yet that it has taken it.</param>
/// <param name="Generation">Grows with every placement.</param>
/// <param name="Answer">The answer of the request that was asked about, serialised, where that is done already.</param>
/// <param name="IsLost">The worker's lease has ended.</param>
/// <param name="Snapshot">The snapshot, where one was asked for and is there.</param>
/// <param name="IsNew">The worker was chosen by this very call, and not by an earlier one with the same request id.</param>
public sealed record Located(WorkerAddress? Worker, long Generation, byte[]? Answer, bool IsLost = false, Snapshot? Snapshot = null, bool IsNew = false);

/// <summary>A VM that is to go from one worker to another.</summary>
/// <param name="Ticket">Names the move, and nothing else ever.</param>
/// <param name="Vm">The VM's name.</param>
/// <param name="Source">Where it is.</param>
/// <param name="Target">Where it goes.</param>
/// <param name="Generation">Of its placement on the source; on the target it is the next.</param>
public sealed record PlannedMove(string Ticket, string Vm, WorkerAddress Source, WorkerAddress Target, long Generation);

/// <summary>What became of a move.</summary>
public enum MoveOutcome
{
    /// <summary>The VM is its source's, as it was when the move was planned, and will not be moved by it.</summary>
    Stayed,

    /// <summary>The VM is its target's by this move.</summary>
    Moved,

    /// <summary>The VM is neither's by this move: it was placed elsewhere since, or deleted.</summary>
    Elsewhere,
}

/// <summary>A place in the history of a project.</summary>
/// <param name="Epoch">Which registry's history.</param>
/// <param name="Sequence">Events before it.</param>
public readonly record struct EventPosition(string Epoch, long Sequence);

/// <summary>One change of one VM.</summary>
/// <param name="Position">Where the history stands after it.</param>
/// <param name="Before">Null when the VM was created.</param>
/// <param name="After">Null when the VM was deleted.</param>
public sealed record VmEventRecord(EventPosition Position, Vm? Before, Vm? After);
