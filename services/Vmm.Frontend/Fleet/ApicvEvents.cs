using Grpc.Core;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>The events of one VM's APICv, over all workers that it is on meanwhile: their history moves with it.</summary>
/// <param name="fleet">Finds the VM.</param>
/// <param name="name">The VM.</param>
/// <param name="token">Where the events go on; empty for the present.</param>
internal sealed class ApicvEvents(FleetRouter fleet, string name, string token) : IDisposable
{
    private readonly VmFollower _follower = new(fleet, name);
    private AsyncServerStreamingCall<ApicvEvent>? _call;
    private string _token = token;

    /// <summary>The next one; null where none will follow.</summary>
    public async Task<ApicvEvent?> NextAsync(CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                if (_call is null)
                {
                    VmHostService.VmHostServiceClient worker = await _follower.ConnectAsync(cancellation);
                    _call = worker.WatchApicv(new WatchApicvRequest { Name = name, ResumeToken = _token }, cancellationToken: cancellation);
                }

                if (!await _call.ResponseStream.MoveNext(cancellation))
                    return null;
                _follower.Arrived();
                _token = _call.ResponseStream.Current.ResumeToken;
                return _call.ResponseStream.Current;
            }
            catch (RpcException exception)
            {
                Dispose();
                if (!await _follower.HasMovedAsync(exception, cancellation))
                    throw;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _call?.Dispose();
        _call = null;
    }
}
