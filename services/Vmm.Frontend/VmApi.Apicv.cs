using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <content>APICv.</content>
public sealed partial class VmApi
{
    /// <inheritdoc/>
    public override async Task<ApicvChange> SetApicvInhibit(SetApicvInhibitRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckReason(violations, request.Reason);
        violations.Change("", request.RequestId);
        // The worker's ledger knows a repetition, and waits again where the request says so; the registry's answer would not.
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.SetApicvInhibitAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ApicvChange> ClearApicvInhibit(ClearApicvInhibitRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckReason(violations, request.Reason);
        violations.Change("", request.RequestId);
        // The worker's ledger knows a repetition, and waits again where the request says so; the registry's answer would not.
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.ClearApicvInhibitAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Apicv> GetApicv(GetApicvRequest request, ServerCallContext context)
    {
        VmHostService.VmHostServiceClient worker = await FindAsync(new Violations(), request.Name, context);
        return await worker.GetApicvAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task WatchApicv(WatchApicvRequest request, IServerStreamWriter<ApicvEvent> responseStream, ServerCallContext context)
    {
        VmHostService.VmHostServiceClient worker = await FindAsync(new Violations(), request.Name, context);
        using AsyncServerStreamingCall<ApicvEvent> call = worker.WatchApicv(request, cancellationToken: context.CancellationToken);
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
