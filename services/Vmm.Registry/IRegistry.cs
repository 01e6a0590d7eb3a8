using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry;

/// <summary>
/// What the processes of a fleet share: workers and their leases, which VM is where, what was done under which request id, and the
/// history of it all. Every method is one transaction, together with the events it makes; time is the registry's own. Thread-safe.
/// <c>services/README.md</c> says what the registry is the truth for, and what the workers' journals are.
/// </summary>
/// <remarks>Every method may also throw an <see cref="Grpc.Core.RpcException"/> with UNAVAILABLE, reason REGISTRY_UNAVAILABLE: nothing
/// is known then about whether the change was made, and repeating it is safe.</remarks>
public interface IRegistry : IAccessRegistry, IAsyncDisposable
{
    /// <summary>
    /// A worker begins, or begins again after it lost its lease, and says what it has. It runs nothing until this returns.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS: another state directory serves under this name. FAILED_PRECONDITION,
    /// reason WORKER_HAS_VMS: one did, and VMs are still on it.</exception>
    Task<WorkerSession> RegisterWorkerAsync(WorkerRegistration registration, WorkerInventory inventory, CancellationToken cancellation);

    /// <summary>Renews the lease from now on, and tells what the worker is to do.</summary>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's.</exception>
    Task<WorkerInstructions> RenewLeaseAsync(WorkerLease lease, int runningVms, CancellationToken cancellation);

    /// <summary>
    /// Makes known what happened on a worker, in order: all of it or nothing. A VM that nobody knows is this worker's from then on: its
    /// placement was taken back, or lost, while it was made.
    /// </summary>
    /// <returns>VMs that are another worker's: what was said of them, and requests that are about them, was not taken, and the worker drops them.</returns>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's; nothing was taken.</exception>
    Task<IReadOnlyList<string>> ReportAsync(WorkerLease lease, IReadOnlyList<WorkerReport> reports, CancellationToken cancellation);

    /// <summary>Gives VMs that are stopped away, to be placed again by <see cref="FailOverAsync"/>.</summary>
    /// <returns>Those that were given away: the worker drops them.</returns>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's.</exception>
    Task<IReadOnlyList<string>> HandOverAsync(WorkerLease lease, IReadOnlyList<string> vms, CancellationToken cancellation);

    /// <summary>Ends a lease that its worker needs no more: all of its VMs are stopped.</summary>
    Task EndLeaseAsync(WorkerLease lease, CancellationToken cancellation);

    /// <summary>Every worker, ordered by name.</summary>
    Task<IReadOnlyList<V1.Worker>> ListWorkersAsync(CancellationToken cancellation);

    /// <summary>Says whether a worker takes VMs: READY, CORDONED or DRAINING. Returns it as it is then.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    Task<V1.Worker> SetWorkerStateAsync(string worker, WorkerState state, CancellationToken cancellation);

    /// <summary>
    /// Chooses a worker for a new VM and reserves there what it may take. Asked again with the same request id, it answers the same
    /// as long as that VM exists.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS; NOT_FOUND: there is no such snapshot; RESOURCE_EXHAUSTED, reason NO_WORKER, saying what was short where;
    /// INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task<Located> PlaceVmAsync(NewVm vm, CancellationToken cancellation);

    /// <summary>Takes back a placement whose VM was refused by its worker; no effect where there is a VM.</summary>
    Task AbandonVmAsync(string name, long generation, CancellationToken cancellation);

    /// <summary>Where a VM is, and the answer of a request where it is done already.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND; INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task<Located> LocateVmAsync(string name, RequestKey? request, CancellationToken cancellation);

    /// <summary>A snapshot and where it is, likewise.</summary>
    /// <exception cref="Grpc.Core.RpcException">As <see cref="LocateVmAsync"/>.</exception>
    Task<Located> LocateSnapshotAsync(string name, RequestKey? request, CancellationToken cancellation);

    /// <summary>
    /// Deletes a snapshot whose worker is lost. When that comes back it is told to remove what it has of it; workers that share a directory are told with their
    /// next renewals.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND; ABORTED, reason ETAG_MISMATCH; UNAVAILABLE, reason WORKER_RETURNED: its worker is there, and is to be asked;
    /// INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task DeleteLostSnapshotAsync(string name, string etag, RequestKey? request, CancellationToken cancellation);

    /// <summary>The workers that have an image, those that can be reached first; and the answer of a request where it is done.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task<(IReadOnlyList<WorkerAddress> Holders, byte[]? Answer)> LocateImageAsync(string name, RequestKey? request, CancellationToken cancellation);

    /// <summary>
    /// Takes a request's id for a request that consists of others, before the first of them is made: it is done as far as others of its id are concerned. Taken
    /// again by the same request, nothing changes.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task ClaimRequestAsync(RequestKey request, CancellationToken cancellation);

    /// <summary>A VM as it was when it last changed; counters are of then. <c>status.worker_condition</c> is LOST or REPLACING where it has no worker that can be asked.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    Task<Vm> FindVmAsync(string name, CancellationToken cancellation);

    /// <summary>Every VM of a project, likewise.</summary>
    Task<IReadOnlyList<Vm>> ListVmsAsync(string project, CancellationToken cancellation);

    /// <summary>Every image of a project, once.</summary>
    Task<IReadOnlyList<Image>> ListImagesAsync(string project, CancellationToken cancellation);

    /// <summary>Every snapshot of a project.</summary>
    Task<IReadOnlyList<Snapshot>> ListSnapshotsAsync(string project, CancellationToken cancellation);

    /// <summary>Every VM of a project together with the position in its history that this is of.</summary>
    Task<(IReadOnlyList<Vm> Vms, EventPosition Position)> SnapshotProjectAsync(string project, CancellationToken cancellation);

    /// <summary>The changes of a project's VMs after a position, at least one: waits where there is none.</summary>
    /// <exception cref="Grpc.Core.RpcException">OUT_OF_RANGE, reason RESUME_TOKEN_EXPIRED: not all of them are kept any more.</exception>
    Task<IReadOnlyList<VmEventRecord>> EventsAfterAsync(string project, EventPosition position, CancellationToken cancellation);

    /// <summary>
    /// Chooses where a VM goes from the worker that it is on, and reserves there what it may take. Changes nothing else: the VM goes with
    /// <see cref="CommitMoveAsync"/>. Takes the place of a move of the VM that was planned before.
    /// </summary>
    /// <param name="lease">Of the worker that it is on.</param>
    /// <param name="vm">Its name.</param>
    /// <param name="target"><c>workers/{worker}</c>; null for the one that suits best.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's.</exception>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND: the VM is not on that worker, or there is no such target. FAILED_PRECONDITION,
    /// reason ALREADY_THERE. RESOURCE_EXHAUSTED, reason NO_WORKER, saying what was short where.</exception>
    Task<PlannedMove> PlanMoveAsync(WorkerLease lease, string vm, string? target, CancellationToken cancellation);

    /// <summary>
    /// The move that was planned under a ticket to the worker that holds the lease, with the VM as its source reported it last; null
    /// where there is none, or none any more.
    /// </summary>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's.</exception>
    Task<(PlannedMove Move, Vm Vm)?> FindMoveAsync(WorkerLease lease, string ticket, CancellationToken cancellation);

    /// <summary>
    /// Moves the VM: from here on it is its target's, in the next generation, whatever becomes of its source. One transaction, with
    /// the event and the answer of the request.
    /// </summary>
    /// <param name="lease">Of the worker that it is on.</param>
    /// <param name="move">As it was planned.</param>
    /// <param name="vm">As it is on its target.</param>
    /// <param name="request">The request that asked for it, where it may be repeated.</param>
    /// <param name="cancellation">Gives up; whether it was moved is unknown then.</param>
    /// <exception cref="LeaseLostException">The lease has ended, or is another's; the VM was not moved.</exception>
    /// <exception cref="Grpc.Core.RpcException">ABORTED, reason MOVE_ENDED: it was settled, or one of the workers was lost; the VM was not
    /// moved. UNAVAILABLE: <see cref="SettleMoveAsync"/> tells.</exception>
    Task CommitMoveAsync(WorkerLease lease, PlannedMove move, Vm vm, RequestReport? request, CancellationToken cancellation);

    /// <summary>Ends a move: where it has not been committed, it cannot be any more. Either worker may ask, any number of times.</summary>
    /// <returns>Where the VM is.</returns>
    Task<MoveOutcome> SettleMoveAsync(PlannedMove move, CancellationToken cancellation);

    /// <summary>
    /// Takes the VMs that are booted elsewhere away from every worker whose lease has ended, and places what has no worker. Any number
    /// of front ends may call it at once: each VM is moved by one of them.
    /// </summary>
    /// <returns>What this call has done, and no other.</returns>
    Task<FailoverOutcome> FailOverAsync(CancellationToken cancellation);

    /// <summary>Counts VMs and workers, for those who watch the fleet: looks at every VM's row.</summary>
    Task<FleetCensus> CountAsync(CancellationToken cancellation);

    /// <summary>Forgets what need not be remembered: old events and requests, placements that no VM came of.</summary>
    Task PruneAsync(CancellationToken cancellation);
}

/// <summary>A worker's lease has ended or is another's: it may run no VM.</summary>
public sealed class LeaseLostException(string worker) : Exception($"{worker} does not hold its lease any more.")
{
    /// <summary>The worker's name.</summary>
    public string Worker { get; } = worker;
}
