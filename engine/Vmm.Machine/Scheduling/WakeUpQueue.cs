using System.Runtime.CompilerServices;
using Vmm.Machine.Time;

namespace Vmm.Machine.Scheduling;

/// <summary>Something to be done at a time.</summary>
internal sealed class WakeUp(Action callback) : HeapEntry
{
    /// <summary>Done when it is due, on any thread. Must neither block nor throw.</summary>
    public Action Callback { get; } = callback;
}

/// <summary>
/// What is to be done at which time of the host, for all machines together: thousands that sleep cost one timer of the host, and those that are
/// due in the same millisecond one expiry of it.
/// </summary>
internal sealed class WakeUpQueue
{
    private const ulong Millisecond = 1_000_000;

    private static readonly ConditionalWeakTable<TimeProvider, WakeUpQueue> Queues = [];

    private readonly TimeProvider _time;
    private readonly double _nanosecondsPerTick;
    private readonly object _lock = new();
    private readonly EntryHeap<WakeUp> _set = new();
    private readonly List<WakeUp> _due = [];
    private readonly ITimer? _timer;
    private ulong _armedFor = ulong.MaxValue;
    private ulong _sequence;

    private WakeUpQueue(TimeProvider time)
    {
        _time = time;
        _nanosecondsPerTick = 1e9 / time.TimestampFrequency;
        // Both live as long as the process or the clock, and belong to nothing that the first machine's caller was about. The host's own time
        // is waited for by a thread: the runtime's timers call back on threads of its pool, which go on looking for work for a while, and
        // that took a third of what idle machines did.
        if (time == TimeProvider.System)
        {
            new Thread(WaitForHost) { IsBackground = true, Name = "vmm wake-ups" }.UnsafeStart();
            return;
        }
        using AsyncFlowControl _ = ExecutionContext.SuppressFlow();
        _timer = time.CreateTimer(static queue => ((WakeUpQueue)queue!).Expire(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    /// <summary>The one that goes by a clock.</summary>
    public static WakeUpQueue Of(TimeProvider time) => Queues.GetValue(time, static time => new WakeUpQueue(time));

    /// <summary>The time, in nanoseconds from some moment on.</summary>
    public ulong Now => (ulong)(_time.GetTimestamp() * _nanosecondsPerTick);

    /// <summary>Sets or moves a wake-up. The host's timers count milliseconds: it comes at the end of one, since one that is too early would only be repeated.</summary>
    public void Set(WakeUp wakeUp, ulong nanosecondsFromNow)
    {
        lock (_lock)
        {
            ulong now = Now;
            ulong at = now + Math.Min(nanosecondsFromNow, int.MaxValue * Millisecond);
            _set.Put(wakeUp, (at + Millisecond - 1) / Millisecond * Millisecond, _sequence++);
            Arm(now);
        }
    }

    /// <summary>Forgets a wake-up, if it is set.</summary>
    public void Cancel(WakeUp wakeUp)
    {
        lock (_lock)
            _set.Remove(wakeUp);
    }

    // What is armed for a wake-up that was cancelled expires for nothing, once.
    private void Arm(ulong now)
    {
        if (_set.FirstKey >= _armedFor)
            return;
        _armedFor = _set.FirstKey;
        if (_timer == null)
            Monitor.Pulse(_lock);
        else
            _timer.Change(TimeSpan.FromMilliseconds(MillisecondsUntil(_armedFor, now)), Timeout.InfiniteTimeSpan);
    }

    private static int MillisecondsUntil(ulong at, ulong now) => at > now ? (int)Math.Min((at - now + Millisecond - 1) / Millisecond, int.MaxValue) : 0;

    private void WaitForHost()
    {
        while (true)
        {
            lock (_lock)
            {
                while (MillisecondsUntil(_set.FirstKey, Now) is var wait and > 0)
                {
                    _armedFor = _set.FirstKey;
                    Monitor.Wait(_lock, wait);
                }
            }
            Expire();
        }
    }

    private void Expire()
    {
        // Two expiries of a timer may overlap: each calls what it has taken.
        WakeUp[] due;
        lock (_lock)
        {
            ulong now = Now;
            _armedFor = ulong.MaxValue;
            while (_set.FirstKey <= now)
            {
                _due.Add(_set.First);
                _set.Remove(_set.First);
            }
            Arm(now);
            due = [.. _due];
            _due.Clear();
        }
        foreach (WakeUp wakeUp in due)
            wakeUp.Callback();
    }
}
