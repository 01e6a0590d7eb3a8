using Vmm.Hypervisor.Apicv;

namespace Vmm.Worker.Telemetry;

/// <summary>How long the vCPUs of one machine put changes of the APICv inhibits off. Thread-safe.</summary>
internal sealed class ApicvDeferrals(EngineMeter meter, TimeProvider time)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<int, (long Timestamp, ulong Instructions)> _since = [];

    /// <summary>For how long the vCPU that has put a change off for longest has done so; zero where none has.</summary>
    public TimeSpan Oldest
    {
        get
        {
            lock (_lock)
                return _since.Count == 0 ? TimeSpan.Zero : time.GetElapsedTime(_since.Values.Min(since => since.Timestamp));
        }
    }

    /// <summary>Something has happened to APICv. On the machine's thread.</summary>
    public void Note(in ApicvEvent item)
    {
        (long Timestamp, ulong Instructions) since;
        lock (_lock)
        {
            if (item.Kind == ApicvEventKind.UpdateDeferred)
                _since.TryAdd(item.Vcpu, (time.GetTimestamp(), item.Instructions));
            if (item.Kind != ApicvEventKind.UpdateApplied || !_since.Remove(item.Vcpu, out since))
                return;
        }

        meter.NoteDeferral(time.GetElapsedTime(since.Timestamp), item.Instructions - since.Instructions);
    }
}
