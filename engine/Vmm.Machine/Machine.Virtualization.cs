using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Tracing;
using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Log;

namespace Vmm.Machine;

/// <content>What may be asked about L0.</content>
public sealed partial class Machine
{
    private readonly List<MachineExitTrace> _traces = [];

    /// <inheritdoc/>
    public event Action<ApicvEvent>? ApicvChanged;

    /// <inheritdoc/>
    public ApicvView SetApicvInhibit(ApicvInhibit reason) => ChangeApicv(MachineInputKind.ApicvInhibitSet, reason);

    /// <inheritdoc/>
    public ApicvView ClearApicvInhibit(ApicvInhibit reason) => ChangeApicv(MachineInputKind.ApicvInhibitCleared, reason);

    /// <inheritdoc/>
    public ApicvView GetApicv() => Invoke(() => VirtualizationView.Apicv(_vm));

    /// <inheritdoc/>
    public IExitTrace TraceExits(ExitTraceFilter filter, int capacity, Action available)
    {
        var trace = new MachineExitTrace(new ExitTraceRing(filter, capacity), available, EndTrace);
        return Invoke(() =>
        {
            _vm.StartTrace(trace.Ring);
            _traces.Add(trace);
            return trace;
        });
    }

    /// <inheritdoc/>
    public VcpuNestedView GetNested(int vcpu)
    {
        Vcpu target = _vm.Vcpus[CheckVcpu(vcpu)];
        return Invoke(() => VirtualizationView.Nested(target));
    }

    /// <inheritdoc/>
    public IReadOnlyList<VmcsFieldView>? ReadVmcs(int vcpu, VmcsOfVcpu which)
    {
        Vcpu target = _vm.Vcpus[CheckVcpu(vcpu)];
        return Invoke(() => VirtualizationView.Fields(target, which));
    }

    /// <inheritdoc/>
    public byte[] GetNestedState(int vcpu)
    {
        Vcpu target = _vm.Vcpus[CheckVcpu(vcpu)];
        return Invoke(() => LinuxNestedState.Take(target).ToArray());
    }

    /// <inheritdoc/>
    public string? SetNestedState(int vcpu, ReadOnlyMemory<byte> state)
    {
        CheckVcpu(vcpu);
        byte[] copy = state.ToArray();
        return Invoke(() =>
        {
            if (_runState is not (MachineRunState.Created or MachineRunState.Paused))
                throw new InvalidOperationException($"The machine is {_runState}; nested state can be set while it is held.");
            var input = new MachineInput(MachineInputKind.NestedState, vcpu, Data: copy);
            string? refusal = PutNestedState(input);
            // Only what has taken effect is an input.
            if (refusal == null)
                _inputs.Note(_runner.InstructionsRetired, _clock.Nanoseconds, input);
            return refusal;
        });
    }

    private string? PutNestedState(MachineInput input) =>
        input.Vcpu >= _vm.Vcpus.Count ? "There is no such vCPU."
        : NestedStateImage.TryParse(input.Data.Span, out NestedStateImage? image, out string? error) ? LinuxNestedState.Put(_vm.Vcpus[input.Vcpu], image) : error;

    private void PerformAddVcpu()
    {
        // A log that was not written by such a machine may ask for more than there is room for.
        if (_vm.Vcpus.Count >= _spec.MaxCpus)
            return;
        Vcpu vcpu = _vm.AddVcpu();
        // A kick that came before it was among the others has passed it by.
        vcpu.RequestExit();
        // As with a change of the inhibits: it may wait for long until it is entered.
        vcpu.SettleApicv();
        _board.AddCpu();
    }

    private void EndTrace(MachineExitTrace trace)
    {
        try
        {
            Invoke(() =>
            {
                _vm.StopTrace(trace.Ring);
                return _traces.Remove(trace);
            });
        }
        catch (ObjectDisposedException)
        {
            // The machine has gone, and every trace with it.
        }
    }

    private ApicvView ChangeApicv(MachineInputKind kind, ApicvInhibit reason)
    {
        if (!ApicvInhibits.IsChangeable(reason))
            throw new ArgumentException($"APICv inhibit {reason} is fixed at creation or follows from the guest.", nameof(reason));
        return Invoke(() =>
        {
            if (_end == null)
                Perform(new(kind, Inhibit: reason));
            return VirtualizationView.Apicv(_vm);
        });
    }

    private void PerformApicv(MachineInput input)
    {
        if (input.Kind == MachineInputKind.ApicvInhibitSet)
            _vm.Apicv.Set(input.Inhibit);
        else
            _vm.Apicv.Clear(input.Inhibit);
        // No vCPU need be entered for it: one that waits, or a machine that is held, would keep whoever asked waiting too.
        foreach (Vcpu vcpu in _vm.Vcpus)
            vcpu.SettleApicv();
    }
}
