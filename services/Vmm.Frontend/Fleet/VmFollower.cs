using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>A VM that one stream follows from worker to worker.</summary>
internal sealed class VmFollower(FleetRouter fleet, string name)
{
    private const int MaxLooks = 300;
    private static readonly TimeSpan FirstWait = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan LongestWait = TimeSpan.FromMilliseconds(100);

    private Located? _at;
    private int _looks;

    /// <summary>
    /// The worker that the VM is on: the registry says so once, and again when the VM has moved, so that a stream goes on while the registry is away.
    /// </summary>
    /// <exception cref="RpcException">NOT_FOUND, or UNAVAILABLE where it has none that can be reached.</exception>
    public async Task<VmHostService.VmHostServiceClient> ConnectAsync(CancellationToken cancellation)
    {
        _at ??= await fleet.Registry.LocateVmAsync(name, null, cancellation);
        return fleet.ClientOf(name, _at);
    }

    /// <summary>Begins where another has connected.</summary>
    public void BeginWith(VmFollower other) => _at = other._at;

    /// <summary>The stream goes on where it is: later moves are followed with the same patience.</summary>
    public void Arrived() => _looks = 0;

    /// <summary>
    /// Whether a stream that was ended with UNAVAILABLE, or because the VM is not there, goes on at another worker, or at this one in a moment: the
    /// VM has moved, or is about to arrive. Returns when it is worth another try.
    /// </summary>
    public async Task<bool> HasMovedAsync(RpcException ended, CancellationToken cancellation)
    {
        if (ended.StatusCode is not (StatusCode.Unavailable or StatusCode.Cancelled or StatusCode.Internal or StatusCode.NotFound) || cancellation.IsCancellationRequested || _at is null)
            return false;
        if (++_looks > MaxLooks)
            return false;
        if (_looks > 1)
        {
            TimeSpan wait = FirstWait * (1 << Math.Min(_looks, 10));
            await Task.Delay(wait < LongestWait ? wait : LongestWait, fleet.Time, cancellation);
        }

        Located now = await fleet.Registry.LocateVmAsync(name, null, cancellation);
        if (now.Worker is null || now.IsLost)
            return false;
        // A worker that ended the stream of a VM which is still there has a reason of its own.
        bool hasMoved = now.Generation != _at.Generation || now.Worker != _at.Worker || ApiError.ReasonOf(ended) is "VM_MOVED" or "VM_MOVING" or "STALE_PLACEMENT";
        _at = hasMoved ? null : _at;
        return hasMoved;
    }
}
