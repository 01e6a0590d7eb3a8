using System.Collections.Concurrent;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
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
    /// Gives away, one by one, what other workers have room for: VMs move as they are. One that cannot move is stopped and booted elsewhere, where there is room,
    /// its policy says so and it loses nothing that it wrote. All others stay.
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
            catch (RpcException exception) when (exception.StatusCode == StatusCode.FailedPrecondition && vm.Spec.RestartPolicy == RestartPolicy.Restart && vm.Spec.Disks.All(disk => disk.ReadOnly))
            {
                if (await FindRoomAsync(hosted.Name) is { } refusal)
                {
                    Stays(hosted.Name, refusal);
                    continue;
                }

                _services.Log.VmBootedElsewhere(hosted.Name, exception.Status.Detail);
            }
            catch (RpcException exception)
            {
                Stays(hosted.Name, exception);
                continue;
            }

            if (hosted.Interrupt("The worker gives its VMs away.", isFailure: false) is { } ended)
                await ended;
            _ = await hosted.HandOverAsync(async () => (await give([hosted.Name])).Count > 0);
        }
    }

    /// <summary>Whether another worker has room for a VM; else what is in the way.</summary>
    /// <exception cref="LeaseLostException">The lease has ended.</exception>
    private async Task<RpcException?> FindRoomAsync(string vm)
    {
        try
        {
            // A plan reserves the room. It is given up at once: the VM gets its worker when it has been handed over, as others do whose worker is lost.
            PlannedMove plan = await Fleet.Registry.PlanMoveAsync(Fleet.RequireLease(), vm, null, _closing.Token);
            await Fleet.Registry.SettleMoveAsync(plan, _closing.Token);
            return null;
        }
        catch (RpcException refusal)
        {
            return refusal;
        }
    }

    private void Stays(string vm, RpcException why)
    {
        _services.Log.VmStays(vm, Name, why.Status.Detail);
        _obstacles[vm] = new DrainObstacle { Reason = ApiError.ReasonOf(why), Message = why.Status.Detail };
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
