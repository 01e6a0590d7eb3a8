using Grpc.Core;
using Vmm.V1;

namespace Vmm.Worker;

/// <content>The guest's own VMX operation.</content>
public sealed partial class WorkerApi
{
    /// <inheritdoc/>
    public override Task<VcpuNested> GetVcpuNested(GetVcpuNestedRequest request, ServerCallContext context) => host.Require(request.Name).GetVcpuNestedAsync(request.Vcpu);

    /// <inheritdoc/>
    public override Task<ReadVmcsResponse> ReadVmcs(ReadVmcsRequest request, ServerCallContext context) => host.Require(request.Name).ReadVmcsAsync(request);
}
