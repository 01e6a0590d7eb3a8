using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>A worker and the way to it.</summary>
/// <param name="Id">Its name in the fleet.</param>
/// <param name="Client">Calls it.</param>
public sealed record WorkerEndpoint(string Id, VmHostService.VmHostServiceClient Client);

/// <summary>Which workers there are and which of them has what. Thread-safe.</summary>
public interface IFleetRegistry
{
    /// <summary>Every worker that can be asked.</summary>
    IReadOnlyList<WorkerEndpoint> Workers { get; }

    /// <summary>Chooses a worker for a new VM. Asked again with the same name, it answers the same while that VM may exist.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED or UNAVAILABLE: no worker can take it.</exception>
    ValueTask<WorkerEndpoint> PlaceAsync(string vmName, VmSpec spec, CancellationToken cancellation);

    /// <summary>The worker that has a VM, or would have it.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND, or UNAVAILABLE where its worker cannot be reached.</exception>
    ValueTask<WorkerEndpoint> LocateAsync(string vmName, CancellationToken cancellation);

    /// <summary>The worker that has a snapshot, or would have it: a snapshot is restored where it is.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND, or UNAVAILABLE where its worker cannot be reached.</exception>
    ValueTask<WorkerEndpoint> LocateSnapshotAsync(string snapshotName, CancellationToken cancellation);

    /// <summary>The worker that has a project's images.</summary>
    ValueTask<WorkerEndpoint> LocateImagesAsync(string parent, CancellationToken cancellation);
}

/// <summary>The fleet of a <c>vmmd</c>: the one worker in its process, which has everything.</summary>
public sealed class InMemoryRegistry(WorkerEndpoint worker) : IFleetRegistry
{
    /// <inheritdoc/>
    public IReadOnlyList<WorkerEndpoint> Workers { get; } = [worker];

    /// <inheritdoc/>
    public ValueTask<WorkerEndpoint> PlaceAsync(string vmName, VmSpec spec, CancellationToken cancellation) => ValueTask.FromResult(worker);

    /// <inheritdoc/>
    public ValueTask<WorkerEndpoint> LocateAsync(string vmName, CancellationToken cancellation) => ValueTask.FromResult(worker);

    /// <inheritdoc/>
    public ValueTask<WorkerEndpoint> LocateSnapshotAsync(string snapshotName, CancellationToken cancellation) => ValueTask.FromResult(worker);

    /// <inheritdoc/>
    public ValueTask<WorkerEndpoint> LocateImagesAsync(string parent, CancellationToken cancellation) => ValueTask.FromResult(worker);
}
