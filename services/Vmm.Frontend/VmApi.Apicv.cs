using Google.Protobuf;
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
        return await ChangeApicvAsync(
            nameof(SetApicvInhibit), request, request.Name, request.Wait, context, static (worker, change, token) => worker.SetApicvInhibitAsync(change, cancellationToken: token), violations);
    }

    /// <inheritdoc/>
    public override async Task<ApicvChange> ClearApicvInhibit(ClearApicvInhibitRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckReason(violations, request.Reason);
        violations.Change("", request.RequestId);
        return await ChangeApicvAsync(
            nameof(ClearApicvInhibit), request, request.Name, request.Wait, context, static (worker, change, token) => worker.ClearApicvInhibitAsync(change, cancellationToken: token), violations);
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
        var violations = new Violations();
        violations.VmName(request.Name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, request.Name);
        using var events = new ApicvEvents(fleet, request.Name, request.ResumeToken);
        while (await events.NextAsync(context.CancellationToken) is { } item)
            await responseStream.WriteAsync(item, context.CancellationToken);
    }

    // A request that was done, here or on a worker where the VM was before, is not done again; but it is waited for again.
    private async Task<ApicvChange> ChangeApicvAsync<TRequest>(
        string method,
        TRequest request,
        string name,
        bool wait,
        ServerCallContext context,
        Func<VmHostService.VmHostServiceClient, TRequest, CancellationToken, AsyncUnaryCall<ApicvChange>> call,
        Violations violations)
        where TRequest : IMessage
    {
        bool isDone = true;
        ApicvChange change = await ChangeAsync(
            method,
            request,
            name,
            "",
            context,
            (worker, asked, token) =>
            {
                isDone = false;
                return call(worker, asked, token);
            },
            violations);
        if (!isDone || !wait)
            return change;
        VmHostService.VmHostServiceClient waiter = await fleet.VmAsync(name, context.CancellationToken);
        return await waiter.WaitApicvAsync(new WaitApicvRequest { Name = name, Change = change }, cancellationToken: context.CancellationToken);
    }

    private static void CheckReason(Violations violations, ApicvInhibitReason reason)
    {
        if (!System.Enum.IsDefined(reason) || reason == ApicvInhibitReason.Unspecified)
            violations.Add("reason", $"is {(int)reason}; it must be BLOCKIRQ or HYPERV.");
        else if (reason > ApicvInhibitReason.Hyperv)
            violations.Add("reason", $"is {VmSpecRules.NameOf(reason)}, which follows from what the guest does; only BLOCKIRQ and HYPERV can be set and cleared.");
    }
}
