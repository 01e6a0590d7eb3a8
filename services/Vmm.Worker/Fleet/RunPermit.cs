using Vmm.Protos;

namespace Vmm.Worker.Fleet;

/// <summary>Whether this worker may run VMs at the moment: while it holds its lease.</summary>
internal sealed class RunPermit
{
    private volatile bool _granted;

    /// <summary>Whether machines may run.</summary>
    public bool IsGranted => _granted;

    /// <summary>Machines may be started.</summary>
    public void Grant() => _granted = true;

    /// <summary>No machine is started from here on; those that run are to be stopped afterwards.</summary>
    public void Revoke()
    {
        _granted = false;
        // Whoever makes a run visible before it asks either sees this or is seen by who stops the runs.
        Interlocked.MemoryBarrier();
    }

    /// <summary>To be asked between making a run visible and letting its machine go.</summary>
    /// <exception cref="Grpc.Core.RpcException">UNAVAILABLE: the lease has ended.</exception>
    public void Require()
    {
        Interlocked.MemoryBarrier();
        if (!_granted)
            throw ApiError.Unavailable("LEASE_LOST", "The worker does not hold its lease, and may run no VM.");
    }
}
