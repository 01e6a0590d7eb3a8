using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Timers;

/// <summary>
/// A high precision event timer block (IA-PC HPET Specification 1.0a): a 64-bit counter of 100 MHz and three comparators, all
/// able to be periodic. Legacy replacement routes comparators 0 and 1 to the interrupts of the PIT and the RTC.
/// </summary>
public sealed class Hpet : IDevice, IMemoryDevice
{
    /// <summary>The comparators.</summary>
    public const int TimerCount = 3;

    /// <summary>The low half of the capabilities, as the ACPI table repeats it: revision 1, 64 bits, legacy replacement, Intel.</summary>
    public const uint BlockId = 0x8086_0000 | 1 << 15 | 1 << 13 | (TimerCount - 1) << 8 | 1;

    /// <summary>10 ns in femtoseconds.</summary>
    private const uint PeriodFemtoseconds = 10_000_000;
    private const ulong NanosecondsPerTick = 10;

    /// <summary>Pins 20 to 23 of the I/O APIC, which nothing else drives.</summary>
    private const uint RoutingCapability = 0x00F0_0000;
    private const int FirstPin = 20;

    private const ulong Level = 1 << 1;
    private const ulong InterruptEnable = 1 << 2;
    private const ulong Periodic = 1 << 3;
    private const ulong PeriodicCapable = 1 << 4;
    private const ulong SizeCapable = 1 << 5;
    private const ulong SetAccumulator = 1 << 6;
    private const ulong Force32 = 1 << 8;
    private const ulong WritableConfiguration = Level | InterruptEnable | Periodic | SetAccumulator | Force32 | 0x1F << 9;

    private sealed class Comparator
    {
        internal ulong Configuration;
        internal ulong Match;
        internal ulong Period;
        internal required IMachineTimer Timer;
    }

    private readonly IMachineClock _clock;
    private readonly Comparator[] _comparators = new Comparator[TimerCount];
    private readonly IInterruptLine[] _pins;
    private readonly IInterruptLine[] _legacy;
    private readonly Action<bool> _legacyChanged;
    private ulong _configuration;
    private ulong _status;

    /// <summary>The counter while it stands; while it runs, what it is ahead of the clock by.</summary>
    private ulong _counter;

    /// <summary>Puts the block on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="address">Where the registers are.</param>
    /// <param name="clock">The machine's clock.</param>
    /// <param name="pins">Makes a source on a pin of the I/O APIC.</param>
    /// <param name="legacy">IRQ 0 and IRQ 8.</param>
    /// <param name="legacyChanged">Told when legacy replacement takes IRQ 0 and 8 from the PIT and the RTC, and when it gives them back.</param>
    public Hpet(SystemBus bus, ulong address, IMachineClock clock, Func<int, IInterruptLine> pins, IInterruptLine[] legacy, Action<bool> legacyChanged)
    {
        _clock = clock;
        _legacy = legacy;
        _legacyChanged = legacyChanged;
        _pins = [pins(FirstPin), pins(FirstPin + 1), pins(FirstPin + 2), pins(FirstPin + 3)];
        for (int i = 0; i < TimerCount; i++)
        {
            int index = i;
            _comparators[i] = new Comparator { Timer = clock.CreateTimer(() => OnTimer(index)) };
        }
        bus.AddMemory(this, address, 0x400, 8);
        Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _configuration = _status = _counter = 0;
        foreach (Comparator comparator in _comparators)
        {
            comparator.Configuration = PeriodicCapable | SizeCapable;
            comparator.Match = ulong.MaxValue;
            comparator.Period = 0;
            comparator.Timer.Disarm();
        }
        foreach (IInterruptLine line in (IInterruptLine[])[.. _pins, .. _legacy])
            line.Set(false);
        _legacyChanged(false);
    }

    private bool Enabled => (_configuration & 1) != 0;

    private bool LegacyReplacement => (_configuration & 2) != 0;

    private ulong Now => _clock.Nanoseconds / NanosecondsPerTick;

    private ulong Counter => Enabled ? _counter + Now : _counter;

    private static bool Is32(Comparator comparator) => (comparator.Configuration & Force32) != 0;

    /// <summary>Ticks until a comparator matches next, or null where it never will.</summary>
    private ulong? TicksToMatch(Comparator comparator)
    {
        ulong distance = comparator.Match - Counter;
        if (Is32(comparator))
            return (uint)distance == 0 ? 1UL << 32 : (uint)distance;
        // A 64-bit counter takes 5,800 years to come round: what lies behind it has passed.
        return distance is 0 or > long.MaxValue ? null : distance;
    }

    /// <summary>Whether anyone would notice a match: without its interrupt an edge-triggered comparator leaves no trace.</summary>
    private static bool IsObserved(Comparator comparator) => (comparator.Configuration & (Level | InterruptEnable)) != 0;

    /// <summary>Moves a periodic comparator past the matches that nobody watched for.</summary>
    private void CatchUp(Comparator comparator)
    {
        if (!Enabled || (comparator.Configuration & Periodic) == 0 || comparator.Period == 0)
            return;
        ulong late = Counter - comparator.Match;
        if (Is32(comparator) ? (int)late < 0 : (long)late < 0)
            return;
        late = Is32(comparator) ? (uint)late : late;
        comparator.Match += (late / comparator.Period + 1) * comparator.Period;
        if (Is32(comparator))
            comparator.Match = (uint)comparator.Match;
    }

    private void Schedule(Comparator comparator)
    {
        // Kernels leave comparators running with their interrupts off: an idle machine should not wake for those.
        if (!IsObserved(comparator))
        {
            comparator.Timer.Disarm();
            return;
        }
        CatchUp(comparator);
        if (!Enabled || TicksToMatch(comparator) is not { } ticks || ticks > long.MaxValue / NanosecondsPerTick / 2)
            comparator.Timer.Disarm();
        else
            comparator.Timer.Arm((Now + ticks) * NanosecondsPerTick);
    }

    private void OnTimer(int index)
    {
        Comparator comparator = _comparators[index];
        if (!Enabled)
            return;
        if ((comparator.Configuration & Periodic) != 0 && comparator.Period != 0)
        {
            // The comparator moves on by whole periods; ones that were missed are not made up for.
            ulong late = Is32(comparator) ? (uint)(Counter - comparator.Match) : Counter - comparator.Match;
            comparator.Match += (late / comparator.Period + 1) * comparator.Period;
            if (Is32(comparator))
                comparator.Match = (uint)comparator.Match;
        }
        Fire(index);
        Schedule(comparator);
    }

    private void Fire(int index)
    {
        Comparator comparator = _comparators[index];
        if ((comparator.Configuration & Level) != 0)
        {
            _status |= 1UL << index;
            UpdateLevel(index);
        }
        else if ((comparator.Configuration & InterruptEnable) != 0)
        {
            Line(index)?.Edge();
        }
    }

    private void UpdateLevel(int index)
    {
        ulong configuration = _comparators[index].Configuration;
        if ((configuration & Level) != 0)
            Line(index)?.Set((_status & 1UL << index) != 0 && (configuration & InterruptEnable) != 0);
    }

    /// <summary>The wire that a comparator drives now: an impossible route drives none.</summary>
    private IInterruptLine? Line(int index)
    {
        if (LegacyReplacement && index < 2)
            return _legacy[index];
        int pin = (int)(_comparators[index].Configuration >> 9 & 0x1F) - FirstPin;
        return (uint)pin < (uint)_pins.Length ? _pins[pin] : null;
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        // Accesses that cross a register are not allowed (section 2.3.2); the rest of them reads as zeros.
        ulong value = ReadRegister(offset & ~7UL);
        return value >> (int)(offset & 7) * 8;
    }

    private ulong ReadRegister(ulong offset)
    {
        switch (offset)
        {
            case 0x000:
                return (ulong)PeriodFemtoseconds << 32 | BlockId;
            case 0x010:
                return _configuration;
            case 0x020:
                return _status;
            case 0x0F0:
                return Counter;
        }
        if (Select(offset) is not { } index)
            return 0;
        Comparator comparator = _comparators[index];
        if (!IsObserved(comparator))
            CatchUp(comparator);
        return (offset & 0x1F) switch
        {
            0x00 => (ulong)RoutingCapability << 32 | comparator.Configuration,
            0x08 => Is32(comparator) ? (uint)comparator.Match : comparator.Match,
            _ => 0,
        };
    }

    private static int? Select(ulong offset) => offset is >= 0x100 and < 0x100 + TimerCount * 0x20 ? (int)(offset - 0x100) / 0x20 : null;

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
        int shift = (int)(offset & 7) * 8;
        ulong mask = (size == 8 ? ulong.MaxValue : (1UL << size * 8) - 1) << shift;
        value = value << shift & mask;
        offset &= ~7UL;
        switch (offset)
        {
            case 0x010:
                WriteConfiguration(_configuration & ~mask | value);
                return;
            case 0x020:
                _status &= ~value;
                for (int i = 0; i < TimerCount; i++)
                    UpdateLevel(i);
                return;
            case 0x0F0:
                // Writable while the counter stands (section 2.3.7).
                if (!Enabled)
                    _counter = _counter & ~mask | value;
                return;
        }
        if (Select(offset) is not { } index)
            return;
        Comparator comparator = _comparators[index];
        if ((offset & 0x1F) == 0)
            WriteTimerConfiguration(index, comparator, mask, value);
        else if ((offset & 0x1F) == 0x08)
            WriteComparator(comparator, mask, value);
    }

    private void WriteConfiguration(ulong value)
    {
        bool was = Enabled;
        bool wasLegacy = LegacyReplacement;
        ulong counter = Counter;
        if (((value ^ _configuration) & 2) != 0)
        {
            // What was driven on the old wires is let go.
            for (int i = 0; i < 2; i++)
                Line(i)?.Set(false);
        }
        _configuration = value & 3;
        if (Enabled != was)
            _counter = Enabled ? counter - Now : counter;
        if (LegacyReplacement != wasLegacy)
            _legacyChanged(LegacyReplacement);
        for (int i = 0; i < TimerCount; i++)
        {
            UpdateLevel(i);
            Schedule(_comparators[i]);
        }
    }

    private void WriteTimerConfiguration(int index, Comparator comparator, ulong mask, ulong value)
    {
        Line(index)?.Set(false);
        ulong writable = WritableConfiguration & mask;
        comparator.Configuration = comparator.Configuration & ~writable | value & writable;
        if (Is32(comparator))
        {
            comparator.Match = (uint)comparator.Match;
            comparator.Period = (uint)comparator.Period;
        }
        UpdateLevel(index);
        Schedule(comparator);
    }

    /// <summary>
    /// Section 2.3.9.2.2: in periodic mode a write sets the period, and with Tn_VAL_SET_CNF the comparator itself, once.
    /// </summary>
    private void WriteComparator(Comparator comparator, ulong mask, ulong value)
    {
        bool periodic = (comparator.Configuration & Periodic) != 0;
        if (!periodic || (comparator.Configuration & SetAccumulator) != 0)
            comparator.Match = comparator.Match & ~mask | value;
        if (periodic && (comparator.Configuration & SetAccumulator) == 0)
            comparator.Period = comparator.Period & ~mask | value;
        comparator.Configuration &= ~SetAccumulator;
        if (Is32(comparator))
        {
            comparator.Match = (uint)comparator.Match;
            comparator.Period = (uint)comparator.Period;
        }
        Schedule(comparator);
    }

    /// <summary>Its state between two accesses.</summary>
    public HpetState Save() => new()
    {
        Configuration = _configuration,
        Status = _status,
        Counter = _counter,
        Comparators = [.. _comparators.Select(comparator => new HpetComparatorState
        {
            Configuration = comparator.Configuration,
            Match = comparator.Match,
            Period = comparator.Period,
            Timer = comparator.Timer.Save(),
        })],
    };

    /// <summary>Takes a saved state; no wire changes by that.</summary>
    /// <exception cref="InvalidStateException">It is none of an HPET.</exception>
    public void Load(HpetState state)
    {
        InvalidStateException.ThrowUnless(state.Configuration <= 3, "Hpet.Configuration", "a reserved bit is set.");
        InvalidStateException.ThrowUnlessLength(state.Comparators, TimerCount, "Hpet.Comparators");
        for (int i = 0; i < TimerCount; i++)
        {
            HpetComparatorState saved = state.Comparators[i];
            InvalidStateException.ThrowUnless(saved != null, "Hpet.Comparators", "one is missing.");
            InvalidStateException.ThrowUnless(
                (saved!.Configuration & ~WritableConfiguration) == (PeriodicCapable | SizeCapable), "Hpet.Comparators.Configuration", "a bit that is fixed differs.");
            _comparators[i].Configuration = saved.Configuration;
            _comparators[i].Match = saved.Match;
            _comparators[i].Period = saved.Period;
            _comparators[i].Timer.Load(saved.Timer);
        }
        _configuration = state.Configuration;
        _status = state.Status;
        _counter = state.Counter;
    }
}
