using Vmm.Machine.Boot;
using Vmm.Machine.Snapshots;
using Vmm.Processor.SavedState;

namespace Vmm.Machine;

/// <content>Snapshots.</content>
public sealed partial class Machine
{
    /// <inheritdoc/>
    public SnapshotInfo SaveSnapshot(string directory)
    {
        ArgumentNullException.ThrowIfNull(directory);
        if (_runner.IsCurrentThread)
            throw new InvalidOperationException("A machine is not saved from one of its own callbacks.");
        return Invoke(() => Save(directory));
    }

    private SnapshotInfo Save(string directory) => WhileHeld(() =>
    {
        MachineState state = Capture();
        SnapshotManifest manifest = SnapshotFiles.Write(directory, Describe(state), state, _memory);
        return new SnapshotInfo(manifest.FormatVersion, manifest.InstructionsRetired, manifest.Nanoseconds, manifest.MemoryBytes, manifest.MemoryBytesStored);
    });

    private T WhileHeld<T>(Func<T> save)
    {
        // What the guest has done comes before: a reset, output that waits.
        Settle();
        if (_runState is not (MachineRunState.Running or MachineRunState.Paused))
            throw new InvalidOperationException($"The machine is {_runState}, so it cannot be saved.");
        bool running = _runState == MachineRunState.Running;
        _clock.Hold();
        try
        {
            return save();
        }
        finally
        {
            if (running)
                _clock.Release();
        }
    }

    /// <summary>Everything but RAM. On the machine's thread, between two instructions, or where it does not run.</summary>
    internal MachineState Capture() => new()
    {
        Nanoseconds = _clock.Nanoseconds,
        Scheduler = _runner.Save(),
        Inputs = _inputs.Save(_passConsole),
        Entropy = EntropySources.Save(_entropy),
        IsResetRequested = _resetRequested,
        Boot = _boot,
        Board = _board.Save(),
        VirtualMachine = _vm.Save(),
    };

    /// <summary>The manifest for a captured state.</summary>
    internal SnapshotManifest Describe(MachineState state) => SnapshotFacts.Of(_spec, _bootFileBytes, _disks, state);

    private void Load(MachineState state, BootRequest request)
    {
        _clock.Load(state.Nanoseconds);
        _inputs.Load(state.Inputs, _spec.MaxCpus);
        EntropySources.Load(_entropy, state.Entropy);
        _boot = state.Boot;
        _bootFileBytes = SnapshotFacts.BootFileBytes(request);
        Firmware.Publish(_board, _memory, request, state.Boot);
        _board.Load(state.Board);
        _vm.Load(state.VirtualMachine);
        InvalidStateException.ThrowUnless(_board.Cpus == _vm.Vcpus.Count, "Board.CpuHotplug.Cpus", "there is another number of vCPUs.");
        _runner.Load(state.Scheduler);
        _passConsole = state.Inputs.IsConsoleOffered;
        _resetRequested = state.IsResetRequested;
        _runState = MachineRunState.Paused;
    }
}
