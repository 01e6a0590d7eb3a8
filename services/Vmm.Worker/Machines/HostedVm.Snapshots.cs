using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Machine;
using Vmm.Machine.Snapshots;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;

namespace Vmm.Worker.Machines;

/// <content>Snapshots.</content>
internal sealed partial class HostedVm
{
    private const int NanosecondsPerSecond = 1_000_000_000;

    /// <summary>Takes a snapshot; its name is reserved.</summary>
    public async Task<Snapshot> TakeSnapshotAsync(string name, RequestScope scope)
    {
        string uid = Guid.NewGuid().ToString();
        SnapshotFolder folder = _host.Snapshots.Folder(uid);
        bool pinned = false, kept = false;
        VmSpec spec = _vm.Spec;
        try
        {
            Snapshot snapshot = await LockedAsync("", async () =>
            {
                Require(VmAction.Snapshot);
                // RAM and disks may be large: not on a thread that serves calls.
                SnapshotInfo info = await Task.Run(() => WriteSnapshot(folder, _run!));
                // The VM has its images pinned, and cannot be deleted meanwhile.
                _host.Files.PinExisting(spec, name);
                pinned = true;
                return new Snapshot
                {
                    Name = name,
                    Uid = uid,
                    Vm = _vm.Name,
                    VmUid = _vm.Uid,
                    Spec = spec.Clone(),
                    CreateTime = Timestamp.FromDateTimeOffset(_host.Time.GetUtcNow()),
                    InstructionsRetired = info.InstructionsRetired,
                    GuestTime = new Duration { Seconds = (long)(info.Nanoseconds / NanosecondsPerSecond), Nanos = (int)(info.Nanoseconds % NanosecondsPerSecond) },
                    FormatVersion = info.FormatVersion,
                    Etag = uid[..8],
                };
            });
            // The VM goes on meanwhile.
            using (WorkerTraces.Source.Start(WorkerTraces.SnapshotDigest, _vm.Name))
                await Task.Run(() => _host.Snapshots.KeepAsync(snapshot));
            // Whether a record lasts that could not be written is unknown, so the files stay from here on: the next start knows.
            kept = true;
            await _host.Snapshots.CommitAsync(snapshot, scope.Completed(snapshot));
            return snapshot;
        }
        catch
        {
            if (pinned)
                _host.Files.UnpinAll(spec, name);
            if (!kept)
                await _host.Snapshots.RemoveAsync(uid);
            throw;
        }
    }

    /// <summary>Begins the first run of a new VM from a snapshot, and makes the VM last and shows it with that.</summary>
    public Task<Vm> RestoreAsync(SnapshotFolder folder, bool paused, RequestScope scope) => LockedAsync("", async () =>
    {
        VmStatus before = _vm.Status;
        VmState starting = Require(VmAction.Start);
        _vm = NextVersion(vm => vm.Status.State = starting);
        return await BeginRunAsync(
            before,
            spec => Task.Run(() => RestoreMachine(spec, folder)),
            paused ? VmAction.StartedPaused : VmAction.Started,
            machine =>
            {
                if (!paused)
                    machine.Resume();
            },
            scope);
    });

    private IMachine RestoreMachine(MachineSpec spec, SnapshotFolder folder)
    {
        using Activity? span = WorkerTraces.Source.Start(WorkerTraces.RestoreMachine, _vm.Name);
        try
        {
            return MakeMachine(spec, (made, time) => _host.Machines.Restore(made, folder.Machine, time));
        }
        catch (InvalidSnapshotException exception)
        {
            throw ApiError.DataLoss("SNAPSHOT_DAMAGED", $"The snapshot cannot be restored: {exception.Message}");
        }
    }

    /// <summary>Writes memory, devices and disks of one moment.</summary>
    private SnapshotInfo WriteSnapshot(SnapshotFolder folder, MachineRun run)
    {
        try
        {
            folder.Create();
            bool running = _vm.Status.State == VmState.Running;
            using Activity? pause = WorkerTraces.Source.Start(WorkerTraces.SnapshotPause, _vm.Name);
            // The engine holds the machine while it writes; the disks are to be of the same moment.
            if (running)
                OnMachine(run, machine => machine.Pause());
            SnapshotInfo info;
            try
            {
                using (WorkerTraces.Source.Start(WorkerTraces.SnapshotWrite, _vm.Name))
                    info = run.Machine.SaveSnapshot(folder.Machine);
                using (WorkerTraces.Source.Start(WorkerTraces.SnapshotDisks, _vm.Name))
                    _host.Files.CopyDisksTo(folder, _vm);
            }
            finally
            {
                if (running && run.Machine.End is null)
                    OnMachine(run, machine => machine.Resume());
            }

            return info;
        }
        catch (InvalidOperationException) when (run.Machine.End is not null)
        {
            throw EndedMeanwhile();
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The snapshot cannot be written: {exception.Message}");
        }
    }
}
