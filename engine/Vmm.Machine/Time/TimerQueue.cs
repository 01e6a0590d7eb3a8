using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;

namespace Vmm.Machine.Time;

/// <summary>
/// The armed timers of a machine, the earliest first: a binary heap in which each timer knows its place, so that arming,
/// disarming and expiring allocate nothing. Timers with the same deadline expire in the order in which they were armed.
/// </summary>
internal sealed class TimerQueue
{
    private MachineTimer[] _heap = new MachineTimer[16];
    private int _count;
    private ulong _sequence;

    /// <summary>The earliest deadline, or <see cref="ulong.MaxValue"/> where no timer is armed.</summary>
    public ulong NextDeadline => _count > 0 ? _heap[0].Deadline : ulong.MaxValue;

    /// <summary>Takes the earliest timer out if its deadline is not after <paramref name="now"/>.</summary>
    public bool TryTakeDue(ulong now, out MachineTimer timer)
    {
        timer = _heap[0];
        if (_count == 0 || timer.Deadline > now)
            return false;
        Remove(timer);
        return true;
    }

    public void Arm(MachineTimer timer, ulong deadline) => Arm(timer, deadline, _sequence++);

    /// <summary>Arms a timer with the rank that it had when it was saved; those that are armed later come behind it.</summary>
    public void Restore(MachineTimer timer, TimerState state)
    {
        _sequence = Math.Max(_sequence, state.Order == ulong.MaxValue ? state.Order : state.Order + 1);
        Arm(timer, state.Deadline, state.Order);
    }

    private void Arm(MachineTimer timer, ulong deadline, ulong sequence)
    {
        if (timer.Place < 0)
        {
            if (_count == _heap.Length)
                Array.Resize(ref _heap, _count * 2);
            timer.Place = _count;
            _heap[_count++] = timer;
        }
        timer.Deadline = deadline;
        timer.Sequence = sequence;
        Settle(timer);
    }

    public void Remove(MachineTimer timer)
    {
        if (timer.Place < 0)
            return;
        MachineTimer last = _heap[--_count];
        _heap[_count] = null!;
        if (last != timer)
        {
            last.Place = timer.Place;
            _heap[last.Place] = last;
            Settle(last);
        }
        timer.Place = -1;
    }

    private static bool IsBefore(MachineTimer a, MachineTimer b) =>
        a.Deadline != b.Deadline ? a.Deadline < b.Deadline : a.Sequence < b.Sequence;

    private void Settle(MachineTimer timer)
    {
        while (timer.Place > 0 && IsBefore(timer, _heap[(timer.Place - 1) / 2]))
            Swap(timer.Place, (timer.Place - 1) / 2);
        while (true)
        {
            int child = timer.Place * 2 + 1;
            if (child >= _count)
                return;
            if (child + 1 < _count && IsBefore(_heap[child + 1], _heap[child]))
                child++;
            if (!IsBefore(_heap[child], timer))
                return;
            Swap(timer.Place, child);
        }
    }

    private void Swap(int a, int b)
    {
        (_heap[a], _heap[b]) = (_heap[b], _heap[a]);
        _heap[a].Place = a;
        _heap[b].Place = b;
    }
}

/// <summary>One timer on a <see cref="MachineClock"/>.</summary>
internal sealed class MachineTimer(MachineClock clock, Action callback) : IMachineTimer
{
    /// <summary>Its place in the queue's heap, or -1 while it is disarmed.</summary>
    internal int Place { get; set; } = -1;

    internal ulong Deadline { get; set; }

    internal ulong Sequence { get; set; }

    internal Action Callback { get; } = callback;

    /// <inheritdoc/>
    public bool IsArmed => Place >= 0;

    /// <inheritdoc/>
    public void Arm(ulong deadline) => clock.Arm(this, deadline);

    /// <inheritdoc/>
    public void Disarm() => clock.Disarm(this);

    /// <inheritdoc/>
    public TimerState? Save() => IsArmed ? new TimerState { Deadline = Deadline, Order = Sequence } : null;

    /// <inheritdoc/>
    public void Load(TimerState? state) => clock.Restore(this, state);
}
