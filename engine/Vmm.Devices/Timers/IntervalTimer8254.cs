using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Timers;

/// <summary>
/// The 8254 interval timer at ports 0x40 to 0x43, and the system control port 0x61 through which counter 2 is gated and read.
/// Counter 0 drives IRQ 0; counter 1 drove the refresh of DRAM and survives as the toggle bit of port 0x61.
/// </summary>
public sealed class IntervalTimer8254 : IDevice, IPortDevice
{
    /// <summary>The input clock: a twelfth of 14.31818 MHz.</summary>
    public const uint Frequency = 1_193_182;

    private const ushort FirstPort = 0x40;
    private const ushort ControlPort = 0x43;
    private const ushort SystemControlPort = 0x61;

    /// <summary>A refresh request about every 15 µs: 18 ticks.</summary>
    private const ulong RefreshTicks = 18;

    private readonly Oscillator _oscillator;
    private readonly PitChannel[] _channels;
    private byte _systemControl;

    /// <summary>Puts the timer on the bus.</summary>
    public IntervalTimer8254(SystemBus bus, IMachineClock clock, IInterruptLine irq0)
    {
        _oscillator = new Oscillator(clock, Frequency);
        _channels = [new(_oscillator, clock, irq0), new(_oscillator, clock, null), new(_oscillator, clock, null)];
        bus.AddPorts(this, FirstPort, 4);
        bus.AddPorts(this, SystemControlPort, 1);
        Reset();
    }

    /// <summary>Whether a rising edge of counter 0's output would change anything where it leads; always, unless the board knows better.</summary>
    public Func<bool> IsHeard
    {
        set => _channels[0].IsHeard = value;
    }

    /// <summary>To be called when <see cref="IsHeard"/> may have come true.</summary>
    public void Listen() => _channels[0].Listen();

    /// <inheritdoc/>
    public void Reset()
    {
        _systemControl = 0;
        _channels[0].Reset(gate: true);
        _channels[1].Reset(gate: true);
        _channels[2].Reset(gate: false);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (port == SystemControlPort)
        {
            bool refresh = (_oscillator.Ticks / RefreshTicks & 1) != 0;
            return (uint)(_systemControl | (refresh ? 0x10 : 0) | (_channels[2].Output ? 0x20 : 0));
        }
        // The control word register cannot be read: nobody drives the bus.
        return port == ControlPort ? 0xFFu : _channels[port - FirstPort].Read();
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        switch (port)
        {
            case SystemControlPort:
                // Bits 2 and 3 enable parity and channel checks, which never happen here.
                _systemControl = (byte)(value & 0x0F);
                _channels[2].Gate = (value & 1) != 0;
                break;
            case ControlPort:
                if (value >> 6 == 3)
                    ReadBack((byte)value);
                else
                    _channels[value >> 6].Control((byte)value);
                break;
            default:
                _channels[port - FirstPort].Write((byte)value);
                break;
        }
    }

    /// <summary>The read-back command: bits 5 and 4, active low, latch count and status of the counters in bits 1 to 3.</summary>
    private void ReadBack(byte word)
    {
        for (int channel = 0; channel < 3; channel++)
        {
            if ((word & 2 << channel) == 0)
                continue;
            if ((word & 0x20) == 0)
                _channels[channel].LatchCount();
            if ((word & 0x10) == 0)
                _channels[channel].LatchStatus();
        }
    }

    /// <summary>Its state between two accesses.</summary>
    public IntervalTimerState Save() => new() { Channels = [.. _channels.Select(channel => channel.Save())], SystemControl = _systemControl };

    /// <summary>Takes a saved state; no output changes by that.</summary>
    /// <exception cref="InvalidStateException">It is none of an 8254.</exception>
    public void Load(IntervalTimerState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Channels, _channels.Length, "IntervalTimer.Channels");
        for (int i = 0; i < _channels.Length; i++)
        {
            InvalidStateException.ThrowUnless(state.Channels[i] != null, "IntervalTimer.Channels", "one is missing.");
            _channels[i].Load(state.Channels[i]);
        }
        _systemControl = (byte)(state.SystemControl & 0x0F);
    }
}
