using Vmm.Devices.Bus;

namespace Vmm.Devices.Platform;

/// <summary>
/// System control port A at 0x92 (ICH9 data sheet, section 13.7.2): bit 0 going from 0 to 1 pulls the processors' INIT line and
/// stays as written, so that software can tell an INIT from a reset, which clears it. Bit 1, address line 20, is always on.
/// </summary>
public sealed class SystemControlPortA : IDevice, IPortDevice
{
    /// <summary>The port.</summary>
    public const ushort Port = 0x92;

    private const byte AddressLine20 = 0x02;

    private readonly Action _init;

    /// <summary>Puts the port on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="init">Called when the guest pulls the INIT line.</param>
    public SystemControlPortA(SystemBus bus, Action init)
    {
        _init = init;
        bus.AddPorts(this, Port, 1);
    }

    /// <summary>Bit 0, without what its edge does: for firmware that begins anew after an INIT.</summary>
    public bool InitBit { get; set; }

    /// <inheritdoc/>
    public void Reset() => InitBit = false;

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) => (uint)(AddressLine20 | (InitBit ? 1 : 0));

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        bool pulled = (value & 1) != 0 && !InitBit;
        InitBit = (value & 1) != 0;
        if (pulled)
            _init();
    }
}
