using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Machine;
using Vmm.Processor.Translation;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Consoles;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;
using Vmm.Worker.Watching;

namespace Vmm.Worker.Machines;

/// <summary>One machine from its making to its end.</summary>
internal sealed class MachineRun : IDisposable
{
    private readonly IDisposable _reservation;
    private readonly ulong _memoryBytes;
    private readonly ConsoleHub _console;
    private readonly ApicvHistory _apicv;
    private readonly EngineMeter _meter;
    private readonly ApicvDeferrals _deferrals;
    private readonly long _number;
    private readonly TaskCompletionSource<Vm> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();
    private long _resets;
    private Activity? _silent;
    private bool _disposed;
    private ulong _lastInstructions;
    private TranslationStatistics? _lastTranslation;
    private MachineCounters _lastCounters = new();

    public MachineRun(
        IMachine machine, IDisposable reservation, ulong memoryBytes, ConsoleHub console, ApicvHistory apicv, CompilerFailures failures, EngineMeter meter,
        TimeProvider time, long number, long resets = 0)
    {
        _resets = resets;
        Machine = machine;
        _meter = meter;
        _deferrals = new ApicvDeferrals(meter, time);
        _reservation = reservation;
        _memoryBytes = memoryBytes;
        _console = console;
        _apicv = apicv;
        _number = number;
        machine.ConsoleOutput += console.Write;
        machine.GuestReset += CountReset;
        machine.ApicvChanged += AddApicvEvent;
        failures.Watch(machine);
        meter.Add(this);
    }

    /// <summary>The machine; not to be used after <see cref="Dispose"/>.</summary>
    public IMachine Machine { get; }

    /// <summary>For how long the vCPU that has put a change of the inhibits off for longest has done so; zero where none has.</summary>
    public TimeSpan OldestApicvDeferral => _deferrals.Oldest;

    /// <summary>The changes of the inhibits that vCPUs have put off, for another worker.</summary>
    public IReadOnlyList<ApicvDeferral> SaveApicvDeferrals() => _deferrals.Save();

    /// <summary>Takes over those that the machine came with, before it runs.</summary>
    /// <param name="measured">As the worker before this one has measured them; the others begin now.</param>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: what it has measured cannot be.</exception>
    public void LoadApicvDeferrals(IEnumerable<ApicvDeferral> measured) => _deferrals.Load(Machine, measured);

    /// <summary>Requests that change the APICv inhibits, followed.</summary>
    public ApicvSpans ApicvSpans { get; } = new();

    /// <summary>The work of noticing the end.</summary>
    public Task? Ending { get; set; }

    /// <summary>Completes with the VM's stopped version when everybody can see it.</summary>
    public Task<Vm> Ended => _ended.Task;

    /// <summary>What to say of the end where the machine itself has nothing to say.</summary>
    public string EndDetail { get; set; } = "";

    /// <summary>The plug is pulled because of the worker and not because anybody wants the VM stopped.</summary>
    public bool IsInterrupted { get; set; }

    /// <summary>Completes <see cref="Ended"/>, the first time.</summary>
    public void SetEnded(Vm vm) => _ended.TrySetResult(vm);

    /// <summary>The run goes on elsewhere: who waits for its end hears that.</summary>
    public void SetMoved(Exception moved)
    {
        _ended.TrySetException(moved);
        // Nobody need be waiting.
        _ = _ended.Task.Exception;
    }

    /// <summary>Does something with the machine while it cannot be disposed of.</summary>
    /// <exception cref="InvalidOperationException">The run is over.</exception>
    public T Use<T>(Func<IMachine, T> use)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return use(Machine);
        }
    }

    /// <summary>Ends the machine at once; no effect where it has ended.</summary>
    public void PullPlug()
    {
        lock (_lock)
            if (!_disposed)
                Machine.Stop();
    }

    /// <summary>Fills in the counters of now, or the last ones.</summary>
    public void AddCounters(VmStatus status)
    {
        lock (_lock)
        {
            if (!_disposed)
                Count();
            status.InstructionsRetired = _lastInstructions;
            status.Counters = MessageOf(_lastCounters);
            status.CompiledCode = _lastTranslation is { } code ? MessageOf(code) : null;
        }

        status.ResetCount = Interlocked.Read(ref _resets);
        status.MemoryBytes = _memoryBytes;
    }

    /// <summary>What the machine has counted and holds just now; null where it has ended.</summary>
    public VmReading? Read()
    {
        lock (_lock)
            return _disposed ? null : new VmReading(Machine.Counters, Machine.CountResidentMemory());
    }

    private void Count()
    {
        _lastInstructions = Machine.InstructionsRetired;
        _lastCounters = Machine.Counters;
        _lastTranslation = Machine.Translation;
    }

    private static ExecutionCounters MessageOf(MachineCounters counters) => new()
    {
        Instructions = counters.Instructions,
        L2Instructions = counters.InstructionsOfL2,
        L1Exits = counters.CountExits(level: 1, owner: 0),
        L2Exits = counters.CountExits(level: 2, owner: 0),
        ReflectedExits = counters.CountExits(level: 2, owner: 1),
        NestedEntries = counters.NestedEntries,
        ApicvDeferrals = counters.ApicvDeferrals,
        ProcessorTime = Duration.FromTimeSpan(counters.ProcessorTime),
        ThrottledTime = Duration.FromTimeSpan(counters.ThrottledTime),
    };

    private static CompiledCode MessageOf(TranslationStatistics code) => new()
    {
        SizeBytes = code.Size,
        LimitBytes = code.Limit,
        RegionCount = code.Installed,
        DiscardedRegionCount = code.Discarded,
        InstructionCount = code.Instructions,
        CompileTime = Duration.FromTimeSpan(code.CompileTime),
        FailedRegionCount = code.Failed,
        LastFailure = code.LastFailure is { } failure ? CompilerFailures.TextOf(failure) : "",
    };

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
                return;
            Count();
            _disposed = true;
            Machine.ConsoleOutput -= _console.Write;
            Machine.GuestReset -= CountReset;
            Machine.ApicvChanged -= AddApicvEvent;
            ApicvSpans.Dispose();
            EndSilence("the run has ended");
            _meter.Remove(this, _lastCounters, _lastTranslation);
            Machine.Dispose();
        }

        _reservation.Dispose();
    }

    /// <summary>Follows how long the guest says nothing, as part of the trace of its start.</summary>
    public void FollowBoot(string vm)
    {
        _silent = WorkerTraces.Source.Begin(WorkerTraces.BootSilent, vm);
        if (_silent is not null)
            Machine.ConsoleOutput += EndSilence;
    }

    // On the machine's thread, with the first output.
    private void EndSilence(ReadOnlySpan<byte> output) => EndSilence("");

    private void EndSilence(string why)
    {
        if (Interlocked.Exchange(ref _silent, null) is not { } span)
            return;
        Machine.ConsoleOutput -= EndSilence;
        if (why.Length > 0)
            span.SetStatus(ActivityStatusCode.Error, why);
        span.SetTag("vmm.instructions", (long)Machine.InstructionsRetired);
        span.Finish();
    }

    private void AddApicvEvent(Hypervisor.Apicv.ApicvEvent item)
    {
        _deferrals.Note(item);
        ApicvSpans.Note(item);
        _apicv.Add(ApicvMessages.From(item, _number));
    }

    private void CountReset() => Interlocked.Increment(ref _resets);
}
