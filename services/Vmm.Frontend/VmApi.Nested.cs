using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.V1;

namespace Vmm.Frontend;

/// <content>The guest's own VMX operation.</content>
public sealed partial class VmApi
{
    private const int MaxVmcsFields = 256;

    /// <inheritdoc/>
    public override async Task<VcpuNested> GetVcpuNested(GetVcpuNestedRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        WorkerEndpoint worker = await FindAsync(violations, request.Name, context);
        return await worker.Client.GetVcpuNestedAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ReadVmcsResponse> ReadVmcs(ReadVmcsRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        violations.Check(
            System.Enum.IsDefined(request.Vmcs) && request.Vmcs != VmcsKind.Unspecified, "vmcs", $"is {(int)request.Vmcs}; it must be VMCS01, VMCS02 or VMCS12.");
        violations.Check(request.Fields.Count <= MaxVmcsFields, "fields", $"has {request.Fields.Count} entries; at most {MaxVmcsFields} are possible.");
        WorkerEndpoint worker = await FindAsync(violations, request.Name, context);
        return await worker.Client.ReadVmcsAsync(request, cancellationToken: context.CancellationToken);
    }
}
