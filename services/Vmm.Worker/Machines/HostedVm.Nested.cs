using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Worker.Machines;

/// <content>The guest's own VMX operation.</content>
internal sealed partial class HostedVm
{
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
}
