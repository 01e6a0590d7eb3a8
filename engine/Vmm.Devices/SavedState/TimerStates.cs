using Vmm.Hypervisor.SavedState;

namespace Vmm.Devices.SavedState;

/// <summary>An 8254 with port 0x61.</summary>
public sealed record IntervalTimerState
{
    /// <summary>The three counters.</summary>
    public required PitChannelState[] Channels { get; init; }

    /// <summary>The writable bits of port 0x61.</summary>
    public required byte SystemControl { get; init; }
}

/// <summary>A counter of an 8254. Moments are in ticks of its clock since power-on.</summary>
public sealed record PitChannelState
{
    /// <summary>The mode, 0 to 5.</summary>
    public required byte Mode { get; init; }

    /// <summary>Which bytes of the count are accessed, 1 to 3.</summary>
    public required byte Access { get; init; }

    /// <summary>Counts in binary coded decimal.</summary>
    public required bool Bcd { get; init; }

    /// <summary>A count has been written and not been loaded.</summary>
    public required bool NullCount { get; init; }

    /// <summary>The GATE input.</summary>
    public required bool Gate { get; init; }

    /// <summary>Counts.</summary>
    public required bool Running { get; init; }

    /// <summary>When the count was loaded.</summary>
    public required ulong Start { get; init; }

    /// <summary>Ticks that had passed when the gate closed.</summary>
    public required ulong Paused { get; init; }

    /// <summary>The count, 1 to 65,536.</summary>
    public required uint Count { get; init; }

    /// <summary>The count that comes next, or 0.</summary>
    public required uint NextCount { get; init; }

    /// <summary>When it comes.</summary>
    public required ulong NextAt { get; init; }

    /// <summary>The low byte of a count whose high byte is still to be written.</summary>
    public required byte LowByte { get; init; }

    /// <summary>The next write is the high byte.</summary>
    public required bool WriteHigh { get; init; }

    /// <summary>The next read is the high byte.</summary>
    public required bool ReadHigh { get; init; }

    /// <summary>The latched count.</summary>
    public required ushort Latch { get; init; }

    /// <summary>A count is latched.</summary>
    public required bool Latched { get; init; }

    /// <summary>The latched status.</summary>
    public required byte Status { get; init; }

    /// <summary>A status is latched.</summary>
    public required bool StatusLatched { get; init; }

    /// <summary>Waits for the next rising edge of OUT.</summary>
    public required TimerState? Timer { get; init; }
}

/// <summary>A real-time clock with its memory.</summary>
public sealed record RealTimeClockState
{
    /// <summary>The 128 bytes of CMOS memory, the alarm among them.</summary>
    public required byte[] Memory { get; init; }

    /// <summary>The index port.</summary>
    public required byte Index { get; init; }

    /// <summary>Register A without the update flag.</summary>
    public required byte RateAndDivider { get; init; }

    /// <summary>Register B.</summary>
    public required byte Control { get; init; }

    /// <summary>Register C without its top bit.</summary>
    public required byte Flags { get; init; }

    /// <summary>What the guest set the clock ahead of the machine's by, in units of 100 ns.</summary>
    public required long Offset { get; init; }

    /// <summary>While updates are stopped: year, month, day, hour, minute and second as written. Null while the clock runs.</summary>
    public required int[]? Frozen { get; init; }

    /// <summary>The second that the flags account for, in units of 100 ns since year 1.</summary>
    public required long Accounted { get; init; }

    /// <summary>The periodic ticks that the flags account for.</summary>
    public required ulong PeriodsAccounted { get; init; }

    /// <summary>Waits for the next periodic interrupt.</summary>
    public required TimerState? PeriodicTimer { get; init; }

    /// <summary>Waits for the next second.</summary>
    public required TimerState? SecondTimer { get; init; }
}

/// <summary>An HPET.</summary>
public sealed record HpetState
{
    /// <summary>The general configuration register.</summary>
    public required ulong Configuration { get; init; }

    /// <summary>The general interrupt status register.</summary>
    public required ulong Status { get; init; }

    /// <summary>The counter while it stands; while it runs, what it is ahead of the clock by.</summary>
    public required ulong Counter { get; init; }

    /// <summary>The comparators.</summary>
    public required HpetComparatorState[] Comparators { get; init; }
}

/// <summary>A comparator of an HPET.</summary>
public sealed record HpetComparatorState
{
    /// <summary>The low half of its configuration register.</summary>
    public required ulong Configuration { get; init; }

    /// <summary>The comparator.</summary>
    public required ulong Match { get; init; }

    /// <summary>The period, or 0.</summary>
    public required ulong Period { get; init; }

    /// <summary>Waits for the match.</summary>
    public required TimerState? Timer { get; init; }
}
