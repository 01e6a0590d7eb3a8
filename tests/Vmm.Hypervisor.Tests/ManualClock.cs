using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;

namespace Vmm.Hypervisor.Tests;

/// <summary>A clock that a test moves by hand.</summary>
internal sealed class ManualClock : IMachineClock
{
    private readonly List<Timer> _timers = [];

    /// <summary>Called in the middle of whatever makes itself a timer.</summary>
    public Action? TimerCreated { get; set; }

    /// <summary>Called in the middle of whatever stops a timer.</summary>
    public Action? TimerDisarmed { get; set; }

    public ulong Nanoseconds { get; private set; }

    public DateTimeOffset UtcNow => DateTimeOffset.UnixEpoch.AddTicks((long)Nanoseconds / 100);

    public IMachineTimer CreateTimer(Action callback)
    {
        var timer = new Timer(this, callback);
        _timers.Add(timer);
        TimerCreated?.Invoke();
        return timer;
    }

    /// <summary>Lets time pass, with every timer called at its deadline.</summary>
    public void Advance(ulong nanoseconds)
    {
        ulong end = Nanoseconds + nanoseconds;
        while (_timers.Where(t => t.IsArmed && t.Deadline <= end).MinBy(t => t.Deadline) is { } due)
        {
            Nanoseconds = Math.Max(Nanoseconds, due.Deadline);
            due.Disarm();
            due.Callback();
        }
        Nanoseconds = end;
    }

    /// <summary>Lets time pass as on a busy host: the timers are called only at the end.</summary>
    public void AdvanceLate(ulong nanoseconds)
    {
        Nanoseconds += nanoseconds;
        Advance(0);
    }

    private sealed class Timer(ManualClock clock, Action callback) : IMachineTimer
    {
        public ulong Deadline { get; private set; }

        public Action Callback => callback;

        public bool IsArmed { get; private set; }

        public void Arm(ulong deadline)
        {
            Deadline = deadline;
            IsArmed = true;
        }

        public void Disarm()
        {
            IsArmed = false;
            clock.TimerDisarmed?.Invoke();
        }

        public TimerState? Save() => IsArmed ? new TimerState { Deadline = Deadline, Order = 0 } : null;

        public void Load(TimerState? state)
        {
            IsArmed = state != null;
            Deadline = state?.Deadline ?? 0;
        }
    }
}
