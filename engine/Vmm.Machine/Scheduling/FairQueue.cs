using Vmm.Machine.Time;

namespace Vmm.Machine.Scheduling;

/// <summary>
/// Who executes next, and for how long: start-time fair queueing (Goyal, Vin and Cheng, 1996) of machines by weight, with a token bucket for
/// each that has a limit. It knows no threads and reads no clock: times are given, in nanoseconds, and what is charged is processor time.
/// </summary>
/// <remarks>
/// The machine with the least virtual time is next. The queue's own virtual time is that of the machine that was taken last, and only grows;
/// a machine that comes is behind it by a few turns at most. So one that slept is next at once, but cannot claim what it left unused while it
/// slept, nor can one whose weight is worth more than the one thread that it can use; and what a machine has had before it slept is not forgotten.
/// </remarks>
internal sealed class FairQueue
{
    /// <summary>The longest turn, in nanoseconds of processor time.</summary>
    public const ulong Turn = 5_000_000;

    // How much processor time a machine can have left unused and still claim, in nanoseconds: what threads of unlike turns make it miss.
    private const ulong Credit = 10 * Turn;

    /// <summary>What a limit gives in this time may be used at once, in nanoseconds.</summary>
    public const long Period = 100_000_000;

    // What a machine can owe at most, in thousandths of a nanosecond: less than a second's work of an operator in it is not to stop it for minutes.
    private const long MostOwed = Period * 1_000;

    // After this time every bucket is full, whatever was owed.
    private const ulong FullAfter = MostOwed / ProcessorShare.LeastLimit + Period;

    private readonly EntryHeap<FairEntry> _waiting = new();
    private readonly EntryHeap<FairEntry> _throttled = new();
    private readonly Queue<FairEntry> _asked = [];
    private ulong _virtualTime;
    private ulong _sequence;

    /// <summary>Machines that <see cref="TryTake"/> would give.</summary>
    public int Runnable => _waiting.Count + _asked.Count;

    /// <summary>When the first of those that are throttled may go on, or <see cref="ulong.MaxValue"/>.</summary>
    public ulong NextRelease => _throttled.FirstKey;

    /// <summary>A machine has something to execute.</summary>
    public void Add(FairEntry entry, ulong now)
    {
        ulong credit = Credit * ProcessorShare.DefaultWeight / (ulong)entry.Share.Weight;
        if (_virtualTime > credit)
            entry.VirtualTime = Math.Max(entry.VirtualTime, _virtualTime - credit);
        Save(entry, now);
        bool throttled = entry.Share.LimitMillicpus > 0 && entry.Saved <= 0;
        if (entry.IsAsked)
        {
            entry.At = FairPlace.Asked;
            _asked.Enqueue(entry);
        }
        else if (throttled)
        {
            entry.At = FairPlace.Throttled;
            entry.ThrottledAt = now;
            long missing = Math.Min((long)Turn * 1_000, entry.Share.LimitMillicpus * Period) - entry.Saved;
            _throttled.Put(entry, now + (ulong)((missing + entry.Share.LimitMillicpus - 1) / entry.Share.LimitMillicpus), _sequence++);
        }
        else
        {
            entry.At = FairPlace.Waiting;
            _waiting.Put(entry, entry.VirtualTime, _sequence++);
        }
    }

    /// <summary>
    /// Somebody waits for an answer of a machine. One that waits or is throttled gets a turn of no length before all others, in which it
    /// answers and executes nothing; from any other place its next turn is such a one, unless it answers in the one that it has.
    /// </summary>
    public void Ask(FairEntry entry, ulong now)
    {
        entry.IsAsked = true;
        if (entry.At is not (FairPlace.Waiting or FairPlace.Throttled))
            return;
        Leave(entry, now);
        entry.At = FairPlace.Asked;
        _asked.Enqueue(entry);
    }

    /// <summary>The next one to execute.</summary>
    /// <param name="now">The time.</param>
    /// <param name="entry">The machine.</param>
    /// <param name="length">For how long, in nanoseconds of processor time; 0: it is to answer who has asked, and to execute nothing.</param>
    public bool TryTake(ulong now, out FairEntry entry, out ulong length)
    {
        Release(now);
        length = 0;
        if (_asked.TryDequeue(out entry!))
        {
            entry.At = FairPlace.Outside;
            entry.IsAsked = false;
            return true;
        }
        if (_waiting.Count == 0)
            return false;
        entry = _waiting.First;
        Leave(entry, now);
        entry.IsAsked = false;
        _virtualTime = Math.Max(_virtualTime, entry.VirtualTime);
        length = entry.Share.LimitMillicpus == 0 ? Turn : Math.Clamp((ulong)Math.Max(entry.Saved, 0) / 1_000, 1, Turn);
        return true;
    }

    /// <summary>A machine that was taken has used processor time. Before it is added again.</summary>
    public void Charge(FairEntry entry, ulong used, ulong now)
    {
        Save(entry, now);
        entry.VirtualTime += Math.Max(used * ProcessorShare.DefaultWeight / (ulong)entry.Share.Weight, 1);
        if (entry.Share.LimitMillicpus > 0)
            entry.Saved = Math.Max(entry.Saved - (long)Math.Min(used, MostOwed) * 1_000, -MostOwed);
    }

    /// <summary>Gives a machine another share. What it is ahead of the others by lasts as long as its new weight makes it.</summary>
    public void Change(FairEntry entry, ProcessorShare share, ulong now)
    {
        Save(entry, now);
        if (entry.VirtualTime > _virtualTime)
            entry.VirtualTime = _virtualTime + (ulong)((UInt128)(entry.VirtualTime - _virtualTime) * (ulong)entry.Share.Weight / (ulong)share.Weight);
        long full = share.LimitMillicpus * Period;
        entry.Saved = entry.Share.LimitMillicpus == 0 ? full : Math.Min(entry.Saved, full);
        entry.Share = share;
        if (entry.At is not (FairPlace.Waiting or FairPlace.Throttled))
            return;
        Leave(entry, now);
        Add(entry, now);
    }

    /// <summary>Lets those that may go on wait for their turns.</summary>
    public void Release(ulong now)
    {
        while (_throttled.FirstKey <= now)
        {
            FairEntry entry = _throttled.First;
            Leave(entry, now);
            Add(entry, now);
        }
    }

    private void Leave(FairEntry entry, ulong now)
    {
        if (entry.At == FairPlace.Throttled)
        {
            entry.ThrottledTime += now - entry.ThrottledAt;
            _throttled.Remove(entry);
        }
        else
        {
            _waiting.Remove(entry);
        }
        entry.At = FairPlace.Outside;
    }

    private static void Save(FairEntry entry, ulong now)
    {
        long limit = entry.Share.LimitMillicpus;
        if (limit > 0 && now > entry.SavedAt)
            entry.Saved = Math.Min(entry.Saved + (long)Math.Min(now - entry.SavedAt, FullAfter) * limit, limit * Period);
        entry.SavedAt = Math.Max(entry.SavedAt, now);
    }
}
