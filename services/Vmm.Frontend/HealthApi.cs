using Grpc.Core;
using Grpc.Health.V1;
using Microsoft.Extensions.Hosting;
using Vmm.Protos;

namespace Vmm.Frontend;

/// <summary>The standard gRPC health check: serving until the server begins to shut down.</summary>
public sealed class HealthApi(IHostApplicationLifetime lifetime) : Health.HealthBase
{
    private static readonly string[] Services = ["", "vmm.v1.VmService", "vmm.v1.ImageService", "vmm.v1.SnapshotService", "vmm.v1.WorkerService", "vmm.v1.ProjectService", "vmm.v1.TokenService", "vmm.v1.AuditService"];

    /// <inheritdoc/>
    public override Task<HealthCheckResponse> Check(HealthCheckRequest request, ServerCallContext context) => Services.Contains(request.Service)
        ? Task.FromResult(Now())
        : throw ApiError.NotFound(request.Service);

    /// <inheritdoc/>
    public override async Task Watch(HealthCheckRequest request, IServerStreamWriter<HealthCheckResponse> responseStream, ServerCallContext context)
    {
        if (!Services.Contains(request.Service))
        {
            await responseStream.WriteAsync(new HealthCheckResponse { Status = HealthCheckResponse.Types.ServingStatus.ServiceUnknown });
            await Task.Delay(Timeout.Infinite, context.CancellationToken);
        }

        await responseStream.WriteAsync(Now());
        using var changed = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, lifetime.ApplicationStopping);
        await Task.Delay(Timeout.Infinite, changed.Token).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        context.CancellationToken.ThrowIfCancellationRequested();
        await responseStream.WriteAsync(Now());
    }

    private HealthCheckResponse Now() => new()
    {
        Status = lifetime.ApplicationStopping.IsCancellationRequested ? HealthCheckResponse.Types.ServingStatus.NotServing : HealthCheckResponse.Types.ServingStatus.Serving,
    };
}
