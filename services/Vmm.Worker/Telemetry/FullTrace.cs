using System.Diagnostics;
using Vmm.Hypervisor.Tracing;
using Vmm.Machine;
using Vmm.Processor.Vmx;
using Vmm.Registry;
using Vmm.Worker.Machines;

namespace Vmm.Worker.Telemetry;

/// <summary>
/// A VM under full trace, until a moment that was said before: whatever the sampler thinks of its calls is recorded, and VM exits are events of
/// one span a second, of which none has more than <see cref="EventsPerSecond"/>. Ends by itself. Thread-safe.
/// </summary>
internal sealed class FullTrace : IDisposable
{
    /// <summary>VM exits that become events, at most; the others are counted.</summary>
    public const int EventsPerSecond = 100;

    private static readonly TimeSpan Slice = TimeSpan.FromSeconds(1);

    private readonly string _vm;
    private readonly TimeProvider _time;
    private readonly CancellationTokenSource _ending = new();
    private readonly Lock _lock = new();
    private readonly Activity _span;
    private IExitTrace? _exits;
    private long _until;

    private FullTrace(string vm, Activity span, TimeProvider time, TimeSpan duration)
    {
        _vm = vm;
        _span = span;
        _time = time;
        Prolong(duration);
    }

    /// <summary>When it ends.</summary>
    public DateTimeOffset EndTime { get; private set; }

    /// <summary>Whether it has.</summary>
    public bool IsOver => _ending.IsCancellationRequested;

    /// <summary>Begins one, as part of the present trace; null where nobody listens.</summary>
    public static FullTrace? Begin(string vm, TimeProvider time, TimeSpan duration)
    {
        Activity.Current.ForceRecording();
        if (WorkerTraces.Source.Begin(WorkerTraces.VmTrace, vm) is not { } span)
            return null;
        span.ForceRecording();
        var trace = new FullTrace(vm, span, time, duration);
        // It has a life of its own, though its spans are of the trace in which it was asked for.
        using (ExecutionContext.SuppressFlow())
            _ = Task.Run(trace.RunAsync);
        return trace;
    }

    /// <summary>It ends so much later than now, and not when it was to.</summary>
    public void Prolong(TimeSpan duration)
    {
        lock (_lock)
        {
            EndTime = _time.GetUtcNow() + duration;
            _until = _time.GetTimestamp() + (long)(duration.TotalSeconds * _time.TimestampFrequency);
        }
    }

    /// <summary>Follows the exits of a machine from now on, instead of those of the one before.</summary>
    public void Follow(IMachine machine)
    {
        if (IsOver)
            return;
        IExitTrace exits = machine.TraceExits(
            ExitTraceFilter.Everything with { Kinds = 1u << (int)ExitTraceKind.Exit | 1u << (int)ExitTraceKind.EntryFailure }, EventsPerSecond, static () => { });
        IExitTrace? before;
        lock (_lock)
            (before, _exits) = (_exits, exits);
        before?.Dispose();
        if (IsOver)
            Leave();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _ending.Cancel();
        Leave();
    }

    private async Task RunAsync()
    {
        try
        {
            while (!IsOver)
            {
                long left;
                lock (_lock)
                    left = _until - _time.GetTimestamp();
                if (left <= 0)
                    break;
                long begun = _time.GetTimestamp();
                DateTime start = DateTime.UtcNow;
                TimeSpan wait = TimeSpan.FromSeconds((double)left / _time.TimestampFrequency);
                await Task.Delay(wait < Slice ? wait : Slice, _time, _ending.Token);
                Tell(start, _time.GetElapsedTime(begun));
            }
        }
        catch (OperationCanceledException) when (IsOver)
        {
            // It was ended before its time, or the VM is gone.
        }
        finally
        {
            Dispose();
            _span.Finish();
        }
    }

    // A ring of so many records takes no more until it is read: what a guest does beyond costs it and us nothing but a count.
    private void Tell(DateTime start, TimeSpan length)
    {
        var records = new ExitTraceRecord[EventsPerSecond];
        int count;
        lock (_lock)
            count = _exits?.Read(records) ?? 0;
        if (count == 0)
            return;
        ulong lost = 0;
        foreach (ExitTraceRecord record in records.AsSpan(0, count))
            lost += record.LostBefore;
        using Activity? span = WorkerTraces.Source.StartActivity(WorkerTraces.VmExits, ActivityKind.Internal, _span.Context, startTime: start);
        if (span is null)
            return;
        span.ForceRecording();
        span.SetTag("vmm.vm.name", _vm).SetTag("vmm.exits.unrecorded", (long)lost).SetTag("vmm.seconds", length.TotalSeconds);
        foreach (ExitTraceRecord record in records.AsSpan(0, count))
            span.AddEvent(new ActivityEvent(
                record.Kind == ExitTraceKind.Exit ? "exit" : "entry.failure",
                tags: new ActivityTagsCollection
                {
                    ["vmm.vcpu"] = (int)record.Vcpu,
                    ["vmm.level"] = record.Level == 1 ? "l1" : "l2",
                    ["vmm.owner"] = record.Owner == ExitTraceOwner.L0 ? "l0" : "l1",
                    ["vmm.exit.reason"] = record.Reason == ExitTraceRecord.NoReason ? "none" : SnakeCase.Of(((ExitReason)(ushort)record.Reason).ToString()),
                    ["vmm.vcpu.instructions"] = (long)record.Instructions,
                }));
    }

    private void Leave()
    {
        IExitTrace? exits;
        lock (_lock)
            (exits, _exits) = (_exits, null);
        exits?.Dispose();
    }
}
