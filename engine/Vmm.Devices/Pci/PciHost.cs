using Vmm.Devices.Bus;
using Vmm.Devices.Platform;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Pci;

/// <summary>
/// The root of PCI bus 0: configuration mechanism #1 at ports 0xCF8 and 0xCFC (PCI Local Bus Specification 3.0, section
/// 3.2.2.3.2), the memory-mapped one of PCI Express (ECAM), and the routing of INTA to INTD.
/// </summary>
public sealed class PciHost : IDevice, IPortDevice, IMemoryDevice
{
    /// <summary>Slots of the bus.</summary>
    public const int SlotCount = 32;

    private const ushort AddressPort = 0xCF8;
    private const ushort DataPort = 0xCFC;
    private const uint Enable = 0x8000_0000;

    private readonly PciFunction?[] _slots = new PciFunction?[SlotCount];
    private readonly ResetControl _resetControl;
    private readonly Func<int, IInterruptLine> _interrupts;
    private uint _address;

    /// <summary>Puts the host on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="ecamBase">Where configuration space is mapped.</param>
    /// <param name="resetControl">The register at 0xCF9, amid the address port.</param>
    /// <param name="interrupts">Makes a source on one of the four interrupt wires.</param>
    public PciHost(SystemBus bus, ulong ecamBase, ResetControl resetControl, Func<int, IInterruptLine> interrupts)
    {
        _resetControl = resetControl;
        _interrupts = interrupts;
        bus.AddPorts(this, AddressPort, 8, 4);
        bus.AddMemory(this, ecamBase, 0x10_0000, 4);
        Add(0, new HostBridge());
    }

    /// <summary>The functions that are plugged in, by slot.</summary>
    public IEnumerable<(int Slot, PciFunction Function)> Functions
    {
        get
        {
            for (int slot = 0; slot < SlotCount; slot++)
            {
                if (_slots[slot] is { } function)
                    yield return (slot, function);
            }
        }
    }

    /// <summary>Which of the four wires a slot's INTA is on; the _PRT of the DSDT says the same.</summary>
    public static int WireOf(int slot) => slot & 3;

    /// <summary>Plugs a function in.</summary>
    /// <exception cref="ArgumentException">The slot is taken, or there is none of that number.</exception>
    public void Add(int slot, PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        if ((uint)slot >= SlotCount || _slots[slot] != null)
            throw new ArgumentException($"PCI slot {slot} is not free.", nameof(slot));
        _slots[slot] = function;
        if (slot != 0)
            function.ConnectInterrupt(1, _interrupts(WireOf(slot)));
        function.Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _address = 0;
        foreach ((_, PciFunction function) in Functions)
            function.Reset();
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (port >= DataPort)
            return (_address & Enable) != 0 ? ReadConfig(_address & 0xFF_FFFC | port & 3u, size) : uint.MaxValue;
        if (port == AddressPort && size == 4)
            return _address;
        return port == ResetControl.Port && size == 1 ? _resetControl.Value : uint.MaxValue;
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (port >= DataPort)
        {
            if ((_address & Enable) != 0)
                WriteConfig(_address & 0xFF_FFFC | port & 3u, size, value);
        }
        else if (port == AddressPort && size == 4)
        {
            _address = value & 0x80FF_FFFC;
        }
        else if (port == ResetControl.Port && size == 1)
        {
            _resetControl.Value = (byte)value;
        }
    }

    private uint ReadConfig(uint address, int size) =>
        Find(address >> 8) is { } function ? function.ReadConfig((int)(address & 0xFF), size) : uint.MaxValue;

    private void WriteConfig(uint address, int size, uint value) => Find(address >> 8)?.WriteConfig((int)(address & 0xFF), size, value);

    /// <summary>The function at a bus, device and function number.</summary>
    private PciFunction? Find(uint address) => address < 0x100 && (address & 7) == 0 ? _slots[address >> 3] : null;

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size) =>
        Find((uint)(offset >> 12)) is { } function ? function.ReadConfig((int)(offset & 0xFFF), size) : uint.MaxValue;

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value) => Find((uint)(offset >> 12))?.WriteConfig((int)(offset & 0xFFF), size, (uint)value);

    /// <summary>Its state and that of its functions, between two accesses.</summary>
    public PciHostState Save() => new() { Address = _address, Slots = [.. _slots.Select(function => function?.Save())] };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">It is none of a host with these functions.</exception>
    public void Load(PciHostState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Slots, SlotCount, "PciHost.Slots");
        for (int slot = 0; slot < SlotCount; slot++)
        {
            InvalidStateException.ThrowUnless(state.Slots[slot] is null == _slots[slot] is null, "PciHost.Slots", $"slot {slot} has a function in one and none in the other.");
            if (state.Slots[slot] is { } function)
                _slots[slot]!.Load(function);
        }
        _address = state.Address & 0x80FF_FFFC;
    }

    /// <summary>The host bridge in slot 0: identifies itself as the DRAM controller of Intel's 82G33 (q35) chipset and does nothing more.</summary>
    private sealed class HostBridge() : PciFunction(0x8086, 0x29C0, 0x06_0000, 0, 0x1AF4, 0x1100);
}
