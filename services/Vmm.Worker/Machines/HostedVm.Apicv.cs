using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;
using Vmm.Worker.Watching;

namespace Vmm.Worker.Machines;

/// <content>APICv.</content>
internal sealed partial class HostedVm
{
    /// <summary>What has happened to APICv, over all runs.</summary>
    public ApicvHistory ApicvEvents { get; }

    /// <summary>Sets or clears an inhibit.</summary>
    public Task<ApicvChange> ChangeApicvAsync(ApicvInhibitReason reason, bool set, RequestScope scope)
    {
        if (ApicvMessages.IsFixed(reason))
            throw ApiError.FailedPrecondition(
                "APICV_INHIBIT_FIXED", "APICV", _vm.Name, $"{reason.ToString().ToUpperInvariant()} is fixed when a VM is created, by its spec.", ("reason", reason.ToString().ToUpperInvariant()));
        return InspectAsync(VmAction.Inspect, 0, async machine =>
        {
            ApicvSpans.Request? spans = _run!.ApicvSpans.Begin(_vm.Name, SnakeCase.Of(ApicvMessages.ToInhibit(reason).ToString()), set, machine.VcpuCount);
            ApicvView view;
            try
            {
                view = set ? machine.SetApicvInhibit(ApicvMessages.ToInhibit(reason)) : machine.ClearApicvInhibit(ApicvMessages.ToInhibit(reason));
            }
            catch
            {
                _run.ApicvSpans.Fail(spans);
                throw;
            }

            _run.ApicvSpans.Done(spans, view);
            ApicvChange change = ApicvMessages.ToChange(view, view.Generation, _vm.Status.RunCount);
            await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(change) });
            return change;
        });
    }

    /// <summary>Waits until every vCPU has applied a change. The VM is free for other calls meanwhile.</summary>
    public async Task<ApicvChange> WaitForApicvAsync(ApicvChange change, CancellationToken cancellation)
    {
        while (true)
        {
            // Taken before looking, so that what happens right after is not slept through.
            Task changed = ApicvEvents.Changed;
            (ApicvView view, MachineRun run) = await InspectAsync(VmAction.Inspect, 0, machine => Task.FromResult((machine.GetApicv(), _run!)));
            if (_vm.Status.RunCount != change.Run)
                throw ApiError.FailedPrecondition("RUN_ENDED", "STATE", _vm.Name, "The run in which the inhibit was changed has ended.");
            if (ApicvMessages.IsApplied(view, change.Generation))
                return ApicvMessages.ToChange(view, change.Generation, change.Run);
            await Task.WhenAny(changed, run.Ended).WaitAsync(cancellation);
        }
    }

    /// <summary>APICv as it is.</summary>
    public Task<Apicv> GetApicvAsync() =>
        InspectAsync(VmAction.Inspect, 0, machine => Task.FromResult(ApicvMessages.From(machine.GetApicv(), _vm.Status.RunCount)));
}
