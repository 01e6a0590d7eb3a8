using Vmm.Hypervisor;
using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Machine.Time;

/// <summary>
/// The clock of one machine. Under the virtual clock one instruction of any vCPU is one nanosecond, the vCPUs of a machine
/// take their turns on it, and time that all of them wait through is skipped. In real time it follows the injected
/// <see cref="TimeProvider"/> and stands still while the machine is held.
/// </summary>
public sealed class MachineClock : IMachineClock, IInstructionClock
{
    /// <summary>What the real-time clock chip shows at power-on under the virtual clock.</summary>
    public static readonly DateTimeOffset VirtualEpoch = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

    private const int MostCallsAtOnce = 256;
    private const ulong LatestNanoseconds = 1UL << 62;

    private readonly TimeProvider _time;
    private readonly TimerQueue _timers = new();
    private readonly double _nanosecondsPerTick;
    private ulong _now;
    private ulong _elapsed;
    private long _hostReference;
    private bool _held = true;

    /// <summary>Creates a clock at 0, held.</summary>
    /// <param name="mode">What drives it.</param>
    /// <param name="time">The host's time, injected.</param>
    public MachineClock(ClockMode mode, TimeProvider time)
    {
        Mode = mode;
        _time = time;
        _nanosecondsPerTick = 1e9 / time.TimestampFrequency;
    }

    /// <summary>What drives it.</summary>
    public ClockMode Mode { get; }

    /// <summary>The vCPUs whose progress is time under the virtual clock.</summary>
    public VirtualMachine? Progress { get; set; }

    /// <summary>Whether waits under the virtual clock take the host's time too, so that a guest that only waits does not race through the years.</summary>
    public bool IsPaced { get; set; } = true;

    /// <summary>Called when a timer is armed whose deadline comes before <see cref="SliceEnd"/>: the slice should end sooner.</summary>
    public Action? SliceShortened { get; set; }

    /// <summary>The time up to which the running slice was granted.</summary>
    public ulong SliceEnd { get; set; }

    /// <inheritdoc/>
    public ulong Nanoseconds => Mode == ClockMode.Virtual ? _now + (Progress?.Progress ?? 0) : Elapsed;

    /// <inheritdoc/>
    public DateTimeOffset UtcNow => Mode == ClockMode.Virtual ? VirtualEpoch.AddTicks((long)(Nanoseconds / 100)) : _time.GetUtcNow();

    /// <summary>Nanoseconds of host time for which the clock was not held: real time, and what the virtual clock's skips are paced by.</summary>
    public ulong Elapsed
    {
        get
        {
            if (_held)
                return _elapsed;
            long host = _time.GetTimestamp();
            // Folded in step by step, so that it never goes back, even where the host's counter should.
            ulong step = host > _hostReference ? (ulong)((host - _hostReference) * _nanosecondsPerTick) : 0;
            if (step > 0)
            {
                _elapsed += step;
                _hostReference = host;
            }
            return _elapsed;
        }
    }

    /// <summary>The earliest deadline of a timer, or <see cref="ulong.MaxValue"/>.</summary>
    public ulong NextDeadline => _timers.NextDeadline;

    /// <summary>Timers that have expired. Another thread may read it, as it was a moment ago.</summary>
    public ulong TimersExpired { get; private set; }

    /// <summary>How late they were called back, in nanoseconds of this clock, added up. Another thread may read it.</summary>
    public ulong TimerLateness { get; private set; }

    /// <inheritdoc/>
    public ulong At(ulong progress) => Mode == ClockMode.Virtual ? _now + progress : Elapsed;

    /// <inheritdoc/>
    public IMachineTimer CreateTimer(Action callback) => new MachineTimer(this, callback);

    /// <summary>Under the virtual clock: a vCPU has executed this many instructions since the last call.</summary>
    public void Advance(ulong instructions)
    {
        if (Mode == ClockMode.Virtual)
            _now += instructions;
    }

    /// <summary>Under the virtual clock: every vCPU waits, and this is when something happens next.</summary>
    public void SkipTo(ulong nanoseconds)
    {
        if (Mode == ClockMode.Virtual && nanoseconds > _now)
            _now = nanoseconds;
    }

    /// <summary>Calls back the timers whose deadlines have passed, those included that are armed meanwhile.</summary>
    public void RunDueTimers()
    {
        // One reading and so many calls: a guest whose timers are always due must not keep the machine in here.
        ulong now = Nanoseconds;
        for (int calls = 0; calls < MostCallsAtOnce && _timers.TryTakeDue(now, out MachineTimer timer); calls++)
        {
            TimersExpired++;
            TimerLateness += now - timer.Deadline;
            timer.Callback();
        }
    }

    /// <summary>Stops real time for this machine.</summary>
    public void Hold()
    {
        if (_held)
            return;
        _ = Elapsed;
        _held = true;
    }

    /// <summary>Lets real time go on.</summary>
    public void Release()
    {
        if (!_held)
            return;
        _held = false;
        _hostReference = _time.GetTimestamp();
    }

    /// <summary>Goes on from a saved time, before the machine runs. The virtual clock's waits are paced by the host's time from here.</summary>
    /// <exception cref="InvalidStateException">The time is later than any that a machine reaches.</exception>
    internal void Load(ulong nanoseconds)
    {
        InvalidStateException.ThrowUnless(nanoseconds < LatestNanoseconds, "Machine.Nanoseconds", "that is more than a century.");
        _now = Mode == ClockMode.Virtual ? nanoseconds : 0;
        _elapsed = nanoseconds;
    }

    internal void Arm(MachineTimer timer, ulong deadline)
    {
        _timers.Arm(timer, deadline);
        if (deadline < SliceEnd)
            SliceShortened?.Invoke();
    }

    internal void Disarm(MachineTimer timer) => _timers.Remove(timer);

    internal void Restore(MachineTimer timer, TimerState? state)
    {
        if (state is null)
            _timers.Remove(timer);
        else
            _timers.Restore(timer, state);
    }
}
