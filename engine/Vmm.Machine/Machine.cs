using Vmm.Devices.Board;
using Vmm.Devices.Storage;
using Vmm.Hypervisor;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Boot;
using Vmm.Machine.Lockstep;
using Vmm.Machine.Log;
using Vmm.Machine.Migration;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Machine.Time;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;
using Vmm.Processor.Translation;

namespace Vmm.Machine;

/// <summary>
/// A standard PC in this process: RAM, board, vCPUs and a clock, run by one thread at a time. This part builds it and
/// executes; what other threads may ask is in the other part.
/// </summary>
public sealed partial class Machine : IMachine, IRunnableMachine
{
    private readonly MachineSpec _spec;
    private readonly PhysicalMemory _memory;
    private readonly MachineClock _clock;
    private readonly VirtualMachine _vm;
    private readonly PcBoard _board;
    private readonly MachineInputs _inputs;
    private readonly MachineRunner _runner;
    private readonly ConsoleBuffer _console;
    private readonly IEntropySource _entropy;
    private readonly List<IDisk> _disks = [];
    private readonly TaskCompletionSource<MachineEnd> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly ReceiveConsole _receiveConsole;
    private MachineEnd? _pendingEnd;
    private volatile MachineEnd? _end;
    private volatile MachineRunState _runState = MachineRunState.Created;
    private BootState _boot = null!;
    private long[] _bootFileBytes = [];
    private bool _resetRequested;
    private bool _passConsole;
    private ulong _pauseAt = ulong.MaxValue;
    private TaskCompletionSource? _paused;
    private bool _disposing;
    private bool _disposed;

    /// <summary>Builds a machine, and loads its kernel or what was saved. The spec has been validated.</summary>
    /// <exception cref="InvalidMachineException">A boot file is not acceptable; nothing was kept.</exception>
    /// <exception cref="InvalidSnapshotException">The snapshot is of another machine; nothing was kept.</exception>
    /// <exception cref="InvalidStateException">The snapshot cannot be taken; nothing was kept.</exception>
    internal Machine(MachineSpec spec, TimeProvider time, ExecutionPool pool, TranslationOptions translation, ISavedMachine? snapshot = null)
    {
        _spec = spec;
        BootRequest request = BootLoader.Read(spec);
        if (snapshot != null)
            SnapshotFacts.Check(snapshot.Manifest, spec, request);
        _memory = snapshot?.TakeMemory() ?? new PhysicalMemory(spec.MemoryBytes);
        try
        {
            OpenDisks(spec);
            if (snapshot != null)
                SnapshotFacts.Check(snapshot.Manifest, _disks);
            _clock = new MachineClock(spec.Clock, time);
            _console = new ConsoleBuffer(bytes => ConsoleOutput?.Invoke(bytes));
            _inputs = new MachineInputs(logged: spec.Clock == ClockMode.Virtual);
            var memory = new GuestMemory(_memory);
            ApicBus apics = new();
            _entropy = EntropySources.For(spec);
            _board = new PcBoard(new PcBoardOptions
            {
                Clock = _clock,
                Interrupts = apics,
                Memory = memory,
                MemoryBytes = spec.MemoryBytes,
                Cpus = spec.Cpus,
                MaxCpus = spec.MaxCpus,
                PowerOff = () => RequestEnd(new(MachineEndReason.PowerOff, 0)),
                ResetRequested = RequestReset,
                InitRequested = RequestInit,
                FirmwareRom = FirmwareImage.Rom,
                DebugExit = value => RequestEnd(new(MachineEndReason.DebugExit, (int)(value << 1 | 1))),
                SerialOutput = [_console.Write],
                DebugConsoleOutput = _console.Write,
                VirtioConsoleOutput = _console.Write,
                Entropy = _entropy.Fill,
                Disks = [.. _disks.Select((disk, i) => new BoardDisk(disk, $"vmm-disk-{i}"))],
            });
            apics.ExternalInterrupts = _board.Pic;
            apics.EndOfInterruptListener = _board.IoApic;
            _vm = new VirtualMachine(new(_memory, _board.Bus, apics, _clock, _entropy, new ProcessorModel(spec.MaxCpus) { EnlightenedVmcs = spec.EnlightenedVmcs })
            {
                Vcpus = spec.Cpus,
                Apicv = spec.Apicv,
                VmxCapabilityMsrs = spec.VmxCapabilityMsrs,
                Translation = spec.Engine == ExecutionEngine.Interpreter ? null : translation with { Failed = failure => CompilationFailed?.Invoke(failure) },
            })
            {
                NestedEarlyCheck = spec.NestedEarlyCheck,
            };
            _vm.Apicv.Changed += change => ApicvChanged?.Invoke(change);
            _clock.Progress = _vm;
            memory.Package = _vm.Package;
            _receiveConsole = _board.Serial[0].Receive;
            _board.Serial[0].InputDrained += () => _passConsole = true;
            _runner = new MachineRunner(this, _vm, _clock, time, pool, spec.Share);
            if (snapshot != null)
                Load(snapshot.State, request);
            else
                Boot(request);
            if (spec.Engine == ExecutionEngine.Lockstep)
                _lockstep = new LockstepCheck(this, spec, time, translation, snapshot);
        }
        catch
        {
            _lockstep?.Dispose();
            _runner?.Dispose();
            _vm?.Dispose();
            CloseDisks();
            _memory.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public MachineRunState RunState => _runState;

    /// <inheritdoc/>
    public MachineEnd? End => _end;

    /// <inheritdoc/>
    public Task<MachineEnd> Completion => _completion.Task;

    /// <inheritdoc/>
    public event ConsoleOutput? ConsoleOutput;

    /// <inheritdoc/>
    public event Action? GuestReset;

    /// <inheritdoc/>
    public event Action<Exception>? CompilationFailed;

    /// <inheritdoc/>
    public event Action? ConsoleInputDrained;

    /// <inheritdoc/>
    public ulong InstructionsRetired => _runner.InstructionsRetired;

    /// <inheritdoc/>
    public TranslationStatistics? Translation => _vm.Package.Translation;

    /// <inheritdoc/>
    public MachineCounters Counters => MachineCounters.Of(_vm, _clock.TimersExpired, _clock.TimerLateness) with
    {
        Instructions = InstructionsRetired,
        ProcessorTime = TimeSpan.FromTicks((long)(_runner.ProcessorTime / 100)),
        ThrottledTime = TimeSpan.FromTicks((long)(_runner.ThrottledTime / 100)),
    };

    /// <inheritdoc/>
    public ProcessorShare Share
    {
        get => _runner.Share;
        set
        {
            ArgumentNullException.ThrowIfNull(value);
            if (value.Refusal is { } refusal)
                throw new ArgumentOutOfRangeException(nameof(value), $"{refusal}.");
            _runner.Share = value;
        }
    }

    /// <inheritdoc/>
    public ulong CountResidentMemory() => _memory.CountResident();

    bool IRunnableMachine.MayExecute => _runState == MachineRunState.Running;

    ulong IRunnableMachine.StopAt => Math.Min(_pauseAt, _lockstep?.NextCheck ?? ulong.MaxValue);

    (ulong Instructions, ulong Nanoseconds)? IRunnableMachine.NextReplay =>
        _inputs.NextReplayed is { } next ? (next.Instructions, next.Nanoseconds) : null;

    void IRunnableMachine.ServiceRequests()
    {
        while (_inputs.TryTake(out Action request))
            request();
        if (_disposed)
            return;
        if (_passConsole)
            PassConsole();
        if (_inputs.NextReplayed != null)
            ApplyReplayed();
        Settle();
        if (_lockstep != null && _runState == MachineRunState.Running && _runner.InstructionsRetired >= _lockstep.NextCheck)
            CheckLockstep();
        if (_runner.InstructionsRetired >= _pauseAt)
            PauseHere();
    }

    void IRunnableMachine.AfterSlice(VcpuOutcome outcome)
    {
        if (outcome == VcpuOutcome.TripleFault)
            RequestEnd(new(MachineEndReason.TripleFault, 126));
        foreach (MachineExitTrace trace in _traces)
            trace.Tell();
        NoteProgress(outcome);
        Settle();
    }

    void IRunnableMachine.Fail(Exception failure)
    {
        _pendingEnd = new(MachineEndReason.Failed, 125, $"{failure.GetType().Name}: {failure.Message}");
        Finish();
        // Those who wait for an answer get it, or the failure.
        while (_inputs.TryTake(out Action request))
            request();
    }

    // Acts on what the guest or a request has asked for, now that no vCPU executes.
    private void Settle()
    {
        if (_pendingEnd != null)
            Finish();
        else if (_resetRequested && _end == null)
            ResetNow();
        else
            _console.Flush();
    }

    private void RequestEnd(MachineEnd end)
    {
        if (_end != null)
            return;
        _pendingEnd ??= end;
        _vm.Running?.RequestExit();
    }

    private void RequestReset()
    {
        _resetRequested = true;
        _vm.Running?.RequestExit();
    }

    // The vCPU that executes takes it between two instructions, the others before their next.
    private void RequestInit()
    {
        foreach (Vcpu vcpu in _vm.Vcpus)
            vcpu.Request(VcpuRequest.Init);
    }

    private void Finish()
    {
        if (_end != null)
            return;
        _console.Flush();
        _clock.Hold();
        EndLockstep();
        _end = _pendingEnd;
        _runState = MachineRunState.Ended;
        _paused?.TrySetResult();
        _completion.TrySetResult(_end!);
    }

    private void ResetNow()
    {
        _resetRequested = false;
        _console.Flush();
        try
        {
            foreach (Vcpu vcpu in _vm.Vcpus)
                vcpu.PowerUp();
            Boot(BootLoader.Read(_spec));
        }
        catch (InvalidMachineException e)
        {
            RequestEnd(new(MachineEndReason.Failed, 125, $"The kernel could not be loaded again: {e.Message}"));
            Finish();
            return;
        }
        GuestReset?.Invoke();
    }

    private void Boot(BootRequest request)
    {
        BootImage image = Firmware.Boot(_board, _memory, request);
        // The loaders write to RAM as if nothing ran, so nothing that was decoded before may stay.
        _vm.Package.Code.Forget();
        BootProcessor.Enter(_vm.Vcpus[0], image.Processor);
        _boot = FirmwareFiles.StateOf(image, _board.Cpus);
        _bootFileBytes = SnapshotFacts.BootFileBytes(request);
    }

    private void OpenDisks(MachineSpec spec)
    {
        foreach (DiskSpec disk in spec.Disks)
        {
            try
            {
                var file = new RawFileDisk(disk.Path, disk.ReadOnly);
                _disks.Add(disk.ReadOnly ? file : new LoggedDisk(file));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
            {
                throw new InvalidMachineException(nameof(MachineSpec.Disks), $"'{disk.Path}' cannot be used as a disk: {e.Message}");
            }
        }
    }

    private void CloseDisks()
    {
        foreach (IDisk disk in _disks)
            disk.Dispose();
        _disks.Clear();
    }

    private void PassConsole()
    {
        _passConsole = false;
        bool drained = _inputs.PassConsole(_receiveConsole, out byte[]? taken);
        if (taken != null)
            _inputs.Note(_runner.InstructionsRetired, _clock.Nanoseconds, new(MachineInputKind.ConsoleInput, Data: taken));
        if (drained)
            ConsoleInputDrained?.Invoke();
    }
}
