using Vmm.Protos;

namespace Vmm.Worker.Fleet;

/// <summary>Whether this worker may run VMs at the moment: while it holds its lease.</summary>
internal sealed class RunPermit
{
    private volatile bool _granted;
    private CancellationTokenSource _revoked = new();

    /// <summary>Whether machines may run.</summary>
    public bool IsGranted => _granted;

    /// <summary>Cancelled with the present permit: for what must not outlast it.</summary>
    public CancellationToken Revoked => Volatile.Read(ref _revoked).Token;

    /// <summary>Machines may be started.</summary>
    public void Grant()
    {
        if (_revoked.IsCancellationRequested)
            Volatile.Write(ref _revoked, new CancellationTokenSource());
        _granted = true;
    }

    /// <summary>No machine is started from here on; those that run are to be stopped afterwards.</summary>
    public void Revoke()
    {
        _granted = false;
        // Whoever makes a run visible before it asks either sees this or is seen by who stops the runs.
        Interlocked.MemoryBarrier();
        // What hears of it may take its time, and machines are to be stopped at once.
        _ = _revoked.CancelAsync();
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
