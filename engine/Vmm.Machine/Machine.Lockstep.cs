using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Lockstep;
using Vmm.Machine.Log;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Machine;

/// <content>Lockstep: a machine is checked against another, or is that other, which runs as far as it is told and no farther.</content>
public sealed partial class Machine
{
    // A machine that has gone astray may fault for ever: after so many slices in a row that retired nothing it is held.
    private const int MostIdleSlices = 100_000;

    private readonly LockstepCheck? _lockstep;
    private ulong _waitLimit = ulong.MaxValue;
    private ulong _progress;
    private int _idleSlices;
    private bool _cutOff;

    /// <summary>RAM. While the machine stands.</summary>
    internal PhysicalMemory Memory => _memory;

    /// <summary>The processors. While the machine stands, or on its thread.</summary>
    internal ProcessorPackage Package => _vm.Package;

    /// <summary>What has come from outside so far. On the machine's thread, or while it does not run.</summary>
    internal IReadOnlyList<LoggedInput> LoggedInputs => _inputs.Log;

    /// <summary>
    /// Runs under the virtual clock until a number of instructions has been executed, the guest waits beyond a moment, or the machine ends;
    /// it stands then. From another thread than the machine's.
    /// </summary>
    /// <param name="instructions">As <see cref="InstructionsRetired"/> counts.</param>
    /// <param name="nanoseconds">The latest moment until which the guest may wait. Waits take none of the host's time.</param>
    /// <param name="inputs">What comes from outside meanwhile.</param>
    internal void RunTo(ulong instructions, ulong nanoseconds, IReadOnlyList<LoggedInput> inputs) => Invoke(() =>
    {
        _clock.IsPaced = false;
        _inputs.Replay(inputs);
        (_waitLimit, _idleSlices) = (nanoseconds, 0);
        Task there = PauseAt(instructions);
        if (_runState is MachineRunState.Created or MachineRunState.Paused)
        {
            _clock.Release();
            _runState = MachineRunState.Running;
        }
        return there;
    }).GetAwaiter().GetResult();

    /// <summary>Everything but RAM, and the pages that were written since the last time. From any thread.</summary>
    internal (MachineState State, ulong[] Pages) Observe() => Invoke(() => (Capture(), _vm.Package.TakeDirtyPages()));

    void IRunnableMachine.Waiting(ulong until)
    {
        if (until > _waitLimit)
            PauseHere();
    }

    private void NoteProgress(VcpuOutcome outcome)
    {
        _cutOff = outcome == VcpuOutcome.ExitRequested;
        if (_waitLimit == ulong.MaxValue)
            return;
        ulong retired = _runner.InstructionsRetired;
        _idleSlices = retired == _progress ? _idleSlices + 1 : 0;
        _progress = retired;
        if (_idleSlices >= MostIdleSlices)
            PauseHere();
    }

    private void CheckLockstep()
    {
        // A slice that was cut off from outside, at this very instruction, has left undone what L0 does behind one: the other has done it.
        if (_cutOff)
        {
            _lockstep!.Postpone();
            return;
        }
        if (_lockstep!.Check(null) is not { } failure)
            return;
        _pendingEnd = failure;
        Finish();
    }

    // The last check, of how the guest has brought its end about. A stop from outside cuts off whatever L0 was at: nothing can be compared.
    private void EndLockstep()
    {
        if (_lockstep == null)
            return;
        if (_pendingEnd!.Reason is not (MachineEndReason.Failed or MachineEndReason.Stopped))
            _pendingEnd = _lockstep.Check(_pendingEnd) ?? _pendingEnd;
        _lockstep.Dispose();
    }

    private void RefuseInLockstep()
    {
        if (_lockstep != null)
            throw new InvalidOperationException("A machine in lockstep needs the log of written pages itself.");
    }
}
