using Vmm.Machine.Time;

namespace Vmm.Machine.Scheduling;

/// <summary>Where in a <see cref="FairQueue"/> an entry is.</summary>
internal enum FairPlace
{
    /// <summary>Not in it: it executes, or has nothing to execute.</summary>
    Outside,

    /// <summary>It waits for its turn.</summary>
    Waiting,

    /// <summary>It has had what its limit gives it.</summary>
    Throttled,

    /// <summary>Somebody waits for an answer of it.</summary>
    Asked,
}

/// <summary>A machine as a <see cref="FairQueue"/> sees it. Guarded by the queue's owner.</summary>
internal sealed class FairEntry(IExecutionWork work, ProcessorShare share) : HeapEntry
{
    private ulong _throttledTime;

    /// <summary>What is to execute.</summary>
    public IExecutionWork Work { get; } = work;

    /// <summary>What it is to have.</summary>
    public ProcessorShare Share { get; set; } = share;

    /// <summary>Where it is.</summary>
    public FairPlace At { get; set; }

    /// <summary>Somebody has asked it for something since its turn began.</summary>
    public bool IsAsked { get; set; }

    /// <summary>The processor time that it has had, in nanoseconds at the default weight: a machine of twice the weight ages half as fast.</summary>
    public ulong VirtualTime { get; set; }

    /// <summary>With a limit: what it may use at once, in thousandths of a nanosecond of processor time. Negative where it has used too much.</summary>
    public long Saved { get; set; } = share.LimitMillicpus * FairQueue.Period;

    /// <summary>When <see cref="Saved"/> was that.</summary>
    public ulong SavedAt { get; set; }

    /// <summary>Since when it is throttled.</summary>
    public ulong ThrottledAt { get; set; }

    /// <summary>For how long its limit has kept it from executing, in nanoseconds. Any thread may read it.</summary>
    public ulong ThrottledTime
    {
        get => Volatile.Read(ref _throttledTime);
        set => Volatile.Write(ref _throttledTime, value);
    }
}
