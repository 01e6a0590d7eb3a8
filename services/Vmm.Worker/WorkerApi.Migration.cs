using Grpc.Core;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <content>VMs that go to other workers, and that come from them.</content>
public sealed partial class WorkerApi
{
    /// <inheritdoc/>
    public override Task<MigrateVmResponse> MigrateVm(MigrateVmRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(ParentOf(request.Name), nameof(MigrateVm), request, scope => host.MigrateAsync(request, scope));

    /// <inheritdoc/>
    public override Task ReceiveVm(IAsyncStreamReader<ReceiveVmRequest> requestStream, IServerStreamWriter<ReceiveVmResponse> responseStream, ServerCallContext context) =>
        host.ReceiveAsync(requestStream, responseStream, context.CancellationToken);

    /// <inheritdoc/>
    public override Task<WorkerDrain> GetWorkerDrain(GetWorkerDrainRequest request, ServerCallContext context) => Task.FromResult(host.Drain());
}
