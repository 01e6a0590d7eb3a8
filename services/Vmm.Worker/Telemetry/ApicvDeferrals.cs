using Vmm.Hypervisor.Apicv;

namespace Vmm.Worker.Telemetry;

/// <summary>How long the vCPUs of one machine put changes of the APICv inhibits off. On the machine's thread.</summary>
internal sealed class ApicvDeferrals(EngineMeter meter, TimeProvider time)
{
    private readonly Dictionary<int, (long Timestamp, ulong Instructions)> _since = [];

    /// <summary>Something has happened to APICv.</summary>
    public void Note(in ApicvEvent item)
    {
        if (item.Kind == ApicvEventKind.UpdateDeferred)
            _since.TryAdd(item.Vcpu, (time.GetTimestamp(), item.Instructions));
        else if (item.Kind == ApicvEventKind.UpdateApplied && _since.Remove(item.Vcpu, out (long Timestamp, ulong Instructions) since))
            meter.NoteDeferral(time.GetElapsedTime(since.Timestamp), item.Instructions - since.Instructions);
    }
}
