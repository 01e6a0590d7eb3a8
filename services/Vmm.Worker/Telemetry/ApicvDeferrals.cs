using Google.Protobuf.WellKnownTypes;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Worker.V1;
using ApicvEvent = Vmm.Hypervisor.Apicv.ApicvEvent;

namespace Vmm.Worker.Telemetry;

/// <summary>
/// How long the vCPUs of one machine put changes of the APICv inhibits off. Each deferral is measured where it ends: one that moves with its
/// machine goes on at the target, and one that a restored machine comes with begins there. Thread-safe.
/// </summary>
internal sealed class ApicvDeferrals(EngineMeter meter, TimeProvider time)
{
    private const long LongestSeconds = 100L * 365 * 24 * 3600;

    private readonly Lock _lock = new();
    private readonly Dictionary<int, Beginning> _since = [];

    /// <summary>For how long the vCPU that has put a change off for longest has done so; zero where none has.</summary>
    public TimeSpan Oldest
    {
        get
        {
            lock (_lock)
                return _since.Count == 0 ? TimeSpan.Zero : _since.Values.Max(LengthOf);
        }
    }

    /// <summary>Something has happened to APICv. On the machine's thread.</summary>
    public void Note(in ApicvEvent item)
    {
        Beginning since;
        lock (_lock)
        {
            if (item.Kind == ApicvEventKind.UpdateDeferred)
                _since.TryAdd(item.Vcpu, new Beginning(TimeSpan.Zero, time.GetTimestamp(), item.Instructions));
            if (item.Kind != ApicvEventKind.UpdateApplied || !_since.Remove(item.Vcpu, out since))
                return;
        }

        meter.NoteDeferral(LengthOf(since), item.Instructions - since.Instructions);
    }

    /// <summary>Those that have not ended, for another worker.</summary>
    public IReadOnlyList<ApicvDeferral> Save()
    {
        lock (_lock)
            return [.. _since.Select(each => new ApicvDeferral { Vcpu = each.Key, Duration = Duration.FromTimeSpan(LengthOf(each.Value)), Instructions = each.Value.Instructions })];
    }

    /// <summary>Takes over those of a machine that does not run yet: as another worker has measured them, else from now on.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: what it has measured cannot be.</exception>
    public void Load(IMachine machine, IEnumerable<ApicvDeferral> measured)
    {
        // A reset may have come between a deferral and its end: such a vCPU's change is pending.
        Dictionary<int, (bool Deferred, ulong Executed)> open = machine.GetApicv().Vcpus.Where(vcpu => vcpu.Update != ApicvUpdateState.Applied)
            .ToDictionary(vcpu => vcpu.Vcpu, vcpu => (vcpu.Update == ApicvUpdateState.Deferred, machine.GetNested(vcpu.Vcpu).InstructionsRetired));
        lock (_lock)
        {
            foreach (ApicvDeferral each in measured)
            {
                if (!open.Remove(each.Vcpu, out var vcpu) || each.Instructions > vcpu.Executed)
                    throw ApiError.InvalidField("state.deferrals", "contradicts the machine.");
                if (each.Duration is not { Seconds: >= 0 and <= LongestSeconds, Nanos: >= 0 and < 1_000_000_000 })
                    throw ApiError.InvalidField("state.deferrals", "has no duration that could be.");
                _since.Add(each.Vcpu, new Beginning(each.Duration.ToTimeSpan(), time.GetTimestamp(), each.Instructions));
            }

            foreach ((int number, (bool deferred, ulong executed)) in open)
                if (deferred)
                    _since.Add(number, new Beginning(TimeSpan.Zero, time.GetTimestamp(), executed));
        }
    }

    private TimeSpan LengthOf(Beginning since) => since.Before + time.GetElapsedTime(since.Timestamp);

    /// <summary>Where a deferral began.</summary>
    /// <param name="Before">How long it had lasted when it came to this worker.</param>
    /// <param name="Timestamp">When that was.</param>
    /// <param name="Instructions">Instructions that the vCPU had executed when it put the change off.</param>
    private readonly record struct Beginning(TimeSpan Before, long Timestamp, ulong Instructions);
}
