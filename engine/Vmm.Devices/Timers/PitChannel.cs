using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Timers;

/// <summary>
/// One counter of an Intel 8254 (data sheet 231164). Nothing ticks: counts and outputs are computed from the time since the
/// counter was loaded, and a timer is armed only where the output is wired to an interrupt.
/// </summary>
internal sealed class PitChannel
{
    private readonly Oscillator _oscillator;
    private readonly IMachineTimer? _timer;
    private readonly IInterruptLine? _output;

    private byte _mode;
    private byte _access;
    private bool _bcd;
    private bool _nullCount;
    private bool _gate = true;
    private bool _running;
    private ulong _start;
    private ulong _paused;
    private uint _count;
    private uint _nextCount;
    private ulong _nextAt;
    private byte _lowByte;
    private bool _writeHigh;
    private bool _readHigh;
    private ushort _latch;
    private bool _latched;
    private byte _status;
    private bool _statusLatched;

    /// <param name="oscillator">The 1.193182 MHz clock input.</param>
    /// <param name="clock">Gives the timer for <paramref name="output"/>.</param>
    /// <param name="output">Where the OUT pin goes, or null where it is only read.</param>
    internal PitChannel(Oscillator oscillator, IMachineClock clock, IInterruptLine? output)
    {
        _oscillator = oscillator;
        _output = output;
        if (output != null)
            _timer = clock.CreateTimer(OnTimer);
        Reset(gate: true);
    }

    /// <summary>
    /// The chip's state after power-on is undefined; this is what firmware's square wave leaves, but not running: OUT is high,
    /// so that the first control word makes no edge.
    /// </summary>
    internal void Reset(bool gate)
    {
        _mode = 3;
        _access = 3;
        _bcd = _running = _writeHigh = _readHigh = _latched = _statusLatched = false;
        _nullCount = true;
        _gate = gate;
        _count = 0x1_0000;
        _nextCount = 0;
        _timer?.Disarm();
        _output?.Set(true);
    }

    private uint Modulus => _bcd ? 10_000u : 0x1_0000u;

    /// <summary>Ticks since the current count was loaded, not counting those with the gate closed.</summary>
    private ulong Elapsed => _gate || _mode is 1 or 5 ? _oscillator.Ticks - _start : _paused;

    /// <summary>A count written while modes 2 and 3 run takes effect where the period ends (data sheet, modes 2 and 3).</summary>
    private void TakeNextCount()
    {
        if (_nextCount == 0 || !_gate || _oscillator.Ticks < _nextAt)
            return;
        _count = _nextCount;
        _start = _nextAt;
        _nextCount = 0;
        _nullCount = false;
    }

    /// <summary>The OUT pin.</summary>
    internal bool Output
    {
        get
        {
            TakeNextCount();
            if (!_running)
                return _mode != 0;
            ulong elapsed = Elapsed;
            return _mode switch
            {
                0 or 1 => elapsed >= _count,
                2 => !_gate || elapsed % _count != _count - 1,
                3 => !_gate || elapsed % _count < (_count + 1) / 2,
                _ => elapsed != _count,
            };
        }
    }

    private ushort CurrentCount
    {
        get
        {
            TakeNextCount();
            uint modulus = Modulus;
            uint value;
            if (!_running)
            {
                value = _count;
            }
            else
            {
                ulong elapsed = Elapsed;
                value = _mode switch
                {
                    2 => _count - (uint)(elapsed % _count),
                    // Counts down by two, twice per period; an odd count loses one tick of the low half.
                    3 => (_count & ~1u) - (uint)(elapsed % _count % ((_count + 1) / 2)) * 2,
                    _ => (uint)((_count + modulus - elapsed % modulus) % modulus),
                };
            }
            value %= modulus;
            return _bcd ? ToBcd(value) : (ushort)value;
        }
    }

    private static ushort ToBcd(uint value) => (ushort)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12);

    private static uint FromBcd(uint value) => (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12 & 15) * 1000;

    /// <summary>A control word for this counter, its select bits aside.</summary>
    internal void Control(byte word)
    {
        byte access = (byte)(word >> 4 & 3);
        if (access == 0)
        {
            LatchCount();
            return;
        }
        _access = access;
        byte mode = (byte)(word >> 1 & 7);
        // Modes 6 and 7 are 2 and 3: the data sheet's "don't care" bit.
        _mode = mode > 5 ? (byte)(mode - 4) : mode;
        _bcd = (word & 1) != 0;
        _nullCount = true;
        _running = false;
        _writeHigh = _readHigh = _latched = _statusLatched = false;
        _nextCount = 0;
        _timer?.Disarm();
        _output?.Set(_mode != 0);
    }

    internal void LatchCount()
    {
        if (_latched)
            return;
        _latch = CurrentCount;
        _latched = true;
    }

    internal void LatchStatus()
    {
        if (_statusLatched)
            return;
        _status = (byte)((Output ? 0x80 : 0) | (_nullCount ? 0x40 : 0) | _access << 4 | _mode << 1 | (_bcd ? 1 : 0));
        _statusLatched = true;
    }

    internal byte Read()
    {
        if (_statusLatched)
        {
            _statusLatched = false;
            return _status;
        }
        ushort value = _latched ? _latch : CurrentCount;
        bool high = _access == 2 || _access == 3 && _readHigh;
        if (_access == 3)
            _readHigh = !_readHigh;
        if (_access != 3 || high)
            _latched = false;
        return (byte)(high ? value >> 8 : value);
    }

    internal void Write(byte value)
    {
        switch (_access)
        {
            case 1:
                Load(value);
                break;
            case 2:
                Load((uint)value << 8);
                break;
            default:
                if (_writeHigh)
                {
                    _writeHigh = false;
                    Load((uint)value << 8 | _lowByte);
                    break;
                }
                _lowByte = value;
                _writeHigh = true;
                if (_mode == 0)
                {
                    // Data sheet, mode 0: the first byte of a two-byte count stops the counter and drops OUT.
                    _running = false;
                    _timer?.Disarm();
                    _output?.Set(false);
                }
                break;
        }
    }

    private void Load(uint raw)
    {
        uint count = _bcd ? FromBcd(raw) : raw;
        if (count == 0)
            count = Modulus;
        // A count of 1 is illegal in modes 2 and 3; it would make a period without an edge.
        if (count == 1 && _mode is 2 or 3)
            count = 2;
        if (_running && _mode is 2 or 3 && _gate)
        {
            TakeNextCount();
            ulong elapsed = Elapsed;
            _nextCount = count;
            _nextAt = _start + (elapsed / _count + 1) * _count;
            return;
        }
        if (_mode is 1 or 5)
        {
            // Waits for a rising edge of the gate, and does not disturb a shot in progress.
            _nullCount = true;
            _nextCount = count;
            _nextAt = ulong.MaxValue;
            return;
        }
        _count = count;
        _nullCount = false;
        _running = true;
        _start = _oscillator.Ticks;
        _paused = 0;
        _output?.Set(Output);
        Schedule();
    }

    /// <summary>The GATE pin.</summary>
    internal bool Gate
    {
        get => _gate;
        set
        {
            if (value == _gate)
                return;
            TakeNextCount();
            ulong now = _oscillator.Ticks;
            if (!value)
            {
                _paused = now - _start;
                _gate = false;
                _timer?.Disarm();
                return;
            }
            _gate = true;
            switch (_mode)
            {
                case 0:
                case 4:
                    _start = now - _paused;
                    break;
                default:
                    // A rising edge starts modes 1, 2, 3 and 5 afresh.
                    if (_nextCount != 0)
                        _count = _nextCount;
                    _nextCount = 0;
                    _start = now;
                    if (_mode is 1 or 5)
                    {
                        _running = true;
                        _nullCount = false;
                    }
                    break;
            }
            Schedule();
        }
    }

    /// <summary>
    /// Whether a rising edge of OUT would change anything. While none would, a periodic counter arms no timer: a machine that has nothing
    /// else to do sleeps on.
    /// </summary>
    internal Func<bool> IsHeard { get; set; } = () => true;

    /// <summary>Somebody may hear OUT who did not before.</summary>
    internal void Listen()
    {
        if (_timer is { IsArmed: false } && _mode is 2 or 3)
            Schedule();
    }

    /// <summary>Arms the timer for the next rising edge of OUT.</summary>
    private void Schedule()
    {
        if (_timer == null || !_running || _mode is 2 or 3 && !IsHeard())
            return;
        ulong elapsed = Elapsed;
        ulong edge = _mode switch
        {
            2 or 3 => (elapsed / _count + 1) * _count,
            0 or 1 => _count,
            _ => _count + 1,
        };
        if (edge > elapsed)
            _timer.Arm(_oscillator.TimeOf(_start + edge));
    }

    private void OnTimer()
    {
        TakeNextCount();
        if (!_running)
            return;
        // In the periodic modes the low phase before this edge is not shown on the wire: an edge-triggered input cannot tell.
        _output?.Edge();
        if (_mode is 2 or 3)
            Schedule();
    }

    internal PitChannelState Save() => new()
    {
        Mode = _mode,
        Access = _access,
        Bcd = _bcd,
        NullCount = _nullCount,
        Gate = _gate,
        Running = _running,
        Start = _start,
        Paused = _paused,
        Count = _count,
        NextCount = _nextCount,
        NextAt = _nextAt,
        LowByte = _lowByte,
        WriteHigh = _writeHigh,
        ReadHigh = _readHigh,
        Latch = _latch,
        Latched = _latched,
        Status = _status,
        StatusLatched = _statusLatched,
        Timer = _timer?.Save(),
    };

    internal void Load(PitChannelState state)
    {
        InvalidStateException.ThrowUnless(state.Mode <= 5, "PitChannel.Mode", "there are modes 0 to 5.");
        InvalidStateException.ThrowUnless(state.Access is >= 1 and <= 3, "PitChannel.Access", "it is none of 1 to 3.");
        InvalidStateException.ThrowUnless(state.Count is >= 1 and <= 0x1_0000, "PitChannel.Count", "a count is 1 to 65,536.");
        InvalidStateException.ThrowUnless(state.NextCount <= 0x1_0000, "PitChannel.NextCount", "a count is 1 to 65,536.");
        InvalidStateException.ThrowUnless(_timer != null || state.Timer == null, "PitChannel.Timer", "only counter 0 has one.");
        // Behind a closed gate the next edge would never come nearer, and its timer fire for ever.
        InvalidStateException.ThrowUnless(_timer == null || state.Gate, "PitChannel.Gate", "that of counter 0 is wired open.");
        _mode = state.Mode;
        _access = state.Access;
        _bcd = state.Bcd;
        _nullCount = state.NullCount;
        _gate = state.Gate;
        _running = state.Running;
        _start = state.Start;
        _paused = state.Paused;
        _count = state.Count;
        _nextCount = state.NextCount;
        _nextAt = state.NextAt;
        _lowByte = state.LowByte;
        _writeHigh = state.WriteHigh;
        _readHigh = state.ReadHigh;
        _latch = state.Latch;
        _latched = state.Latched;
        _status = state.Status;
        _statusLatched = state.StatusLatched;
        _timer?.Load(state.Timer);
    }
}
