using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Platform;

/// <summary>
/// An 8042 keyboard controller with nothing plugged in: it passes its self-test, answers its commands and, as every PC's,
/// pulls the line that resets the processors alone: today their INIT. Address line 20 is always on.
/// </summary>
public sealed class KeyboardController8042 : IDevice, IPortDevice
{
    private const ushort DataPort = 0x60;
    private const ushort CommandPort = 0x64;

    private const byte OutputFull = 0x01;
    private const byte SystemFlag = 0x04;
    private const byte CommandWritten = 0x08;
    private const byte NotInhibited = 0x10;
    private const byte AuxiliaryData = 0x20;
    private const byte TimeOut = 0x40;

    private readonly Action _init;
    private readonly byte[] _memory = new byte[32];
    private byte _status;
    private byte _output;
    private byte _pendingCommand;

    /// <summary>Puts the controller on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="init">Called when the guest pulls the line.</param>
    public KeyboardController8042(SystemBus bus, Action init)
    {
        _init = init;
        bus.AddPorts(this, DataPort, 1);
        bus.AddPorts(this, CommandPort, 1);
        Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        Array.Clear(_memory);
        // Both ports disabled, no interrupts, system flag set: what firmware without a keyboard leaves.
        _memory[0] = 0x34;
        _status = SystemFlag | NotInhibited;
        _output = 0;
        _pendingCommand = 0;
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        switch (port)
        {
            case CommandPort:
                return _status;
            default:
                _status &= unchecked((byte)~(OutputFull | AuxiliaryData | TimeOut));
                return _output;
        }
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        switch (port)
        {
            case CommandPort:
                _status |= CommandWritten;
                WriteCommand((byte)value);
                break;
            default:
                _status &= unchecked((byte)~CommandWritten);
                WriteData((byte)value);
                break;
        }
    }

    private void Answer(byte value, byte flags = 0)
    {
        _output = value;
        _status = (byte)(_status & ~(AuxiliaryData | TimeOut) | OutputFull | flags);
    }

    private void WriteCommand(byte command)
    {
        _pendingCommand = 0;
        switch (command)
        {
            case >= 0x20 and <= 0x3F:
                Answer(_memory[command & 0x1F]);
                break;
            case >= 0x60 and <= 0x7F:
            case 0xD1 or 0xD2 or 0xD3 or 0xD4:
                _pendingCommand = command;
                break;
            case 0xA7:
                _memory[0] |= 0x20;
                break;
            case 0xA8:
                _memory[0] &= 0xDF;
                break;
            case 0xA9 or 0xAB:
                // Interface tests: no fault.
                Answer(0x00);
                break;
            case 0xAA:
                Answer(0x55);
                break;
            case 0xAD:
                _memory[0] |= 0x10;
                break;
            case 0xAE:
                _memory[0] &= 0xEF;
                break;
            case 0xC0:
                Answer(0x80);
                break;
            case 0xD0:
                // The output port: INIT not pulled, address line 20 on.
                Answer(0x03);
                break;
            case >= 0xF0:
                // Pulses the lines whose bits are clear; bit 0 is the processors' INIT.
                if ((command & 1) == 0)
                    _init();
                break;
        }
    }

    private void WriteData(byte value)
    {
        byte command = _pendingCommand;
        _pendingCommand = 0;
        switch (command)
        {
            case >= 0x60 and <= 0x7F:
                _memory[command & 0x1F] = value;
                break;
            case 0xD1:
                if ((value & 1) == 0)
                    _init();
                break;
            case 0xD2:
                Answer(value);
                break;
            case 0xD3:
                Answer(value, AuxiliaryData);
                break;
            case 0xD4:
                // The mouse does not answer.
                Answer(0xFE, AuxiliaryData | TimeOut);
                break;
            default:
                // Nor does the keyboard.
                Answer(0xFE, TimeOut);
                break;
        }
    }

    /// <summary>Its state between two accesses.</summary>
    public KeyboardControllerState Save() => new() { Memory = [.. _memory], Status = _status, Output = _output, PendingCommand = _pendingCommand };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">It is none of a keyboard controller.</exception>
    public void Load(KeyboardControllerState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Memory, _memory.Length, "KeyboardController.Memory");
        state.Memory.CopyTo(_memory, 0);
        _status = state.Status;
        _output = state.Output;
        _pendingCommand = state.PendingCommand;
    }
}
