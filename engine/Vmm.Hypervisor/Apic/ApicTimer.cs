using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.Apic;

/// <summary>What an APIC timer does, by the code in its LVT entry (SDM volume 3, figure 12-8).</summary>
public enum ApicTimerMode
{
    /// <summary>Counts down once.</summary>
    OneShot = 0,

    /// <summary>Counts down again and again.</summary>
    Periodic = 1,

    /// <summary>Waits for the time-stamp counter.</summary>
    TscDeadline = 2,

    /// <summary>Nothing.</summary>
    Reserved = 3,
}

/// <summary>
/// The local APIC's timer: one-shot, periodic and TSC-deadline (SDM volume 3, section 12.5.4). It counts at the core crystal
/// clock of CPUID leaf 15H, 1 GHz, over the divide configuration; one undivided count is one nanosecond.
/// </summary>
internal sealed class ApicTimer
{
    /// <summary>
    /// The shortest period that is honoured. A guest that asks for an interrupt every few nanoseconds would otherwise keep the
    /// machine in its timer queue.
    /// </summary>
    private const ulong ShortestPeriod = 5_000;

    private readonly IMachineClock _clock;
    private readonly IMachineTimer _timer;
    private readonly Action _expired;
    private ApicTimerMode _mode;
    private uint _initial;
    private int _shift = 1;
    private ulong _start;
    private ulong _period;
    private ulong _deadline;

    internal ApicTimer(IMachineClock clock, Action expired)
    {
        _clock = clock;
        _expired = expired;
        _timer = clock.CreateTimer(Expire);
    }

    /// <summary>IA32_TSC_DEADLINE: zero when disarmed or in another mode.</summary>
    internal ulong TscDeadline => _deadline;

    internal void Reset()
    {
        _timer.Disarm();
        _mode = ApicTimerMode.OneShot;
        _initial = 0;
        _shift = 1;
        _period = 0;
        _deadline = 0;
    }

    /// <summary>Follows the mode field of the LVT entry. A change to or from TSC-deadline mode disarms the timer.</summary>
    internal void SetMode(ApicTimerMode mode)
    {
        if (mode == _mode)
            return;
        bool disarms = mode >= ApicTimerMode.TscDeadline || _mode >= ApicTimerMode.TscDeadline;
        uint count = disarms ? 0 : CurrentCount;
        _mode = mode;
        if (disarms)
        {
            _timer.Disarm();
            _initial = 0;
            _deadline = 0;
            return;
        }
        if (count != 0)
            Restart(count);
    }

    /// <summary>Follows the divide configuration register: the count goes on from where it is, at the new rate.</summary>
    internal void SetDivide(uint configuration)
    {
        uint code = (configuration & 3) | (configuration >> 1 & 4);
        int shift = code == 7 ? 0 : (int)code + 1;
        if (shift == _shift)
            return;
        uint count = _mode < ApicTimerMode.TscDeadline ? CurrentCount : 0;
        _shift = shift;
        if (count != 0)
            Restart(count);
    }

    /// <summary>A write of the initial-count register: starts the timer, or stops it with 0.</summary>
    internal void SetInitialCount(uint count)
    {
        if (_mode >= ApicTimerMode.TscDeadline)
            return;
        _initial = count;
        if (count == 0)
            _timer.Disarm();
        else
            Restart(count);
    }

    /// <summary>The initial-count register.</summary>
    internal uint InitialCount => _initial;

    /// <summary>The current-count register.</summary>
    internal uint CurrentCount
    {
        get
        {
            if (_mode >= ApicTimerMode.TscDeadline || !_timer.IsArmed)
                return 0;
            ulong deadline = _start + _period;
            ulong now = _clock.Nanoseconds;
            // A deadline that has passed and not been served yet: the counter stands at zero, or runs in its next period.
            return now >= deadline ? 0 : (uint)Math.Min((deadline - now + (1UL << _shift) - 1) >> _shift, uint.MaxValue);
        }
    }

    /// <summary>A write of IA32_TSC_DEADLINE: ignored outside TSC-deadline mode; 0 disarms.</summary>
    internal void SetTscDeadline(ulong deadline, ulong tscOffset)
    {
        if (_mode != ApicTimerMode.TscDeadline)
            return;
        _deadline = deadline;
        RearmTscDeadline(tscOffset);
    }

    /// <summary>After a change of the guest's time-stamp counter.</summary>
    internal void RearmTscDeadline(ulong tscOffset)
    {
        if (_mode != ApicTimerMode.TscDeadline)
            return;
        if (_deadline == 0)
        {
            _timer.Disarm();
            return;
        }
        // The counter wraps at 64 bits: a deadline that is not ahead of it by less than half of that has passed.
        ulong now = _clock.Nanoseconds;
        long ahead = (long)(_deadline - (now + tscOffset));
        _timer.Arm(ahead <= 0 ? now : now > ulong.MaxValue - (ulong)ahead ? ulong.MaxValue : now + (ulong)ahead);
    }

    /// <summary>Everything that it holds.</summary>
    internal ApicTimerState Save() => new()
    {
        Mode = _mode,
        InitialCount = _initial,
        DivideShift = _shift,
        Start = _start,
        Period = _period,
        TscDeadline = _deadline,
        Timer = _timer.Save(),
    };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">A value is none that it could have.</exception>
    internal void Load(ApicTimerState state)
    {
        InvalidStateException.ThrowUnless(Enum.IsDefined(state.Mode), "ApicTimer.Mode", $"{state.Mode} is none.");
        InvalidStateException.ThrowUnless(state.DivideShift is >= 0 and <= 7, "ApicTimer.DivideShift", "it is from 0 to 7.");
        _mode = state.Mode;
        _initial = state.InitialCount;
        _shift = state.DivideShift;
        _start = state.Start;
        _period = state.Period;
        _deadline = state.TscDeadline;
        _timer.Load(state.Timer);
    }

    private void Restart(uint count)
    {
        _start = _clock.Nanoseconds;
        _period = (ulong)count << _shift;
        _timer.Arm(_start + _period);
    }

    private void Expire()
    {
        switch (_mode)
        {
            case ApicTimerMode.Periodic:
                ulong now = _clock.Nanoseconds;
                ulong period = Math.Max((ulong)_initial << _shift, ShortestPeriod);
                ulong due = _start + _period;
                // Periods that the machine could not serve in time are one interrupt, as they are on hardware with IRR set.
                ulong missed = now > due ? (now - due) / period : 0;
                _start = due + missed * period;
                _period = period;
                _timer.Arm(_start + period);
                break;
            case ApicTimerMode.TscDeadline:
                _deadline = 0;
                break;
            default:
                break;
        }
        _expired();
    }
}
