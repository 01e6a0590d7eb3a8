using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.Channels;

namespace Vmm.Worker.Fleet;

/// <summary>How a worker reaches the rest of its fleet.</summary>
internal sealed class FleetLinks(IRegistry registry, string worker)
{
    /// <summary><c>workers/{worker}</c>: this one.</summary>
    public string Worker => worker;

    /// <summary>The registry.</summary>
    public IRegistry Registry => registry;

    /// <summary>Calls other workers; null where there are none.</summary>
    public IWorkerConnector? Connector { get; set; }

    /// <summary>The lease that is held, or null.</summary>
    public Func<WorkerLease?> Lease { get; set; } = static () => null;

    /// <summary>The lease that is held.</summary>
    /// <exception cref="Grpc.Core.RpcException">UNAVAILABLE: none is.</exception>
    public WorkerLease RequireLease() => Lease() ?? throw ApiError.Unavailable("LEASE_LOST", "The worker does not hold its lease.");
}
