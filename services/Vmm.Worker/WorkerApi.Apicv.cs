using Grpc.Core;
using Vmm.V1;
using Vmm.Worker.V1;
using Vmm.Worker.Watching;

namespace Vmm.Worker;

/// <content>APICv.</content>
public sealed partial class WorkerApi
{
    /// <inheritdoc/>
    public override async Task<ApicvChange> SetApicvInhibit(SetApicvInhibitRequest request, ServerCallContext context) => await WaitAsync(
        await ChangeAsync(request, nameof(SetApicvInhibit), request.Name, (vm, scope) => vm.ChangeApicvAsync(request.Reason, set: true, scope)),
        request.Name, request.Wait, context);

    /// <inheritdoc/>
    public override async Task<ApicvChange> ClearApicvInhibit(ClearApicvInhibitRequest request, ServerCallContext context) => await WaitAsync(
        await ChangeAsync(request, nameof(ClearApicvInhibit), request.Name, (vm, scope) => vm.ChangeApicvAsync(request.Reason, set: false, scope)),
        request.Name, request.Wait, context);

    /// <inheritdoc/>
    public override Task<ApicvChange> WaitApicv(WaitApicvRequest request, ServerCallContext context) => WaitAsync(Required(request.Change, "change"), request.Name, true, context);

    /// <inheritdoc/>
    public override Task<Apicv> GetApicv(GetApicvRequest request, ServerCallContext context) => host.Require(request.Name).GetApicvAsync();

    /// <inheritdoc/>
    public override async Task WatchApicv(WatchApicvRequest request, IServerStreamWriter<ApicvEvent> responseStream, ServerCallContext context)
    {
        ApicvHistory history = host.Require(request.Name).ApicvEvents;
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, host.Closing);
        ulong position;
        if (request.ResumeToken.Length > 0)
        {
            position = history.Parse(request.ResumeToken);
        }
        else
        {
            position = history.Position;
            await responseStream.WriteAsync(
                new ApicvEvent { Type = ApicvEvent.Types.Type.Synced, Vcpu = -1, ResumeToken = history.Token(position) }, context.CancellationToken);
        }

        while (true)
        {
            List<ApicvEvent> events;
            try
            {
                events = await history.AfterAsync(position, ending.Token);
            }
            catch (OperationCanceledException) when (!context.CancellationToken.IsCancellationRequested)
            {
                throw ShuttingDown();
            }

            if (events.Count == 0)
                return;
            foreach (ApicvEvent item in events)
                await responseStream.WriteAsync(item, context.CancellationToken);
            position += (ulong)events.Count;
        }
    }

    // The request is done with the change: a wait that is cut short leaves it made, and the same request waits again.
    private async Task<ApicvChange> WaitAsync(ApicvChange change, string name, bool wait, ServerCallContext context) =>
        wait ? await host.Require(name).WaitForApicvAsync(change, context.CancellationToken) : change;
}
