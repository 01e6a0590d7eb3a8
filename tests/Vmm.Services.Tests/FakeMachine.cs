using System.Collections.Concurrent;
using Vmm.Machine;
using Vmm.Machine.Migration;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Translation;

namespace Vmm.Services.Tests;

/// <summary>A machine that does what the test tells it.</summary>
internal sealed partial class FakeMachine(MachineSpec spec) : IMachine
{
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource<MachineEnd> _completion = new();
    private readonly byte[] _memory = new byte[64 << 10];
    private readonly List<byte> _input = [];
    private volatile int _state;

    public MachineSpec Spec { get; } = spec;

    public bool PowersOffOnButton { get; init; } = true;

    public int ButtonPresses { get; private set; }

    public int Resets { get; private set; }

    public List<int> Nmis { get; } = [];

    public bool Disposed { get; private set; }

    /// <summary>How many bytes of input fit until the test drains them.</summary>
    public int InputRoom { get; set; } = int.MaxValue;

    public MachineRunState RunState => (MachineRunState)_state;

    public MachineEnd? End => _completion.Task.IsCompleted ? _completion.Task.Result : null;

    public Task<MachineEnd> Completion => _completion.Task;

    public ulong InstructionsRetired { get; set; } = 42;

    public TranslationStatistics? Translation { get; set; }

    public MachineCounters Counters { get; set; } = new();

    public ProcessorShare Share { get; set; } = spec.Share;

    public ulong ResidentMemory { get; set; } = 4096;

    public ulong CountResidentMemory() => ResidentMemory;

    /// <summary>What it was doing when it was saved last.</summary>
    public MachineRunState? StateWhenSaved { get; private set; }

    /// <summary>Throws what a save is to fail with.</summary>
    public Action? SaveFailure { get; set; }

    /// <summary>What a save writes as its memory; null for no such file.</summary>
    public byte[]? SavedMemory { get; set; }

    /// <summary>Whether a snapshot has what <see cref="SaveState"/> has, to be restored.</summary>
    public bool SavesState { get; set; }

    /// <summary>Where it was restored from.</summary>
    public string? RestoredFrom { get; init; }

    public event ConsoleOutput? ConsoleOutput;

    public event Action? GuestReset;

    public event Action? ConsoleInputDrained;

    public event Action<Exception>? CompilationFailed;

    public string Input
    {
        get
        {
            lock (_lock)
                return System.Text.Encoding.Latin1.GetString([.. _input]);
        }
    }

    public void Print(string text) => ConsoleOutput?.Invoke(System.Text.Encoding.Latin1.GetBytes(text));

    public void Print(ReadOnlySpan<byte> bytes) => ConsoleOutput?.Invoke(bytes);

    /// <summary>Code could not be compiled.</summary>
    public void FailToCompile(Exception failure) => CompilationFailed?.Invoke(failure);

    /// <summary>The guest ends the run.</summary>
    public void Finish(MachineEndReason reason, int exitCode = 0, string detail = "", string report = "")
    {
        _state = (int)MachineRunState.Ended;
        _completion.TrySetResult(new MachineEnd(reason, exitCode, detail, report));
    }

    public void Drain(int room)
    {
        InputRoom = room;
        ConsoleInputDrained?.Invoke();
    }

    public void Start()
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        if (_state != (int)MachineRunState.Created)
            throw new InvalidOperationException("started twice");
        _state = (int)MachineRunState.Running;
    }

    public void Pause() => Change(MachineRunState.Paused);

    public void Resume() => Change(MachineRunState.Running);

    public void Reset()
    {
        Change(RunState);
        Resets++;
        GuestReset?.Invoke();
    }

    public void PressPowerButton()
    {
        Change(RunState);
        ButtonPresses++;
        if (PowersOffOnButton)
            Finish(MachineEndReason.PowerOff);
    }

    public void InjectNmi(int vcpu)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(vcpu, VcpuCount);
        Change(RunState);
        Nmis.Add(vcpu);
    }

    public int VcpuCount { get; private set; } = spec.Cpus;

    public int AddVcpu()
    {
        Change(RunState);
        if (VcpuCount >= Spec.MaxCpus)
            throw new InvalidOperationException("the machine is full");
        lock (_lock)
            _applied[VcpuCount] = _generation;
        return VcpuCount++;
    }

    public void Stop() => Finish(MachineEndReason.Stopped);

    public int WriteConsole(ReadOnlySpan<byte> bytes)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        lock (_lock)
        {
            int count = Math.Min(bytes.Length, InputRoom);
            _input.AddRange(bytes[..count]);
            InputRoom -= count;
            return count;
        }
    }

    public bool ReadMemory(MemoryAddressing addressing, int vcpu, ulong address, Span<byte> destination)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        if (address > (ulong)_memory.Length || (ulong)destination.Length > (ulong)_memory.Length - address)
            return false;
        _memory.AsSpan((int)address, destination.Length).CopyTo(destination);
        return true;
    }

    public bool WriteMemory(MemoryAddressing addressing, int vcpu, ulong address, ReadOnlySpan<byte> source)
    {
        if (address > (ulong)_memory.Length || (ulong)source.Length > (ulong)_memory.Length - address)
            return false;
        source.CopyTo(_memory.AsSpan((int)address));
        NoteWritten(address, source.Length);
        return true;
    }

    public SnapshotInfo SaveSnapshot(string directory)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        if (_state is not ((int)MachineRunState.Running or (int)MachineRunState.Paused))
            throw new InvalidOperationException("the machine does not run");
        StateWhenSaved = RunState;
        SaveFailure?.Invoke();
        if (SavedMemory is not null)
            File.WriteAllBytes(Path.Combine(directory, SnapshotFormat.MemoryFile), SavedMemory);
        File.WriteAllText(Path.Combine(directory, SnapshotFormat.ManifestFile), "{}");
        if (SavesState)
            File.WriteAllBytes(Path.Combine(directory, SnapshotFormat.StateFile), SaveState().State.Span);
        return new SnapshotInfo(SnapshotFormat.Version, InstructionsRetired, 0, Spec.MemoryBytes, 0);
    }

    public VcpuRegisters GetRegisters(int vcpu) => new()
    {
        Vcpu = vcpu,
        GeneralPurpose = [.. Enumerable.Range(0, 16).Select(i => (ulong)i)],
        Rip = 0xFFFF_FFFF_8100_0000,
        Rflags = 2,
        Control = new Dictionary<string, ulong> { ["CR0"] = 0x8005_0033, ["CR3"] = 0x1000 },
        Debug = new Dictionary<string, ulong> { ["DR7"] = 0x400 },
        Msrs = new Dictionary<string, ulong> { ["EFER"] = 0xD01 },
        Segments = [new SegmentRegister("CS", 0x10, 0, uint.MaxValue, 0xA09B)],
        Xmm = [.. Enumerable.Range(0, 16).Select(i => ((ulong)i, ulong.MaxValue))],
        Activity = "hlt",
        InstructionsRetired = 7,
    };

    public void Dispose() => Disposed = true;

    private void Change(MachineRunState state)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        if (_state == (int)MachineRunState.Ended)
            throw new InvalidOperationException("the machine has ended");
        _state = (int)state;
    }
}

/// <summary>Makes fake machines and keeps them for the test.</summary>
internal sealed class FakeFactory : IMachineFactory
{
    private readonly ConcurrentQueue<FakeMachine> _made = new();

    public bool PowersOffOnButton { get; set; } = true;

    public IReadOnlyList<FakeMachine> Made => [.. _made];

    public FakeMachine Last => Made[^1];

    public IMachine Create(MachineSpec spec, TimeProvider time)
    {
        string content = File.ReadAllText(spec.KernelPath);
        if (content.StartsWith("broken", StringComparison.Ordinal))
            throw new InvalidMachineException(nameof(MachineSpec.KernelPath), "The kernel is not a kernel.");
        if (content.StartsWith("bug", StringComparison.Ordinal))
            throw new NotSupportedException("a bug of the engine");
        var machine = new FakeMachine(spec) { PowersOffOnButton = PowersOffOnButton };
        _made.Enqueue(machine);
        return machine;
    }

    public ExecutionLoad Load => default;

    public IMachineReceiver Receive(MachineSpec spec, TimeProvider time) => new FakeReceiver(spec, this);

    /// <summary>Lets a test find a machine.</summary>
    public void Add(FakeMachine machine) => _made.Enqueue(machine);

    public IMachine Restore(MachineSpec spec, string directory, TimeProvider time)
    {
        if (!File.Exists(Path.Combine(directory, SnapshotFormat.ManifestFile)))
            throw new InvalidSnapshotException("There is no manifest.");
        var machine = new FakeMachine(spec) { PowersOffOnButton = PowersOffOnButton, RestoredFrom = directory, SavesState = File.Exists(Path.Combine(directory, SnapshotFormat.StateFile)) };
        if (machine.SavesState)
            machine.Load([], new SavedMachine("{}"u8.ToArray(), File.ReadAllBytes(Path.Combine(directory, SnapshotFormat.StateFile))));
        machine.Pause();
        _made.Enqueue(machine);
        return machine;
    }
}
