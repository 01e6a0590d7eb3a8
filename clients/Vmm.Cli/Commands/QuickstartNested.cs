using System.Diagnostics;
using System.Globalization;
using System.Text;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.V1;
using Type = Vmm.V1.ApicvEvent.Types.Type;

namespace Vmm.Cli.Commands;

/// <summary>
/// The end of the quickstart: while the guest's own guest (L2) executes, an APICv inhibit is set and cleared by RPC. Each change is
/// deferred, and applied when L2 is left to L1.
/// </summary>
internal sealed class QuickstartNested(VmService.VmServiceClient vms, string vm)
{
    private const ApicvInhibitReason Reason = ApicvInhibitReason.Blockirq;

    // L1 takes its timer interrupts in between: a change may come while it does, and then there is nothing to defer; or just when one is
    // due, and then L2 is left at once. One of the first that waited for L2 to execute on is shown, or else one that was deferred at all.
    private const int Attempts = 20;

    private readonly List<Change> _changes = [];

    private sealed record Change(string Verb, ApicvEvent Deferred, ApicvEvent Applied, TimeSpan Latency)
    {
        public ulong Instructions => Applied.Instructions - Deferred.Instructions;
    }

    /// <summary>Sets and clears the inhibit until both came while L2 was active.</summary>
    /// <param name="say">Told of what happens.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <returns>Whether both were deferred, and applied.</returns>
    public async Task<bool> RunAsync(Action<string> say, CancellationToken cancellation)
    {
        using var watch = vms.WatchApicv(new WatchApicvRequest { Name = vm }, cancellationToken: cancellation);
        // SYNCED: what happens before that the watch does not tell.
        if (!await watch.ResponseStream.MoveNext(cancellation).ConfigureAwait(false))
            return false;
        foreach (var set in new[] { true, false })
        {
            Change? best = null;
            for (var attempt = 0; attempt < Attempts && best is not { Instructions: > 0 }; attempt++)
            {
                if (attempt > 0)
                    await ChangeAsync(watch, !set, cancellation).ConfigureAwait(false);
                best = await ChangeAsync(watch, set, cancellation).ConfigureAwait(false) ?? best;
            }

            if (best is null)
                return false;
            _changes.Add(best);
            say($"apicv {best.Verb} by RPC while L2 runs: deferred, and applied {best.Instructions} instructions later, when L2 left to L1");
        }

        return true;
    }

    // Null where it was not deferred.
    private async Task<Change?> ChangeAsync(AsyncServerStreamingCall<ApicvEvent> watch, bool set, CancellationToken cancellation)
    {
        var time = Stopwatch.StartNew();
        var answer = set
            ? await vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = vm, Reason = Reason }, cancellationToken: cancellation).ConfigureAwait(false)
            : await vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = vm, Reason = Reason }, cancellationToken: cancellation).ConfigureAwait(false);
        var events = await EventsOfAsync(watch, answer, cancellation).ConfigureAwait(false);
        return events.Find(item => item.Type == Type.UpdateDeferred) is { } deferred && events.Find(item => item.Type == Type.UpdateApplied) is { } applied
            ? new Change(set ? "inhibit" : "allow", deferred, applied, time.Elapsed)
            : null;
    }

    /// <summary>What happened, with instruction counts.</summary>
    public void Describe(StringBuilder text)
    {
        text.AppendLine();
        text.AppendLine("An APICv inhibit while L2 is active is deferred until L1 runs again:");
        text.AppendLine($"  {"instructions",14}");
        foreach (var change in _changes)
        {
            var (deferred, applied) = (change.Deferred, change.Applied);
            text.AppendLine(CultureInfo.InvariantCulture, $"  {"",14}  vmmctl apicv {change.Verb} {Words.Of(Reason)}");
            text.AppendLine(CultureInfo.InvariantCulture, $"  {deferred.Instructions,14}  vCPU {deferred.Vcpu} runs L2: deferred, APICv is {Active(deferred)} as before");
            text.AppendLine(
                CultureInfo.InvariantCulture,
                $"  {applied.Instructions,14}  vCPU {applied.Vcpu} leaves L2: applied to vmcs01 before L1 executes, APICv is {Active(applied)}; "
                + $"{change.Instructions} instructions later, {change.Latency.TotalMilliseconds:0.0} ms after the call");
        }
    }

    private static string Active(ApicvEvent item) => item.Active ? "active" : "off";

    // Everything that is told of a change, until no vCPU is left that has not applied it.
    private static async Task<List<ApicvEvent>> EventsOfAsync(AsyncServerStreamingCall<ApicvEvent> watch, ApicvChange change, CancellationToken cancellation)
    {
        var events = new List<ApicvEvent>();
        var applied = new HashSet<int>();
        while (applied.Count < change.Vcpus.Count && await watch.ResponseStream.MoveNext(cancellation).ConfigureAwait(false))
        {
            var item = watch.ResponseStream.Current;
            if (item.Generation != change.Generation)
                continue;
            events.Add(item);
            if (item.Type == Type.UpdateApplied)
                applied.Add(item.Vcpu);
        }

        // Of several vCPUs the one is of interest that ran L2.
        var one = events.Find(item => item.Type == Type.UpdateDeferred)?.Vcpu;
        return [.. events.Where(item => item.Vcpu == one)];
    }
}
