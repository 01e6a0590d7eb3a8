using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;

namespace Vmm.Machine.Time;

/// <summary>
/// The armed timers of a machine, the earliest first. Arming, disarming and expiring allocate nothing. Timers with the same deadline expire
/// in the order in which they were armed.
/// </summary>
internal sealed class TimerQueue
{
    private readonly EntryHeap<MachineTimer> _armed = new();
    private ulong _sequence;

    /// <summary>The earliest deadline, or <see cref="ulong.MaxValue"/> where no timer is armed.</summary>
    public ulong NextDeadline => _armed.FirstKey;

    /// <summary>Takes the earliest timer out if its deadline is not after <paramref name="now"/>.</summary>
    public bool TryTakeDue(ulong now, out MachineTimer timer)
    {
        timer = _armed.First;
        if (_armed.Count == 0 || timer.Deadline > now)
            return false;
        Remove(timer);
        return true;
    }

    public void Arm(MachineTimer timer, ulong deadline) => _armed.Put(timer, deadline, _sequence++);

    /// <summary>Arms a timer with the rank that it had when it was saved; those that are armed later come behind it.</summary>
    public void Restore(MachineTimer timer, TimerState state)
    {
        _sequence = Math.Max(_sequence, state.Order == ulong.MaxValue ? state.Order : state.Order + 1);
        _armed.Put(timer, state.Deadline, state.Order);
    }

    public void Remove(MachineTimer timer) => _armed.Remove(timer);
}

/// <summary>One timer on a <see cref="MachineClock"/>.</summary>
internal sealed class MachineTimer(MachineClock clock, Action callback) : HeapEntry, IMachineTimer
{
    internal ulong Deadline => Key;

    internal Action Callback { get; } = callback;

    /// <inheritdoc/>
    public bool IsArmed => Place >= 0;

    /// <inheritdoc/>
    public void Arm(ulong deadline) => clock.Arm(this, deadline);

    /// <inheritdoc/>
    public void Disarm() => clock.Disarm(this);

    /// <inheritdoc/>
    public TimerState? Save() => IsArmed ? new TimerState { Deadline = Key, Order = Rank } : null;

    /// <inheritdoc/>
    public void Load(TimerState? state) => clock.Restore(this, state);
}
