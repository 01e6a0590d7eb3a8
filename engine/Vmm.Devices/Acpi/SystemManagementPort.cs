using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apic;

namespace Vmm.Devices.Acpi;

/// <summary>
/// The ports by which software calls the SMI handler (82801IB data sheet, sections 13.7.1 and 13.8.3): a write of the control port is an SMI
/// to every processor, where SMI_EN has that on. Firmware that has a handler turns it on; without one the ports hold two bytes.
/// </summary>
public sealed class SystemManagementPort : IDevice, IPortDevice
{
    /// <summary>APM_CNT, and behind it APM_STS: a byte each.</summary>
    public const ushort ControlPort = 0xB2;

    /// <summary>SMI_EN, 4 bytes, and behind it SMI_STS: at the same distance from the ACPI blocks as on the chip.</summary>
    public const ushort EnableBlock = PowerManagement.EventBlock + 0x30;

    private const uint GlobalEnable = 1 << 0, PortEnable = 1 << 5, PortStatus = 1 << 5;
    private const uint Everyone = 0xFF;

    private readonly IInterruptSink _interrupts;
    private byte _control;
    private byte _data;
    private uint _enable;
    private uint _status;

    /// <summary>Puts the ports on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="interrupts">Where the SMIs go.</param>
    public SystemManagementPort(SystemBus bus, IInterruptSink interrupts)
    {
        _interrupts = interrupts;
        bus.AddPorts(this, ControlPort, 2);
        bus.AddPorts(this, EnableBlock, 8, 4);
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _control = _data = 0;
        _enable = _status = 0;
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) => port switch
    {
        ControlPort => _control,
        ControlPort + 1 => _data,
        < EnableBlock + 4 => _enable >> (port - EnableBlock) * 8,
        _ => _status >> (port - EnableBlock - 4) * 8,
    };

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        switch (port)
        {
            case ControlPort:
                _control = (byte)value;
                if ((_enable & (GlobalEnable | PortEnable)) != (GlobalEnable | PortEnable))
                    break;
                _status |= PortStatus;
                _interrupts.Deliver(new InterruptMessage(Everyone, Logical: false, DeliveryMode.Smi, 0, LevelTriggered: false));
                break;
            case ControlPort + 1:
                _data = (byte)value;
                break;
            // Only the low byte of either register has a bit that does something.
            case EnableBlock:
                _enable = value & (GlobalEnable | PortEnable);
                break;
            case EnableBlock + 4:
                _status &= ~value;
                break;
        }
    }

    /// <summary>Its state between two accesses; null where it is as after reset.</summary>
    public SystemManagementPortState? Save() => (_control, _data, _enable, _status) == (0, 0, 0u, 0u) ? null : new()
    {
        Control = _control,
        Data = _data,
        Enable = _enable,
        Status = _status,
    };

    /// <summary>Takes a saved state; no SMI comes of it.</summary>
    public void Load(SystemManagementPortState? state)
    {
        _control = state?.Control ?? 0;
        _data = state?.Data ?? 0;
        _enable = (state?.Enable ?? 0) & (GlobalEnable | PortEnable);
        _status = (state?.Status ?? 0) & PortStatus;
    }
}
