using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <content>Watching VMs.</content>
public sealed partial class VmApi
{
    /// <inheritdoc/>
    public override async Task WatchVms(WatchVmsRequest request, IServerStreamWriter<VmEvent> responseStream, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        if (request.ApicvVm.Length > 0)
        {
            violations.VmName(request.ApicvVm, "apicv_vm");
            violations.Check(request.ApicvVm.StartsWith($"{parent}/", StringComparison.Ordinal), "apicv_vm", "must be a VM of the parent.");
        }

        violations.ThrowIfAny();
        var events = new WatchEvents(parent, request.Filter, request.ApicvVm);
        WatchPosition? after = request.ResumeToken.Length > 0 ? events.ParseToken(request.ResumeToken) : null;
        events.Begin(after ?? new WatchPosition());
        await authorizer.AuthorizeAsync(context, parent);
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, options.Closing);
        using var writing = new SemaphoreSlim(1, 1);
        // APICv is watched from before the VMs are, and its events are told from the SYNCED event on.
        var synced = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        if (after is not null)
            synced.SetResult();
        using ApicvEvents? apicv = request.ApicvVm.Length > 0 ? await BeginApicvAsync() : null;
        Task project = WatchProjectAsync();
        if (apicv is not null)
        {
            // A VM that is deleted has no more of its events; whatever else ends one watch ends the other.
            Task told = WatchApicvAsync(apicv);
            Task first = await Task.WhenAny(project, told);
            if (first != told || !told.IsCompletedSuccessfully)
            {
                await ending.CancelAsync();
                await Task.WhenAll(project, told).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
                await first;
            }
        }

        await project;

        async Task<ApicvEvents> BeginApicvAsync()
        {
            var begun = new ApicvEvents(fleet, request.ApicvVm, events.Position.ApicvToken);
            // The first event without a token says where the watch begins.
            if (events.Position.ApicvToken.Length == 0 && await begun.NextAsync(ending.Token) is { } synchronized)
                events.Begin(new WatchPosition { ApicvToken = synchronized.ResumeToken });
            return begun;
        }

        async Task WatchProjectAsync()
        {
            EventPosition position;
            if (after is null)
            {
                (IReadOnlyList<Vm> vms, position) = await fleet.Registry.SnapshotProjectAsync(parent, ending.Token);
                foreach (Vm vm in vms)
                    await WriteAsync(() => events.Present(vm));
                await WriteAsync(() => events.Synced(position));
                synced.TrySetResult();
            }
            else
            {
                position = new EventPosition(after.Epoch, (long)after.Sequence);
            }

            while (true)
            {
                foreach (VmEventRecord change in await fleet.Registry.EventsAfterAsync(parent, position, ending.Token))
                {
                    await WriteAsync(() => events.From(change));
                    position = change.Position;
                }
            }
        }

        async Task WatchApicvAsync(ApicvEvents begun)
        {
            await synced.Task.WaitAsync(ending.Token);
            while (await begun.NextAsync(ending.Token) is { } item)
                await WriteAsync(() => events.From(item));
        }

        // One at a time, so that each event's token is of the watch as it stands with it.
        async Task WriteAsync(Func<VmEvent?> next)
        {
            await writing.WaitAsync(ending.Token);
            try
            {
                if (next() is { } item)
                    await responseStream.WriteAsync(item, ending.Token);
            }
            finally
            {
                writing.Release();
            }
        }
    }
}
