using System.Collections.Concurrent;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Storage;

namespace Vmm.Worker;

/// <content>A worker that gives its VMs away.</content>
public sealed partial class WorkerHost
{
    // Why VMs stayed when they were tried last.
    private readonly ConcurrentDictionary<string, DrainObstacle> _obstacles = new(StringComparer.Ordinal);

    /// <summary>
    /// Gives away, one by one, what other workers have room for: VMs move as they are. One that cannot move is stopped and booted elsewhere,
    /// where its policy says so and it loses nothing that it wrote. All others stay.
    /// </summary>
    internal async Task GiveAwayAsync(Func<IReadOnlyList<string>, Task<IReadOnlyList<string>>> give)
    {
        foreach (HostedVm hosted in _vms.Values)
        {
            if (Project(ParentOf(hosted.Name)).Find(hosted.Name) is not { } vm)
                continue;
            try
            {
                await MigrateAsync(new MigrateVmRequest { Name = hosted.Name }, RequestScope.None(_services.Time));
                continue;
            }
            catch (RpcException exception) when (exception.StatusCode != StatusCode.FailedPrecondition || vm.Spec.RestartPolicy != RestartPolicy.Restart || !vm.Spec.Disks.All(disk => disk.ReadOnly))
            {
                _services.Log.VmStays(hosted.Name, Name, exception.Status.Detail);
                _obstacles[hosted.Name] = new DrainObstacle { Reason = ApiError.ReasonOf(exception), Message = exception.Status.Detail };
                continue;
            }
            catch (RpcException exception)
            {
                _services.Log.VmBootedElsewhere(hosted.Name, exception.Status.Detail);
            }

            if (hosted.Interrupt("The worker gives its VMs away.", isFailure: false) is { } ended)
                await ended;
            if (await hosted.HandOverAsync(async () => (await give([hosted.Name])).Count > 0))
                _vms.TryRemove(new KeyValuePair<string, HostedVm>(hosted.Name, hosted));
        }
    }

    /// <summary>What is here still, and why what stays does.</summary>
    internal WorkerDrain Drain() => new()
    {
        Vms =
        {
            _vms.Values.Where(hosted => !hosted.HasMoved).OrderBy(hosted => hosted.Name, StringComparer.Ordinal).Select(hosted => new DrainedVm
            {
                Name = hosted.Name,
                Migration = hosted.Progress,
                Obstacle = _obstacles.GetValueOrDefault(hosted.Name),
            }),
        },
    };

    /// <summary>Nothing is to be given away: what once stayed is not to be told of the next time.</summary>
    internal void EndDrain() => _obstacles.Clear();
}
