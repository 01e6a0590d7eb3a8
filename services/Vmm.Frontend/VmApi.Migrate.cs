using Grpc.Core;
using Vmm.Frontend.Validation;
using Vmm.V1;

namespace Vmm.Frontend;

/// <content>Moving VMs to other workers.</content>
public sealed partial class VmApi
{
    private const int MinMaxPauseNanos = 1_000_000;
    private static readonly TimeSpan MaxMaxPause = TimeSpan.FromMinutes(10);

    /// <inheritdoc/>
    public override async Task<MigrateVmResponse> MigrateVm(MigrateVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        if (request.Worker.Length > 0)
            violations.WorkerName(request.Worker, "worker");
        violations.Duration(request.MaxPause, MaxMaxPause, "max_pause");
        violations.Check(request.MaxPause is null or { Seconds: > 0 } or { Nanos: >= MinMaxPauseNanos }, "max_pause", "must be at least 1 ms.");
        return await ChangeAsync(nameof(MigrateVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.MigrateVmAsync(change, cancellationToken: token), violations);
    }
}
