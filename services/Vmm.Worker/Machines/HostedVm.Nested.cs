using Google.Protobuf;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Machines;

/// <content>The guest's own VMX operation.</content>
internal sealed partial class HostedVm
{
    private const int MaxTraces = 16;

    private int _traces;

    /// <summary>L1's VMX operation on a vCPU.</summary>
    public Task<VcpuNested> GetVcpuNestedAsync(int vcpu) =>
        InspectAsync(VmAction.Inspect, vcpu, machine => Task.FromResult(NestedMessages.From(machine.GetNested(vcpu))));

    /// <summary>Fields of a VMCS.</summary>
    public Task<ReadVmcsResponse> ReadVmcsAsync(ReadVmcsRequest request) => InspectAsync(VmAction.Inspect, request.Vcpu, machine =>
    {
        IReadOnlyList<VmcsFieldView> fields = machine.ReadVmcs(request.Vcpu, NestedMessages.ToVmcs(request.Vmcs)) ?? throw ApiError.FailedPrecondition(
            "NO_CURRENT_VMCS", "VMCS", _vm.Name, $"vCPU {request.Vcpu} has no current VMCS, so there is no {request.Vmcs.ToString().ToLowerInvariant()}.");
        return Task.FromResult(new ReadVmcsResponse { Vmcs = request.Vmcs, Fields = { NestedMessages.Select(fields, request.Fields) } });
    });

    /// <summary>Begins a trace of the present run.</summary>
    public Task<ExitTraceReader> TraceExitsAsync(TraceExitsRequest request) => InspectAsync(VmAction.Inspect, 0, machine =>
    {
        var filter = ExitTraceMessages.ToFilter(request, _vm.Status.Cpus);
        if (Interlocked.Increment(ref _traces) > MaxTraces)
        {
            Interlocked.Decrement(ref _traces);
            throw ApiError.ResourceExhausted("TOO_MANY_TRACES", _vm.Name, $"{_vm.Name} is being traced by {MaxTraces} others already.");
        }

        try
        {
            return Task.FromResult(new ExitTraceReader(_run!, filter, _host.Options.ExitTraceRecords, () => Interlocked.Decrement(ref _traces)));
        }
        catch
        {
            Interlocked.Decrement(ref _traces);
            throw;
        }
    });

    /// <summary>Nested state in the binary form of Linux.</summary>
    public Task<NestedState> GetNestedStateAsync(int vcpu) => InspectAsync(
        VmAction.Inspect, vcpu, machine => Task.FromResult(new NestedState { State = UnsafeByteOperations.UnsafeWrap(machine.GetNestedState(vcpu)) }));

    /// <summary>Puts such a state into a vCPU.</summary>
    public Task<SetNestedStateResponse> SetNestedStateAsync(SetNestedStateRequest request, RequestScope scope) => InspectAsync(VmAction.SetState, request.Vcpu, async machine =>
    {
        if (machine.SetNestedState(request.Vcpu, request.State.Memory) is { } refusal)
            throw ApiError.InvalidField("state", $"cannot be taken: {refusal}", "INVALID_NESTED_STATE");
        var response = new SetNestedStateResponse();
        await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(response) });
        return response;
    });
}
