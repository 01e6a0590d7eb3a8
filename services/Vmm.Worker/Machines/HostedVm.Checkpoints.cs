using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Machine.Snapshots;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;

namespace Vmm.Worker.Machines;

/// <content>
/// Checkpoints. Each is complete in the store before the VM's record names it, first in the journal and then in the registry; only when the
/// registry has it, the one before goes. So there is one for whoever takes the VM over, whenever that is.
/// </content>
internal sealed partial class HostedVm
{
    /// <summary>Goes on from the VM's last checkpoint, with its memory and its disks.</summary>
    /// <param name="folder">The checkpoint's files.</param>
    /// <param name="checkpoint">The checkpoint: the VM may have been started by somebody else meanwhile, and not have it any more.</param>
    /// <param name="scope">The request.</param>
    /// <exception cref="RpcException">ABORTED; or it cannot be restored.</exception>
    public Task<Vm> GoOnAsync(SnapshotFolder folder, Checkpoint checkpoint, RequestScope scope) => LockedAsync("", async () =>
    {
        if (_vm.Status.Checkpoint?.Uid != checkpoint.Uid)
            throw ApiError.Aborted("STATE_CHANGED", $"{_vm.Name} was started while its checkpoint was fetched.");
        VmStatus before = _vm.Status;
        VmState starting = Require(VmAction.Start);
        Show(NextVersion(vm => vm.Status.State = starting));
        return await BeginRunAsync(before, spec => Task.Run(() => RestoreCheckpoint(spec, folder)), VmAction.Started, static machine => machine.Resume(), scope, checkpoint);
    });

    private Vmm.Machine.IMachine RestoreCheckpoint(Vmm.Machine.MachineSpec spec, SnapshotFolder folder)
    {
        try
        {
            _host.Files.ReplaceDisks(folder, _vm.Uid, _vm.Spec);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The VM's disks cannot be made: {exception.Message}");
        }

        return RestoreMachine(spec, folder);
    }

    /// <summary>Saves the VM again and again as long as the run lasts, where its policy is to go on from that.</summary>
    private void KeepCheckpoints(MachineRun run)
    {
        if (_vm.Spec.RestartPolicy != RestartPolicy.FromLastCheckpoint)
            return;
        // For as long as the run lasts: no part of the trace of its start.
        using (ExecutionContext.SuppressFlow())
            _ = Task.Run(() => KeepCheckpointsAsync(run, _vm.Spec.CheckpointInterval.ToTimeSpan()));
    }

    private async Task KeepCheckpointsAsync(MachineRun run, TimeSpan interval)
    {
        while (true)
        {
            using var over = new CancellationTokenSource();
            await Task.WhenAny(Task.Delay(interval, _host.Time, over.Token), run.Ended);
            if (run.Ended.IsCompleted)
            {
                await over.CancelAsync();
                return;
            }

            await _host.Checkpoints.TurnAsync();
            try
            {
                await TakeCheckpointAsync(run);
            }
            catch (Exception exception) when (exception is RpcException or IOException or UnauthorizedAccessException)
            {
                // The VM goes on, and has the checkpoint before.
                if (run.Ended.IsCompleted)
                    continue;
                _host.Operations.NoteFailedCheckpoint();
                _host.Log.CheckpointFailed(_vm.Name, exception is RpcException refused ? refused.Status.Detail : exception.Message);
            }
            finally
            {
                _host.Checkpoints.EndTurn();
            }
        }
    }

    private async Task TakeCheckpointAsync(MachineRun run)
    {
        SnapshotFolder folder = _host.Checkpoints.NewFolder();
        try
        {
            Checkpoint? taken = await LockedAsync("", async () =>
            {
                if (!Runs(run))
                    return null;
                // RAM and disks may be large: not on a thread that serves calls.
                SnapshotInfo info = await Task.Run(() => WriteSnapshot(folder, run));
                return new Checkpoint { Uid = Guid.NewGuid().ToString(), CreateTime = Timestamp.FromDateTimeOffset(_host.Time.GetUtcNow()), InstructionsRetired = info.InstructionsRetired };
            });
            if (taken is null)
                return;
            // The VM goes on meanwhile.
            taken.ContentSha256 = await _host.Checkpoints.AddAsync(taken.Uid, _vm.Name, folder);
            Checkpoint? before = null;
            WorkerLease? lease = null;
            bool mayBeNamed = false;
            try
            {
                await LockedAsync("", async () =>
                {
                    if (!ReferenceEquals(_run, run) || _vm.Status.State == VmState.Stopped)
                        return false;
                    (before, lease, mayBeNamed) = (_vm.Status.Checkpoint, _host.Fleet.Lease(), true);
                    Vm next = _vm.Clone();
                    next.Status.Checkpoint = taken;
                    await CommitAsync(next, null);
                    Show(next);
                    return true;
                });
            }
            finally
            {
                // The run has ended meanwhile, or the VM is gone: no record will ever name it.
                if (!mayBeNamed)
                    await _host.Checkpoints.RemoveAsync(taken.Uid);
            }

            if (mayBeNamed)
                _host.Operations.NoteCheckpoint();
            await DropCheckpointAsync(before, lease);
        }
        finally
        {
            _host.Checkpoints.Remove(folder);
        }
    }

    private bool Runs(MachineRun run) => ReferenceEquals(_run, run) && _vm.Status.State == VmState.Running && run.Machine.End is null;

    /// <summary>Removes a checkpoint that the VM's record does not name any more, as soon as the registry knows that.</summary>
    /// <param name="checkpoint">The checkpoint; null for none.</param>
    /// <param name="lease">That which was held before the record changed. Under another, the registry may have another record.</param>
    private async Task DropCheckpointAsync(Checkpoint? checkpoint, WorkerLease? lease)
    {
        if (checkpoint is null || lease is null)
            return;
        try
        {
            await _host.Reports.FlushedAsync(_vm);
            if (_host.Fleet.Lease() == lease)
                await _host.Checkpoints.RemoveAsync(checkpoint.Uid);
        }
        catch (RpcException exception)
        {
            // It stays for whoever has the VM by the registry, or goes as one that nobody names.
            _host.Log.CheckpointKept(_vm.Name, exception.Status.Detail);
        }
    }
}
