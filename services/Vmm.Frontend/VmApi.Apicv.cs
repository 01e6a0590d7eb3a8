using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.V1;

namespace Vmm.Frontend;

/// <content>APICv.</content>
public sealed partial class VmApi
{
    /// <inheritdoc/>
    public override async Task<ApicvChange> SetApicvInhibit(SetApicvInhibitRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckReason(violations, request.Reason);
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, "", request.RequestId, context, violations);
        return await worker.Client.SetApicvInhibitAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ApicvChange> ClearApicvInhibit(ClearApicvInhibitRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckReason(violations, request.Reason);
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, "", request.RequestId, context, violations);
        return await worker.Client.ClearApicvInhibitAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Apicv> GetApicv(GetApicvRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindAsync(new Violations(), request.Name, context);
        return await worker.Client.GetApicvAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task WatchApicv(WatchApicvRequest request, IServerStreamWriter<ApicvEvent> responseStream, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindAsync(new Violations(), request.Name, context);
        using AsyncServerStreamingCall<ApicvEvent> call = worker.Client.WatchApicv(request, cancellationToken: context.CancellationToken);
        while (await call.ResponseStream.MoveNext(context.CancellationToken))
            await responseStream.WriteAsync(call.ResponseStream.Current, context.CancellationToken);
    }

    private static void CheckReason(Violations violations, ApicvInhibitReason reason)
    {
        if (!System.Enum.IsDefined(reason) || reason == ApicvInhibitReason.Unspecified)
            violations.Add("reason", $"is {(int)reason}; it must be BLOCKIRQ or HYPERV.");
        else if (reason > ApicvInhibitReason.Hyperv)
            violations.Add("reason", $"is {VmSpecRules.NameOf(reason)}, which follows from what the guest does; only BLOCKIRQ and HYPERV can be set and cleared.");
    }
}
