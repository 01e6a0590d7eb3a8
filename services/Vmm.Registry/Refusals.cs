using Google.Protobuf;
using Vmm.Protos;
using Vmm.Registry.Placement;

namespace Vmm.Registry;

/// <summary>What registries refuse, in the same words whichever it is.</summary>
public static class Refusals
{
    /// <summary>In the metadata of NO_WORKER: what was in the way on most workers.</summary>
    public const string ObstacleKey = "obstacle";

    /// <summary>RESOURCE_EXHAUSTED: what was short on how many workers, and as violations what was short where.</summary>
    public static Exception NoWorker(IReadOnlyList<WorkerView> fleet, PlacementRequest request) =>
        ApiError.ResourceExhausted("NO_WORKER", Scheduler.Explain(fleet, request), Scheduler.ExplainEach(fleet, request), (ObstacleKey, Scheduler.MainObstacle(fleet, request)));

    /// <summary>FAILED_PRECONDITION: a worker's name comes with another state directory while VMs are in the one before.</summary>
    public static Exception WorkerHasVms(string worker) => ApiError.FailedPrecondition(
        "WORKER_HAS_VMS", "WORKER", worker, $"{worker} served from another state directory, which still has VMs; give this worker another name, or delete them.");

    /// <summary>UNAVAILABLE: a worker that was lost a moment ago is there.</summary>
    public static Exception WorkerReturned(string worker) => ApiError.Unavailable("WORKER_RETURNED", $"{worker} is back; repeat the request.");

    /// <summary>ABORTED: a resource has changed since.</summary>
    public static void RequireEtag(Vmm.V1.Snapshot snapshot, string etag)
    {
        if (etag.Length > 0 && etag != snapshot.Etag)
            throw ApiError.Aborted("ETAG_MISMATCH", $"{snapshot.Name} is not what the etag says any more.", ("etag", snapshot.Etag));
    }

    /// <summary>ABORTED: a move that cannot be committed any more.</summary>
    public static Exception MoveEnded(string vm) => ApiError.Aborted("MOVE_ENDED", $"The move of {vm} has ended without it.");

    /// <summary>FAILED_PRECONDITION: a VM is to go where it is.</summary>
    public static Exception AlreadyThere(string vm, string worker) => ApiError.FailedPrecondition("ALREADY_THERE", "WORKER", vm, $"{vm} is on {worker} already.");

    /// <summary>What became of a move, by where the VM is.</summary>
    public static MoveOutcome OutcomeOf(PlannedMove move, string? worker, long generation) =>
        worker == move.Source.Name && generation == move.Generation ? MoveOutcome.Stayed
        : worker == move.Target.Name && generation == move.Generation + 1 ? MoveOutcome.Moved
        : MoveOutcome.Elsewhere;

    /// <summary>OUT_OF_RANGE.</summary>
    public static Exception TokenExpired() =>
        ApiError.OutOfRange("RESUME_TOKEN_EXPIRED", "The changes after this resume token are not all kept any more; watch without a token.");

    /// <summary>What the end of an interrupted run says.</summary>
    public static string WorkerLost(string worker) => $"{worker} was lost while the VM was running.";

    /// <summary>Refuses a request whose id was used for another.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT.</exception>
    public static void RequireSame(RequestKey request, ByteString known)
    {
        if (!known.Equals(request.Fingerprint))
            throw ApiError.InvalidField("request_id", "was used for another request; take a new one.", "REQUEST_ID_REUSED");
    }

    /// <summary>Refuses a token's name that is taken, unless it is by the very same request.</summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS, or INVALID_ARGUMENT.</exception>
    public static void RequireRepetition(Worker.V1.StoredToken token, string presentId, ByteString presentFingerprint)
    {
        if (token.RequestId.Length == 0 || token.RequestId != presentId)
            throw ApiError.AlreadyExists(token.Token.Name);
        RequireSame(new RequestKey("", token.RequestId, token.Fingerprint), presentFingerprint);
    }

    /// <summary>Refuses a name that is taken, unless it is by the very same request.</summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS, or INVALID_ARGUMENT.</exception>
    public static void RequireRepetition(NewVm vm, RequestKey? present)
    {
        if (vm.Request is null || present is null || vm.Request.Id != present.Id)
            throw ApiError.AlreadyExists(vm.Name);
        RequireSame(vm.Request, present.Fingerprint);
    }
}
