using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Timers;

/// <summary>
/// The Motorola MC146818A real-time clock with 128 bytes of CMOS memory, at ports 0x70 (index, and the NMI mask in bit 7) and
/// 0x71. It starts at the machine's wall clock in UTC and interrupts on IRQ 8.
/// </summary>
public sealed class RealTimeClock : IDevice, IPortDevice
{
    private const ushort IndexPort = 0x70;

    private const int Seconds = 0x00;
    private const int SecondsAlarm = 0x01;
    private const int Minutes = 0x02;
    private const int MinutesAlarm = 0x03;
    private const int Hours = 0x04;
    private const int HoursAlarm = 0x05;
    private const int DayOfWeek = 0x06;
    private const int DayOfMonth = 0x07;
    private const int Month = 0x08;
    private const int Year = 0x09;
    private const int RegisterA = 0x0A;
    private const int RegisterB = 0x0B;
    private const int RegisterC = 0x0C;
    private const int RegisterD = 0x0D;

    /// <summary>Where PCs keep the century; the FADT says so.</summary>
    public const int Century = 0x32;

    private const byte UpdateInProgress = 0x80;
    private const byte Set = 0x80;
    private const byte PeriodicFlag = 0x40;
    private const byte AlarmFlag = 0x20;
    private const byte UpdateFlag = 0x10;
    private const byte EnabledFlags = PeriodicFlag | AlarmFlag | UpdateFlag;
    private const byte Binary = 0x04;
    private const byte TwentyFourHours = 0x02;

    /// <summary>Update in progress shows 244 µs before the update, which takes 1984 µs (data sheet, table 5).</summary>
    private static readonly TimeSpan UpdateWindow = TimeSpan.FromMicroseconds(244 + 1984);

    private readonly record struct Fields(int Year, int Month, int Day, int Hour, int Minute, int Second)
    {
        internal static Fields Of(DateTime time) => new(time.Year, time.Month, time.Day, time.Hour, time.Minute, time.Second);

        /// <summary>The nearest date where the values make none.</summary>
        internal DateTime ToDate()
        {
            int year = Math.Clamp(Year, 1, 9999);
            int month = Math.Clamp(Month, 1, 12);
            return new DateTime(
                year, month, Math.Clamp(Day, 1, DateTime.DaysInMonth(year, month)),
                Math.Clamp(Hour, 0, 23), Math.Clamp(Minute, 0, 59), Math.Clamp(Second, 0, 59), DateTimeKind.Utc);
        }
    }

    private readonly IMachineClock _clock;
    private readonly IMachineTimer _periodicTimer;
    private readonly IMachineTimer _secondTimer;
    private readonly Oscillator _oscillator;
    private readonly IInterruptLine _irq;
    private readonly byte[] _memory = new byte[128];
    private byte _index;
    private byte _rateAndDivider;
    private byte _control;
    private byte _flags;

    /// <summary>What the guest set the clock ahead of the machine's by.</summary>
    private TimeSpan _offset;

    /// <summary>
    /// What the registers hold while the SET bit or the divider stops the updates: any values in any order of writing, which
    /// need not make a date until the updates go on.
    /// </summary>
    private Fields? _frozen;

    /// <summary>The second of the last update that the flags account for.</summary>
    private DateTime _accounted;

    /// <summary>The periodic ticks that the flags account for.</summary>
    private ulong _periodsAccounted;

    /// <summary>Puts the clock on the bus.</summary>
    public RealTimeClock(SystemBus bus, IMachineClock clock, IInterruptLine irq8)
    {
        _clock = clock;
        _irq = irq8;
        _oscillator = new Oscillator(clock, 32768);
        _periodicTimer = clock.CreateTimer(OnTimer);
        _secondTimer = clock.CreateTimer(OnTimer);
        bus.AddPorts(this, IndexPort, 2);
        Reset();
    }

    /// <summary>Whether the index port masks non-maskable interrupts.</summary>
    public bool NmiMasked => (_index & 0x80) != 0;

    /// <summary>Sets a byte of CMOS memory as firmware would.</summary>
    /// <param name="index">0x0E to 0x7F without <see cref="Century"/>.</param>
    /// <param name="value">The byte.</param>
    public void SetMemory(int index, byte value) => _memory[index] = value;

    /// <inheritdoc/>
    /// <remarks>The battery keeps the time and the memory; the reset line clears the interrupt enables and flags.</remarks>
    public void Reset()
    {
        _index = 0;
        // 32.768 kHz time base, periodic rate 1024 Hz.
        _rateAndDivider = 0x26;
        _control = TwentyFourHours;
        _flags = 0;
        if (_frozen is { } fields)
            _offset = fields.ToDate() - _clock.UtcNow.UtcDateTime;
        _frozen = null;
        _accounted = Truncate(Now);
        _periodsAccounted = Periods;
        Schedule();
    }

    private DateTime Now
    {
        get
        {
            if (_frozen is { } frozen)
                return frozen.ToDate();
            DateTime now = _clock.UtcNow.UtcDateTime;
            // The guest chooses the offset: keep the sum within what a date can hold.
            long ticks = Math.Clamp(now.Ticks + _offset.Ticks, 0, DateTime.MaxValue.Ticks);
            return new DateTime(ticks, DateTimeKind.Utc);
        }
    }

    private Fields Shown => _frozen ?? Fields.Of(Now);

    private static DateTime Truncate(DateTime time) => new(time.Ticks - time.Ticks % TimeSpan.TicksPerSecond, DateTimeKind.Utc);

    private bool Runs => _frozen == null;

    /// <summary>Ticks of 32.768 kHz between periodic interrupts, or 0 for none (data sheet, table 5: rates 1 and 2 are those of 8 and 9).</summary>
    private ulong PeriodTicks
    {
        get
        {
            int rate = _rateAndDivider & 0x0F;
            if (rate == 0 || !Runs)
                return 0;
            return 1UL << (rate < 3 ? rate + 6 : rate - 1);
        }
    }

    private ulong Periods => PeriodTicks is var period and > 0 ? _oscillator.Ticks / period : 0;

    /// <summary>Sets the flags for what has happened since they were last looked at.</summary>
    private void Account()
    {
        ulong periods = Periods;
        if (periods != _periodsAccounted)
        {
            _periodsAccounted = periods;
            _flags |= PeriodicFlag;
        }
        DateTime second = Truncate(Now);
        if (second != _accounted)
        {
            _flags |= UpdateFlag;
            // A day of missed seconds holds every alarm there is.
            long missed = Math.Min((long)(second - _accounted).TotalSeconds, 86_400);
            for (long i = 0; i < missed && (_flags & AlarmFlag) == 0; i++)
            {
                if (AlarmMatches(second.AddSeconds(-i)))
                    _flags |= AlarmFlag;
            }
            _accounted = second;
        }
        _irq.Set((_flags & _control & EnabledFlags) != 0);
    }

    private bool AlarmMatches(DateTime time) =>
        Matches(_memory[SecondsAlarm], Encode(time.Second))
        && Matches(_memory[MinutesAlarm], Encode(time.Minute))
        && Matches(_memory[HoursAlarm], EncodeHour(time.Hour));

    /// <summary>An alarm byte from 0xC0 on matches anything.</summary>
    private static bool Matches(byte alarm, byte value) => alarm >= 0xC0 || alarm == value;

    private void OnTimer()
    {
        Account();
        Schedule();
    }

    /// <summary>Arms timers only for what can interrupt, so that an idle machine has nothing to wake for.</summary>
    private void Schedule()
    {
        _irq.Set((_flags & _control & EnabledFlags) != 0);
        if ((_control & PeriodicFlag) != 0 && PeriodTicks is var period and > 0)
            _periodicTimer.Arm(_oscillator.TimeOf((Periods + 1) * period));
        else
            _periodicTimer.Disarm();

        if ((_control & (AlarmFlag | UpdateFlag)) != 0 && Runs)
        {
            long rest = TimeSpan.TicksPerSecond - Now.Ticks % TimeSpan.TicksPerSecond;
            _secondTimer.Arm(_clock.Nanoseconds + (ulong)rest * 100);
        }
        else
        {
            _secondTimer.Disarm();
        }
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (port == IndexPort)
            return _index;
        int index = _index & 0x7F;
        switch (index)
        {
            case Seconds:
                return Encode(Shown.Second);
            case Minutes:
                return Encode(Shown.Minute);
            case Hours:
                return EncodeHour(Shown.Hour);
            case DayOfWeek:
                return Encode((int)Now.DayOfWeek + 1);
            case DayOfMonth:
                return Encode(Shown.Day);
            case Month:
                return Encode(Shown.Month);
            case Year:
                return Encode(Shown.Year % 100);
            case Century:
                return Encode(Shown.Year / 100);
            case RegisterA:
                bool updating = Runs && TimeSpan.TicksPerSecond - Now.Ticks % TimeSpan.TicksPerSecond <= UpdateWindow.Ticks;
                return _rateAndDivider | (updating ? (uint)UpdateInProgress : 0);
            case RegisterB:
                return _control;
            case RegisterC:
                Account();
                uint flags = _flags | ((_flags & _control & EnabledFlags) != 0 ? 0x80u : 0);
                _flags = 0;
                _irq.Set(false);
                return flags;
            case RegisterD:
                // Valid RAM and time: the battery is good.
                return 0x80;
            default:
                return _memory[index];
        }
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (port == IndexPort)
        {
            _index = (byte)value;
            return;
        }
        int index = _index & 0x7F;
        switch (index)
        {
            case Seconds or Minutes or Hours or DayOfWeek or DayOfMonth or Month or Year or Century:
                SetTime(index, (byte)value);
                break;
            case RegisterA:
                Account();
                _rateAndDivider = (byte)(value & 0x7F);
                Freeze();
                _periodsAccounted = Periods;
                Schedule();
                break;
            case RegisterB:
                Account();
                _control = (byte)value;
                // SET also clears the update interrupt's enable (data sheet, register B).
                if ((value & Set) != 0)
                    _control &= unchecked((byte)~UpdateFlag);
                Freeze();
                Schedule();
                break;
            case RegisterC or RegisterD:
                break;
            default:
                _memory[index] = (byte)value;
                break;
        }
    }

    /// <summary>Stops or restarts the updates after the SET bit or the divider changed.</summary>
    private void Freeze()
    {
        // Dividers 0 to 2 select a time base, of which a PC has one; 6 and 7 hold the chain in reset.
        bool stop = (_control & Set) != 0 || (_rateAndDivider & 0x60) == 0x60;
        if (stop && _frozen == null)
        {
            _frozen = Fields.Of(Now);
        }
        else if (!stop && _frozen is { } fields)
        {
            _offset = fields.ToDate() - _clock.UtcNow.UtcDateTime;
            _frozen = null;
            _accounted = Truncate(Now);
            _periodsAccounted = Periods;
        }
    }

    /// <summary>Sets one field of the time.</summary>
    private void SetTime(int index, byte value)
    {
        Fields shown = Shown;
        Fields changed = index switch
        {
            Seconds => shown with { Second = Decode(value) },
            Minutes => shown with { Minute = Decode(value) },
            Hours => shown with { Hour = DecodeHour(value) },
            DayOfMonth => shown with { Day = Decode(value) },
            Month => shown with { Month = Decode(value) },
            Year => shown with { Year = shown.Year / 100 * 100 + Math.Min(Decode(value), 99) },
            Century => shown with { Year = Math.Min(Decode(value), 99) * 100 + shown.Year % 100 },
            // The day of the week follows from the date.
            _ => shown,
        };
        if (_frozen != null)
            _frozen = changed;
        else
            _offset += changed.ToDate() - shown.ToDate();
        _accounted = Truncate(Now);
        Schedule();
    }

    private byte Encode(int value) => (_control & Binary) != 0 ? (byte)value : (byte)(value / 10 << 4 | value % 10);

    private int Decode(byte value) => (_control & Binary) != 0 ? value : (value >> 4) * 10 + (value & 0x0F);

    private byte EncodeHour(int hour)
    {
        if ((_control & TwentyFourHours) != 0)
            return Encode(hour);
        int twelve = hour % 12 == 0 ? 12 : hour % 12;
        return (byte)(Encode(twelve) | (hour >= 12 ? 0x80 : 0));
    }

    private int DecodeHour(byte value)
    {
        if ((_control & TwentyFourHours) != 0)
            return Decode(value);
        return Decode((byte)(value & 0x7F)) % 12 + ((value & 0x80) != 0 ? 12 : 0);
    }

    /// <summary>Its state between two accesses.</summary>
    public RealTimeClockState Save() => new()
    {
        Memory = [.. _memory],
        Index = _index,
        RateAndDivider = _rateAndDivider,
        Control = _control,
        Flags = _flags,
        Offset = _offset.Ticks,
        Frozen = _frozen is { } f ? [f.Year, f.Month, f.Day, f.Hour, f.Minute, f.Second] : null,
        Accounted = _accounted.Ticks,
        PeriodsAccounted = _periodsAccounted,
        PeriodicTimer = _periodicTimer.Save(),
        SecondTimer = _secondTimer.Save(),
    };

    /// <summary>Takes a saved state; the interrupt does not change by that.</summary>
    /// <exception cref="InvalidStateException">It is none of a real-time clock.</exception>
    public void Load(RealTimeClockState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Memory, _memory.Length, "RealTimeClock.Memory");
        InvalidStateException.ThrowUnless(
            state.Offset >= -DateTime.MaxValue.Ticks && state.Offset <= DateTime.MaxValue.Ticks, "RealTimeClock.Offset", "it leads out of the calendar.");
        InvalidStateException.ThrowUnless(
            state.Accounted >= 0 && state.Accounted <= DateTime.MaxValue.Ticks, "RealTimeClock.Accounted", "it is not in the calendar.");
        if (state.Frozen is { } frozen)
        {
            InvalidStateException.ThrowUnlessLength(frozen, 6, "RealTimeClock.Frozen");
            foreach (int field in frozen)
                InvalidStateException.ThrowUnless(field is >= 0 and <= 9999, "RealTimeClock.Frozen", $"no register holds {field}.");
            _frozen = new Fields(frozen[0], frozen[1], frozen[2], frozen[3], frozen[4], frozen[5]);
        }
        else
        {
            _frozen = null;
        }
        state.Memory.CopyTo(_memory, 0);
        _index = state.Index;
        _rateAndDivider = (byte)(state.RateAndDivider & 0x7F);
        _control = state.Control;
        _flags = (byte)(state.Flags & EnabledFlags);
        _offset = new TimeSpan(state.Offset);
        _accounted = new DateTime(state.Accounted, DateTimeKind.Utc);
        _periodsAccounted = state.PeriodsAccounted;
        _periodicTimer.Load(state.PeriodicTimer);
        _secondTimer.Load(state.SecondTimer);
    }
}
