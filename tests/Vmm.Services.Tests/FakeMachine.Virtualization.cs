using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Tracing;
using Vmm.Machine;

namespace Vmm.Services.Tests;

/// <content>An L0 that does what the test tells it.</content>
internal sealed partial class FakeMachine
{
    private readonly ulong[] _applied = new ulong[spec.MaxCpus];
    private readonly bool[] _guestMode = new bool[spec.MaxCpus];
    private ApicvInhibit _inhibits = spec.Apicv.Fixed;
    private ulong _generation;

    public event Action<ApicvEvent>? ApicvChanged;

    /// <summary>What is asked for, as "set BlockIrq".</summary>
    public List<string> ApicvChanges { get; } = [];

    public ApicvView SetApicvInhibit(ApicvInhibit reason) => ChangeApicv("set", _inhibits | reason, reason);

    public ApicvView ClearApicvInhibit(ApicvInhibit reason) => ChangeApicv("clear", _inhibits & ~reason, reason);

    public ApicvView GetApicv()
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        lock (_lock)
            return new ApicvView(_inhibits, Spec.Apicv.Policy, _generation, [.. Enumerable.Range(0, VcpuCount).Select(ViewOf)]);
    }

    public VcpuNestedView GetNested(int vcpu)
    {
        var exit = new ExitView(18, "VMCALL", 0, "", 0, 0, 0, 0, 0, 3);
        return new VcpuNestedView(vcpu, _guestMode[vcpu] ? 2 : 1, false, null, null, false, false, false, null, exit, 9);
    }

    public IReadOnlyList<VmcsFieldView>? ReadVmcs(int vcpu, VmcsOfVcpu which) => which != VmcsOfVcpu.Vmcs01 ? null :
    [
        new VmcsFieldView("Guest RIP", 0x681E, 64, 0x1000, []),
        new VmcsFieldView("Pin-based VM-execution controls", 0x4000, 32, 1, ["External-interrupt exiting"]),
    ];

    /// <summary>The traces that are under way.</summary>
    public List<FakeTrace> Traces { get; } = [];

    public IExitTrace TraceExits(ExitTraceFilter filter, int capacity, Action available)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        var trace = new FakeTrace(filter, available, gone =>
        {
            lock (_lock)
                Traces.Remove(gone);
        });
        lock (_lock)
            Traces.Add(trace);
        return trace;
    }

    /// <summary>The nested state of every vCPU.</summary>
    public byte[] NestedState { get; private set; } = [];

    public byte[] GetNestedState(int vcpu) => NestedState;

    public string? SetNestedState(int vcpu, ReadOnlyMemory<byte> state)
    {
        NestedState = state.ToArray();
        return null;
    }

    /// <summary>The guest of a vCPU enters L2.</summary>
    public void EnterL2(int vcpu)
    {
        lock (_lock)
            _guestMode[vcpu] = true;
    }

    /// <summary>The guest of a vCPU leaves L2, and what was deferred is done.</summary>
    public void LeaveL2(int vcpu)
    {
        lock (_lock)
        {
            _guestMode[vcpu] = false;
            Apply(vcpu);
        }
    }

    /// <summary>The guest makes an event of its own.</summary>
    public void RaiseApicv(ApicvEvent item) => ApicvChanged?.Invoke(item);

    private ApicvView ChangeApicv(string verb, ApicvInhibit after, ApicvInhibit reason)
    {
        Change(RunState);
        lock (_lock)
        {
            ApicvChanges.Add($"{verb} {reason}");
            ApicvInhibit changed = after ^ _inhibits;
            if (changed != 0)
            {
                _inhibits = after;
                _generation++;
                ApicvEventKind kind = verb == "set" ? ApicvEventKind.InhibitSet : ApicvEventKind.InhibitCleared;
                ApicvChanged?.Invoke(new ApicvEvent(kind, -1, changed, after, _generation, after == 0, InstructionsRetired));
                for (int vcpu = 0; vcpu < VcpuCount; vcpu++)
                {
                    if (_guestMode[vcpu])
                        ApicvChanged?.Invoke(new ApicvEvent(ApicvEventKind.UpdateDeferred, vcpu, 0, after, _generation, after != 0, 7));
                    else
                        Apply(vcpu);
                }
            }
        }

        return GetApicv();
    }

    private void Apply(int vcpu)
    {
        if (_applied[vcpu] == _generation)
            return;
        _applied[vcpu] = _generation;
        ApicvChanged?.Invoke(new ApicvEvent(ApicvEventKind.UpdateApplied, vcpu, 0, _inhibits, _generation, _inhibits == 0, 8));
    }

    private VcpuApicvView ViewOf(int vcpu) => new(
        vcpu,
        _inhibits == 0,
        _applied[vcpu] == _generation ? ApicvUpdateState.Applied : ApicvUpdateState.Deferred,
        _applied[vcpu],
        _guestMode[vcpu],
        "xapic",
        [new VmcsFieldView("Primary processor-based VM-execution controls", 0x4002, 32, 1u << 21, ["Use TPR shadow"])]);
}

/// <summary>A trace with the records that the test puts there.</summary>
internal sealed class FakeTrace(ExitTraceFilter filter, Action available, Action<FakeTrace> gone) : IExitTrace
{
    private readonly System.Collections.Concurrent.ConcurrentQueue<ExitTraceRecord> _records = new();

    public ExitTraceFilter Filter => filter;

    public ulong LostAtEnd { get; set; }

    public void Add(params ExitTraceRecord[] records)
    {
        foreach (ExitTraceRecord record in records)
            _records.Enqueue(record);
        available();
    }

    public int Read(Span<ExitTraceRecord> destination)
    {
        int count = 0;
        while (count < destination.Length && _records.TryDequeue(out ExitTraceRecord record))
            destination[count++] = record;
        return count;
    }

    public void Dispose() => gone(this);
}
