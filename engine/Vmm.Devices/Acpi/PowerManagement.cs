using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Devices.Timers;
using Vmm.Hypervisor.Time;

namespace Vmm.Devices.Acpi;

/// <summary>
/// The fixed hardware of ACPI (ACPI 6.5, section 4.8): the PM1a event and control blocks, the 24-bit power management timer
/// and general-purpose event block 0. No SMI handler of ours needs to
/// be told, so the machine is always in ACPI mode.
/// </summary>
public sealed class PowerManagement : IDevice, IPortDevice
{
    /// <summary>PM1a_EVT_BLK: status, then enable, two bytes each.</summary>
    public const ushort EventBlock = 0x600;

    /// <summary>PM1a_CNT_BLK.</summary>
    public const ushort ControlBlock = 0x604;

    /// <summary>PM_TMR_BLK.</summary>
    public const ushort TimerBlock = 0x608;

    /// <summary>GPE0_BLK: 16 status bits, then 16 enable bits.</summary>
    public const ushort GeneralEventBlock = 0x620;

    /// <summary>The timer's frequency in hertz.</summary>
    public const uint TimerFrequency = 3_579_545;

    /// <summary>What SLP_TYP must be to power off; also in the \_S5 object of the DSDT.</summary>
    public const byte SoftOffType = 0;

    /// <summary>The interrupt of all ACPI events.</summary>
    public const int SciIrq = 9;

    private const int TimerBits = 24;
    private const ushort TimerStatus = 1 << 0;
    private const ushort GlobalStatus = 1 << 5;
    private const ushort PowerButtonStatus = 1 << 8;
    private const ushort SleepButtonStatus = 1 << 9;
    private const ushort ClockStatus = 1 << 10;
    private const ushort WakeStatus = 1 << 15;
    private const ushort EventStatusBits = TimerStatus | GlobalStatus | PowerButtonStatus | SleepButtonStatus | ClockStatus | WakeStatus;
    private const ushort EventEnableBits = TimerStatus | GlobalStatus | PowerButtonStatus | SleepButtonStatus | ClockStatus;
    private const ushort SciEnable = 1 << 0;
    private const ushort SleepEnable = 1 << 13;
    private const ushort ControlBits = 1 << 1 | 7 << 10;

    private readonly Oscillator _oscillator;
    private readonly IMachineTimer _timer;
    private readonly IInterruptLine _sci;
    private readonly Action _powerOff;
    private ushort _status;
    private ushort _enable;
    private ushort _control;
    private ushort _generalStatus;
    private ushort _generalEnable;

    /// <summary>How often the timer's top bit has toggled, as far as the status accounts for it.</summary>
    private ulong _carries;

    /// <summary>Puts the blocks on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="clock">The machine's clock.</param>
    /// <param name="sci">The system control interrupt, level-triggered.</param>
    /// <param name="powerOff">Called when the guest enters S5.</param>
    public PowerManagement(SystemBus bus, IMachineClock clock, IInterruptLine sci, Action powerOff)
    {
        _oscillator = new Oscillator(clock, TimerFrequency);
        _timer = clock.CreateTimer(Update);
        _sci = sci;
        _powerOff = powerOff;
        bus.AddPorts(this, EventBlock, 4, 2);
        bus.AddPorts(this, ControlBlock, 2, 2);
        bus.AddPorts(this, TimerBlock, 4, 4);
        bus.AddPorts(this, GeneralEventBlock, 4, 2);
        Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _status = _enable = _control = _generalStatus = _generalEnable = 0;
        _carries = Carries;
        Update();
    }

    /// <summary>Presses the power button: the guest decides what follows.</summary>
    public void PressPowerButton()
    {
        _status |= PowerButtonStatus;
        Update();
    }

    /// <summary>Raises a general-purpose event, 0 to 15.</summary>
    public void RaiseGeneralEvent(int number)
    {
        _generalStatus |= (ushort)(1 << number);
        Update();
    }

    private ulong Carries => _oscillator.Ticks >> TimerBits - 1;

    private void Update()
    {
        ulong carries = Carries;
        if (carries != _carries)
        {
            _carries = carries;
            _status |= TimerStatus;
        }
        _sci.Set((_status & _enable) != 0 || (_generalStatus & _generalEnable) != 0);
        // The carry needs watching only where it interrupts and has not yet.
        if ((_enable & ~_status & TimerStatus) != 0)
            _timer.Arm(_oscillator.TimeOf(carries + 1 << TimerBits - 1));
        else
            _timer.Disarm();
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (port >= TimerBlock && port < TimerBlock + 4)
            return (uint)(_oscillator.Ticks & (1 << TimerBits) - 1) >> (port - TimerBlock) * 8;
        if ((port & 1) + size > 2)
            return 0;
        Update();
        uint word = (port & ~1) switch
        {
            EventBlock => _status,
            EventBlock + 2 => _enable,
            ControlBlock => (uint)(_control | SciEnable),
            GeneralEventBlock => _generalStatus,
            _ => _generalEnable,
        };
        return word >> (port & 1) * 8;
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (port >= TimerBlock && port < TimerBlock + 4 || (port & 1) + size > 2)
            return;
        Update();
        int shift = (port & 1) * 8;
        ushort written = (ushort)(value << shift);
        ushort kept = size == 2 ? (ushort)0 : (ushort)(0xFF00 >> shift);
        switch (port & ~1)
        {
            case EventBlock:
                _status &= (ushort)~(written & EventStatusBits);
                break;
            case EventBlock + 2:
                _enable = (ushort)((_enable & kept | written) & EventEnableBits);
                break;
            case ControlBlock:
                _control = (ushort)((_control & kept | written) & ControlBits);
                // Sleep states other than S5 are not in the DSDT; entering one would not wake again.
                if ((written & SleepEnable) != 0 && (_control >> 10 & 7) == SoftOffType)
                    _powerOff();
                break;
            case GeneralEventBlock:
                _generalStatus &= (ushort)~written;
                break;
            case GeneralEventBlock + 2:
                _generalEnable = (ushort)(_generalEnable & kept | written);
                break;
        }
        Update();
    }

    /// <summary>Its state between two accesses.</summary>
    public PowerManagementState Save() => new()
    {
        Status = _status,
        Enable = _enable,
        Control = _control,
        GeneralStatus = _generalStatus,
        GeneralEnable = _generalEnable,
        Carries = _carries,
        Timer = _timer.Save(),
    };

    /// <summary>Takes a saved state; the interrupt does not change by that.</summary>
    public void Load(PowerManagementState state)
    {
        _status = (ushort)(state.Status & EventStatusBits);
        _enable = (ushort)(state.Enable & EventEnableBits);
        _control = (ushort)(state.Control & ControlBits);
        _generalStatus = state.GeneralStatus;
        _generalEnable = state.GeneralEnable;
        _carries = state.Carries;
        _timer.Load(state.Timer);
    }
}
