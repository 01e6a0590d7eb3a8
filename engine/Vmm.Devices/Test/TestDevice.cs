using System.Buffers.Binary;
using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Test;

/// <summary>
/// The ports that kvm-unit-tests and similar kernels know as pc-testdev: four bytes of echo at 0xE0 (and byte-wise at 0xE4),
/// interrupt lines 0 to 23 at 0x2000, and 64 KiB of scratch registers at 0xFF000000.
/// </summary>
public sealed class TestDevice : IDevice, IPortDevice, IMemoryDevice
{
    private const ushort EchoPort = 0xE0;
    private const ushort ByteEchoPort = 0xE4;
    private const ushort LinePort = 0x2000;
    private const int LineCount = 24;
    private const ulong ScratchAddress = 0xFF00_0000;
    private const int ScratchLength = 0x1_0000;

    private readonly IInterruptLine?[] _lines = new IInterruptLine?[LineCount];
    private readonly byte[] _echo = new byte[4];
    private readonly byte[] _scratch = new byte[ScratchLength];

    /// <summary>Puts the device on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="lines">Makes a source on a global system interrupt, or null where there is none to drive.</param>
    public TestDevice(SystemBus bus, Func<int, IInterruptLine?> lines)
    {
        for (int i = 0; i < LineCount; i++)
            _lines[i] = lines(i);
        bus.AddPorts(this, EchoPort, 4, 4);
        bus.AddPorts(this, ByteEchoPort, 4, 1);
        bus.AddPorts(this, LinePort, LineCount, 1);
        bus.AddMemory(this, ScratchAddress, ScratchLength, 8);
    }

    /// <inheritdoc/>
    public void Reset()
    {
        foreach (IInterruptLine? line in _lines)
            line?.Set(false);
        Array.Clear(_echo);
        Array.Clear(_scratch);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) =>
        port >= LinePort ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(_echo) >> (port & 3) * 8;

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (port >= LinePort)
        {
            _lines[port - LinePort]?.Set(value != 0);
            return;
        }
        for (int i = 0; i < size; i++)
            _echo[(port & 3) + i & 3] = (byte)(value >> i * 8);
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        ulong value = 0;
        for (int i = 0; i < size; i++)
            value |= (ulong)_scratch[(int)offset + i] << i * 8;
        return value;
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
        for (int i = 0; i < size; i++)
            _scratch[(int)offset + i] = (byte)(value >> i * 8);
    }

    /// <summary>Its state between two accesses; its lines are saved with their wires.</summary>
    public TestDeviceState Save() => new()
    {
        Echo = [.. _echo],
        Scratch = _scratch[..(_scratch.AsSpan().LastIndexOfAnyExcept((byte)0) + 1)],
    };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">It is none of a test device.</exception>
    public void Load(TestDeviceState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Echo, _echo.Length, "TestDevice.Echo");
        InvalidStateException.ThrowUnless(state.Scratch.Length <= ScratchLength, "TestDevice.Scratch", $"it is longer than {ScratchLength} bytes.");
        state.Echo.CopyTo(_echo, 0);
        Array.Clear(_scratch);
        state.Scratch.CopyTo(_scratch, 0);
    }
}
