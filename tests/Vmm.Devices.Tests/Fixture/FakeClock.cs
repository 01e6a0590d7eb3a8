using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;

namespace Vmm.Devices.Tests.Fixture;

/// <summary>A clock that stands still until a test moves it, and fires timers in the order of their deadlines.</summary>
public sealed class FakeClock : IMachineClock
{
    private readonly List<Timer> _timers = [];

    public ulong Nanoseconds { get; private set; }

    public DateTimeOffset Start { get; set; } = new(2024, 2, 28, 23, 59, 50, TimeSpan.Zero);

    public DateTimeOffset UtcNow => Start.AddTicks((long)(Nanoseconds / 100));

    public int ArmedTimers => _timers.Count(t => t.IsArmed);

    public IMachineTimer CreateTimer(Action callback)
    {
        var timer = new Timer(callback);
        _timers.Add(timer);
        return timer;
    }

    public void Advance(ulong nanoseconds)
    {
        ulong end = Nanoseconds + nanoseconds;
        while (_timers.Where(t => t.IsArmed && t.Deadline <= end).MinBy(t => t.Deadline) is { } next)
        {
            Nanoseconds = Math.Max(Nanoseconds, next.Deadline);
            next.Fire();
        }
        Nanoseconds = end;
    }

    public void AdvanceMicroseconds(ulong microseconds) => Advance(microseconds * 1000);

    public void AdvanceMilliseconds(ulong milliseconds) => Advance(milliseconds * 1_000_000);

    private sealed class Timer(Action callback) : IMachineTimer
    {
        public ulong Deadline { get; private set; }

        public bool IsArmed { get; private set; }

        public void Arm(ulong deadline)
        {
            Deadline = deadline;
            IsArmed = true;
        }

        public void Disarm() => IsArmed = false;

        public TimerState? Save() => IsArmed ? new TimerState { Deadline = Deadline, Order = 0 } : null;

        public void Load(TimerState? state)
        {
            IsArmed = state != null;
            Deadline = state?.Deadline ?? 0;
        }

        public void Fire()
        {
            IsArmed = false;
            callback();
        }
    }
}
