using System.Buffers.Binary;
using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Pci;

/// <summary>
/// One function of a PCI device: 256 bytes of configuration space with a header of type 0 (PCI Local Bus Specification 3.0,
/// chapter 6), memory base address registers and a list of capabilities.
/// </summary>
public abstract class PciFunction : IDevice
{
    /// <summary>Bytes of configuration space.</summary>
    public const int ConfigSize = 256;

    private const int Command = 0x04;
    private const int Status = 0x06;
    private const int FirstBar = 0x10;
    private const int CapabilityPointer = 0x34;
    private const int InterruptLine = 0x3C;
    private const int InterruptPin = 0x3D;

    private const ushort MemorySpace = 1 << 1;
    private const ushort BusMaster = 1 << 2;
    private const ushort InterruptDisable = 1 << 10;
    private const ushort InterruptStatus = 1 << 3;
    private const ushort HasCapabilities = 1 << 4;

    private readonly byte[] _config = new byte[ConfigSize];
    private readonly byte[] _writable = new byte[ConfigSize];
    private readonly byte[] _initial = new byte[ConfigSize];
    private readonly List<(int Register, uint Size, MemoryWindow Window)> _bars = [];
    private int _lastCapability = CapabilityPointer;
    private int _nextCapability = 0x40;
    private IInterruptLine? _interrupt;
    private bool _interruptWanted;

    /// <summary>Describes a function.</summary>
    protected PciFunction(ushort vendor, ushort device, uint classCode, byte revision, ushort subsystemVendor = 0, ushort subsystem = 0)
    {
        Initial16(0x00, vendor);
        Initial16(0x02, device);
        BinaryPrimitives.WriteUInt32LittleEndian(_initial.AsSpan(0x08), classCode << 8 | revision);
        Initial16(0x2C, subsystemVendor);
        Initial16(0x2E, subsystem);
        _writable[0x0C] = 0xFF;
        Writable16(Command, MemorySpace | BusMaster | InterruptDisable | 1 << 8);
        _writable[InterruptLine] = 0xFF;
    }

    private void Initial16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_initial.AsSpan(offset), value);

    private void Writable16(int offset, ushort mask) => BinaryPrimitives.WriteUInt16LittleEndian(_writable.AsSpan(offset), mask);

    private ushort CommandRegister => BinaryPrimitives.ReadUInt16LittleEndian(_config.AsSpan(Command));

    /// <summary>Whether the guest lets the function master the bus.</summary>
    protected bool IsBusMaster => (CommandRegister & BusMaster) != 0;

    /// <summary>Adds a 32-bit memory base address register. For constructors.</summary>
    /// <param name="bus">The bus that the window is on.</param>
    /// <param name="index">0 to 5.</param>
    /// <param name="size">A power of two from 16.</param>
    /// <param name="device">What answers there.</param>
    /// <param name="width">Its widest access in bytes.</param>
    protected void AddBar(SystemBus bus, int index, uint size, IMemoryDevice device, int width)
    {
        int register = FirstBar + index * 4;
        BinaryPrimitives.WriteUInt32LittleEndian(_writable.AsSpan(register), ~(size - 1));
        _bars.Add((register, size, bus.AddMovableMemory(device, size, width)));
    }

    /// <summary>Adds a capability behind the ones before. For constructors.</summary>
    /// <param name="id">Its identifier.</param>
    /// <param name="body">What follows the two header bytes, as it reads after a reset.</param>
    /// <param name="writable">Which bits of <paramref name="body"/> the guest can write; none where it is empty.</param>
    /// <returns>Its offset in configuration space.</returns>
    protected int AddCapability(byte id, ReadOnlySpan<byte> body, ReadOnlySpan<byte> writable = default)
    {
        int at = _nextCapability;
        _initial[_lastCapability] = (byte)at;
        _lastCapability = at + 1;
        _initial[at] = id;
        body.CopyTo(_initial.AsSpan(at + 2));
        writable.CopyTo(_writable.AsSpan(at + 2));
        _nextCapability = at + 2 + body.Length + 3 & ~3;
        _initial[Status] = (byte)HasCapabilities;
        return at;
    }

    /// <summary>Wires the function's interrupt pin. For the host, when the function is put into a slot.</summary>
    internal void ConnectInterrupt(byte pin, IInterruptLine line)
    {
        _initial[InterruptPin] = pin;
        _interrupt = line;
    }

    /// <summary>Does as firmware does after a reset: places the memory windows from an address and turns them on.</summary>
    /// <returns>The next free address.</returns>
    internal ulong AssignResources(ulong next, byte interruptLine)
    {
        foreach ((int register, uint size, _) in _bars)
        {
            next = next + (size - 1) & ~(ulong)(size - 1);
            WriteConfig(register, 4, (uint)next);
            next += size;
        }
        if (_interrupt != null)
            WriteConfig(InterruptLine, 1, interruptLine);
        if (_bars.Count > 0)
            WriteConfig(Command, 2, MemorySpace | BusMaster);
        return next;
    }

    /// <inheritdoc/>
    public virtual void Reset()
    {
        _initial.CopyTo(_config, 0);
        _interruptWanted = false;
        UpdateInterrupt();
        MapBars();
    }

    /// <summary>Asserts or releases the interrupt pin; the guest can disable it in the command register.</summary>
    protected void SetInterrupt(bool asserted)
    {
        _interruptWanted = asserted;
        UpdateInterrupt();
    }

    private void UpdateInterrupt()
    {
        _config[Status] = (byte)(_config[Status] & ~InterruptStatus | (_interruptWanted ? InterruptStatus : 0));
        _interrupt?.Set(_interruptWanted && (CommandRegister & InterruptDisable) == 0);
    }

    private void MapBars()
    {
        bool enabled = (CommandRegister & MemorySpace) != 0;
        foreach ((int register, uint size, MemoryWindow window) in _bars)
        {
            uint at = BinaryPrimitives.ReadUInt32LittleEndian(_config.AsSpan(register)) & ~(size - 1);
            window.MapAt(enabled && at != 0 ? at : null);
        }
    }

    /// <summary>Reads configuration space. What lies beyond it reads as zeros.</summary>
    public uint ReadConfig(int offset, int size)
    {
        uint value = 0;
        for (int i = 0; i < size; i++)
        {
            if (offset + i < ConfigSize)
                value |= (uint)_config[offset + i] << i * 8;
        }
        return value;
    }

    /// <summary>Writes the writable bits of configuration space.</summary>
    public void WriteConfig(int offset, int size, uint value)
    {
        for (int i = 0; i < size && offset + i < ConfigSize; i++)
        {
            byte mask = _writable[offset + i];
            _config[offset + i] = (byte)(_config[offset + i] & ~mask | (byte)(value >> i * 8) & mask);
        }
        if (offset < FirstBar + 24)
        {
            UpdateInterrupt();
            MapBars();
        }
        else if (offset >= 0x40)
        {
            OnCapabilityWritten(offset, size);
        }
    }

    /// <summary>The guest wrote to a capability.</summary>
    protected virtual void OnCapabilityWritten(int offset, int size)
    {
    }

    /// <summary>Its state between two accesses.</summary>
    public virtual PciFunctionState Save() => new() { Configuration = [.. _config], InterruptWanted = _interruptWanted, Virtio = null };

    /// <summary>Takes a saved state and puts its windows where they were; its interrupt does not change by that.</summary>
    /// <exception cref="InvalidStateException">It is none of this function.</exception>
    public virtual void Load(PciFunctionState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Configuration, ConfigSize, "PciFunction.Configuration");
        for (int i = 0; i < ConfigSize; i++)
        {
            int mayDiffer = _writable[i] | (i == Status ? InterruptStatus : 0);
            InvalidStateException.ThrowUnless(
                ((state.Configuration[i] ^ _initial[i]) & ~mayDiffer) == 0, "PciFunction.Configuration", $"byte 0x{i:x2} is that of another function.");
        }
        state.Configuration.CopyTo(_config, 0);
        _interruptWanted = state.InterruptWanted;
        MapBars();
    }
}
