using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;

namespace Vmm.Worker.Machines;

/// <content>How its runs begin and end.</content>
internal sealed partial class HostedVm
{
    /// <summary>Begins a run of a VM that is STARTING; where that fails, the VM is what it was before.</summary>
    /// <param name="before">What it was.</param>
    /// <param name="make">Makes the machine.</param>
    /// <param name="begun">What it is in the machine's beginning.</param>
    /// <param name="go">Lets the machine go.</param>
    /// <param name="scope">The request.</param>
    /// <param name="checkpoint">What the run goes on from; null where it does not.</param>
    private async Task<Vm> BeginRunAsync(
        VmStatus before, Func<MachineSpec, Task<IMachine>> make, VmAction begun, Action<IMachine> go, RequestScope scope, Checkpoint? checkpoint = null)
    {
        IDisposable? reservation = null;
        MachineRun? run = null;
        bool committed = false;
        WorkerLease? lease = _host.Fleet.Lease();
        try
        {
            MachineSpec spec = _host.Files.ToMachineSpec(_vm);
            reservation = _host.Capacity.Reserve(spec);
            run = new MachineRun(await make(spec), reservation, spec.MemoryBytes, Console, ApicvEvents, CompilerFailures, _host.Meter, _host.Time, _vm.Status.RunCount + 1);
            Vm running = NextVersion(vm =>
            {
                vm.Status.State = Require(begun);
                vm.Status.End = null;
                vm.Status.StartTime = Timestamp.FromDateTimeOffset(_host.Time.GetUtcNow());
                vm.Status.RunCount++;
                vm.Status.Cpus = run.Machine.VcpuCount;
                vm.Status.InstructionsRetired = 0;
                vm.Status.ResetCount = 0;
                vm.Status.CompiledCode = null;
                vm.Status.Counters = null;
                vm.Status.Checkpoint = checkpoint;
            });
            await CommitAsync(running, scope.Completed(running));
            committed = true;
            Volatile.Write(ref _run, run);
            _host.Permit.Require();
            Show(running);
            Begin(run, go);
            Console.RunBegan(run.Machine);
            run.Ending = EndRunAsync(run);
            KeepCheckpoints(run);
            if (checkpoint is null)
                _ = DropCheckpointAsync(before.Checkpoint, lease);
            return running;
        }
        catch
        {
            Volatile.Write(ref _run, null);
            run?.Dispose();
            reservation?.Dispose();
            Vm stopped = NextVersion(vm =>
            {
                vm.Status = before.Clone();
                vm.Status.State = Require(VmAction.End);
            });
            // A VM that was to begin with this run has not been seen, and will not be.
            if (_history.Find(_vm.Name) is null)
                _vm = stopped;
            else
                Show(stopped);
            if (committed)
                await CommitAsync(stopped, null);
            // Whoever stops the runs of a worker may have seen this one.
            run?.SetEnded(stopped);
            throw;
        }
    }

    private IMachine CreateMachine(MachineSpec spec)
    {
        using Activity? span = WorkerTraces.Source.Start(WorkerTraces.BootLoad, _vm.Name);
        try
        {
            return MakeMachine(spec, _host.Machines.Create);
        }
        catch (Exception exception) when (span.Fails(exception))
        {
            throw;
        }
    }

    private void Begin(MachineRun run, Action<IMachine> go)
    {
        run.FollowBoot(_vm.Name);
        run.LoadApicvDeferrals([]);
        _fullTrace?.Follow(run.Machine);
        // A machine takes its start on the thread that then executes it.
        using Activity? span = WorkerTraces.Source.Start(WorkerTraces.BootQueue, _vm.Name);
        go(run.Machine);
    }

    private IMachine MakeMachine(MachineSpec spec, Func<MachineSpec, TimeProvider, IMachine> make)
    {
        try
        {
            return make(spec, _host.Time);
        }
        catch (InvalidMachineException exception)
        {
            string field = SpecFiles.FieldOf(exception.Field);
            throw ApiError.FailedPrecondition("CANNOT_BOOT", "BOOT", field, $"{field}: {exception.Message}", ("vm", _vm.Name));
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw ApiError.FailedPrecondition("FILE_UNAVAILABLE", "FILE", _vm.Name, $"A file of the VM cannot be read: {exception.Message}");
        }
        catch (OutOfMemoryException)
        {
            throw ApiError.ResourceExhausted("OUT_OF_MEMORY", "memory", $"The host has no {spec.MemoryBytes >> 20} MiB for the VM.");
        }
    }

    private async Task EndRunAsync(MachineRun run)
    {
        MachineEnd end = await run.Machine.Completion;
        // The machine may complete the task on a thread of its own, or inside Stop: neither may find itself disposing the machine.
        await Task.Yield();
        await _gate.WaitAsync();
        try
        {
            // It goes on elsewhere: its end here is nobody's.
            if (!ReferenceEquals(Volatile.Read(ref _run), run))
                return;
            var ended = new VmEnd
            {
                Reason = run.IsInterrupted && end.Reason == MachineEndReason.Stopped && _vm.Status.State != VmState.Stopping ? VmEndReason.Interrupted : (VmEndReason)((int)end.Reason + 1),
                ExitCode = end.Reason switch
                {
                    MachineEndReason.Stopped => ExitCodeStopped,
                    MachineEndReason.Failed => ExitCodeFailed,
                    _ => end.ExitCode,
                },
                Detail = end.Detail.Length > 0 ? end.Detail : run.EndDetail,
                EndTime = Timestamp.FromDateTimeOffset(_host.Time.GetUtcNow()),
                Report = end.Report,
            };
            if (end.Reason == MachineEndReason.Failed)
                _host.Log.EngineFailed(_vm.Name, end.Detail);
            Vm stopped = NextVersion(vm =>
            {
                vm.Status.State = Require(VmAction.End);
                vm.Status.End = ended;
                run.AddCounters(vm.Status);
                vm.Status.MemoryBytes = 0;
                if (ended.Reason != VmEndReason.Interrupted)
                    vm.Status.Checkpoint = null;
            });
            WorkerLease? lease = _host.Fleet.Lease();
            Checkpoint? obsolete = stopped.Status.Checkpoint is null ? _vm.Status.Checkpoint : null;
            try
            {
                await CommitAsync(stopped, null);
            }
            catch (Grpc.Core.RpcException exception)
            {
                // The machine is gone whatever the disk says; after a restart the VM will be INTERRUPTED rather than this.
                _host.Log.EndNotRecorded(_vm.Name, exception);
            }

            Volatile.Write(ref _run, null);
            run.Dispose();
            Show(stopped);
            Console.RunEnded(ended);
            run.SetEnded(stopped);
            _ = DropCheckpointAsync(obsolete, lease);
        }
        finally
        {
            _gate.Release();
        }
    }
}
