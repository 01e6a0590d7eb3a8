using Vmm.Hypervisor.Time;

namespace Vmm.Devices.Timers;

/// <summary>Counts the ticks of a crystal on the machine's clock, exactly and without drift.</summary>
/// <param name="clock">The machine's clock.</param>
/// <param name="hertz">The frequency, at most 1 GHz.</param>
internal sealed class Oscillator(IMachineClock clock, uint hertz)
{
    private const ulong NanosecondsPerSecond = 1_000_000_000;

    private readonly IMachineClock _clock = clock;
    private readonly ulong _hertz = hertz;

    /// <summary>Whole ticks since power-on.</summary>
    internal ulong Ticks
    {
        get
        {
            (ulong seconds, ulong rest) = Math.DivRem(_clock.Nanoseconds, NanosecondsPerSecond);
            return seconds * _hertz + rest * _hertz / NanosecondsPerSecond;
        }
    }

    /// <summary>The first nanosecond at which <see cref="Ticks"/> has reached a count; the end of time for one beyond it.</summary>
    internal ulong TimeOf(ulong ticks)
    {
        (ulong seconds, ulong rest) = Math.DivRem(ticks, _hertz);
        if (seconds >= ulong.MaxValue / NanosecondsPerSecond)
            return ulong.MaxValue;
        return seconds * NanosecondsPerSecond + (rest * NanosecondsPerSecond + _hertz - 1) / _hertz;
    }
}
