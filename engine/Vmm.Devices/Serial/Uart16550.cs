using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Serial;

/// <summary>Bytes that a device sends out of the machine. Runs on the machine's thread; must not block or throw.</summary>
public delegate void ByteSink(ReadOnlySpan<byte> bytes);

/// <summary>
/// A National PC16550D serial port with its FIFOs (data sheet TL/C/8652), connected to a peer that is always ready. Bytes are
/// sent at once, whatever the baud rate, so the transmitter is always empty; received ones wait in a bounded queue behind the
/// receiver FIFO, and none is lost to an overrun.
/// </summary>
public sealed class Uart16550 : IDevice, IPortDevice
{
    /// <summary>How many received bytes wait for the guest at most.</summary>
    public const int QueueCapacity = 4096;

    private const int FifoDepth = 16;

    private const byte EnableReceived = 0x01;
    private const byte EnableTransmitted = 0x02;
    private const byte EnableLineStatus = 0x04;
    private const byte EnableModemStatus = 0x08;

    private const byte DataReady = 0x01;
    private const byte Overrun = 0x02;
    private const byte TransmitterEmpty = 0x60;

    private const byte Loopback = 0x10;
    private const byte DivisorAccess = 0x80;

    /// <summary>Clear to send, data set ready and carrier detected: a terminal is connected.</summary>
    private const byte Connected = 0xB0;

    private readonly ushort _base;
    private readonly IInterruptLine _irq;
    private readonly ByteSink? _output;
    private readonly byte[] _queue = new byte[QueueCapacity];
    private readonly byte[] _loop = new byte[FifoDepth];
    private readonly byte[] _one = new byte[1];
    private int _queueHead;
    private int _queueCount;
    private int _loopHead;
    private int _loopCount;
    private bool _fellShort;

    private byte _interruptEnable;
    private byte _fifoControl;
    private byte _lineControl;
    private byte _modemControl;
    private byte _lineErrors;
    private byte _modemLines;
    private byte _modemDeltas;
    private byte _scratch;
    private ushort _divisor;
    private bool _transmittedPending;

    /// <summary>Puts the port on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="port">The first of its eight ports: 0x3F8 for COM1.</param>
    /// <param name="irq">Its interrupt: IRQ 4 for COM1.</param>
    /// <param name="output">Takes what the guest sends, or null where it goes nowhere.</param>
    public Uart16550(SystemBus bus, ushort port, IInterruptLine irq, ByteSink? output)
    {
        _base = port;
        _irq = irq;
        _output = output;
        bus.AddPorts(this, port, 8);
        Reset();
    }

    /// <summary>Raised when bytes can be received again after <see cref="Receive"/> fell short.</summary>
    public event Action? InputDrained;

    /// <inheritdoc/>
    public void Reset()
    {
        _interruptEnable = _fifoControl = _lineControl = _modemControl = _lineErrors = _modemDeltas = _scratch = 0;
        _modemLines = Connected;
        // 115200 Hz / 12 = 9600 baud, as firmware leaves it.
        _divisor = 12;
        _transmittedPending = false;
        _loopCount = 0;
        Update();
    }

    /// <summary>Queues bytes for the guest.</summary>
    /// <returns>How many were taken. The rest can be offered again after <see cref="InputDrained"/>.</returns>
    public int Receive(ReadOnlySpan<byte> bytes)
    {
        int count = Math.Min(bytes.Length, QueueCapacity - _queueCount);
        for (int i = 0; i < count; i++)
            _queue[(_queueHead + _queueCount + i) % QueueCapacity] = bytes[i];
        _queueCount += count;
        _fellShort |= count < bytes.Length;
        Update();
        return count;
    }

    private bool IsLoopback => (_modemControl & Loopback) != 0;

    private bool FifosEnabled => (_fifoControl & 1) != 0;

    /// <summary>Bytes in the receiver's FIFO. The queue behind it refills it as the guest reads; in loopback the queue is cut off.</summary>
    private int ReceivedCount => Math.Min(IsLoopback ? _loopCount : _queueCount, FifosEnabled ? FifoDepth : 1);

    private int TriggerLevel => !FifosEnabled ? 1 : (_fifoControl >> 6) switch { 0 => 1, 1 => 4, 2 => 8, _ => 14 };

    /// <summary>The interrupt identification register: the most urgent cause, or 1 for none (data sheet, table IV).</summary>
    private byte Identification
    {
        get
        {
            int received = ReceivedCount;
            if ((_interruptEnable & EnableLineStatus) != 0 && _lineErrors != 0)
                return 0x06;
            if ((_interruptEnable & EnableReceived) != 0 && received >= TriggerLevel)
                return 0x04;
            // Fewer than the trigger level: as no more are under way, the character time-out has passed.
            if ((_interruptEnable & EnableReceived) != 0 && received > 0)
                return 0x0C;
            if ((_interruptEnable & EnableTransmitted) != 0 && _transmittedPending)
                return 0x02;
            if ((_interruptEnable & EnableModemStatus) != 0 && _modemDeltas != 0)
                return 0x00;
            return 0x01;
        }
    }

    private void Update() => _irq.Set(Identification != 0x01);

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        bool divisor = (_lineControl & DivisorAccess) != 0;
        switch (port - _base)
        {
            case 0:
                return divisor ? (byte)_divisor : ReadReceived();
            case 1:
                return divisor ? (byte)(_divisor >> 8) : _interruptEnable;
            case 2:
                byte identification = Identification;
                if (identification == 0x02)
                {
                    // Reading the cause resets the transmitter's interrupt (data sheet, table IV).
                    _transmittedPending = false;
                    Update();
                }
                return identification | (FifosEnabled ? 0xC0u : 0);
            case 3:
                return _lineControl;
            case 4:
                return _modemControl;
            case 5:
                byte status = (byte)(TransmitterEmpty | _lineErrors | (ReceivedCount > 0 ? DataReady : 0));
                _lineErrors = 0;
                Update();
                return status;
            case 6:
                byte modem = (byte)(ModemLines | _modemDeltas);
                _modemDeltas = 0;
                Update();
                return modem;
            default:
                return _scratch;
        }
    }

    private byte ReadReceived()
    {
        byte value = 0;
        if (IsLoopback)
        {
            if (_loopCount > 0)
            {
                value = _loop[_loopHead];
                _loopHead = (_loopHead + 1) % FifoDepth;
                _loopCount--;
            }
        }
        else if (_queueCount > 0)
        {
            value = _queue[_queueHead];
            _queueHead = (_queueHead + 1) % QueueCapacity;
            _queueCount--;
            if (_fellShort && _queueCount <= QueueCapacity / 2)
            {
                _fellShort = false;
                InputDrained?.Invoke();
            }
        }
        Update();
        return value;
    }

    /// <summary>In loopback the four outputs come back as the four inputs: RTS as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD.</summary>
    private byte ModemLines => !IsLoopback
        ? Connected
        : (byte)((_modemControl & 0x02) << 3 | (_modemControl & 0x01) << 5 | (_modemControl & 0x0C) << 4);

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        bool divisor = (_lineControl & DivisorAccess) != 0;
        switch (port - _base)
        {
            case 0 when divisor:
                _divisor = (ushort)(_divisor & 0xFF00u | value);
                return;
            case 0:
                Transmit((byte)value);
                break;
            case 1 when divisor:
                _divisor = (ushort)(_divisor & 0x00FFu | value << 8);
                return;
            case 1:
                // Enabling the transmitter's interrupt while it is empty raises it.
                if ((value & ~_interruptEnable & EnableTransmitted) != 0)
                    _transmittedPending = true;
                _interruptEnable = (byte)(value & 0x0F);
                break;
            case 2:
                WriteFifoControl((byte)value);
                break;
            case 3:
                _lineControl = (byte)value;
                return;
            case 4:
                WriteModemControl((byte)value);
                break;
            case 7:
                _scratch = (byte)value;
                return;
            default:
                // The line and modem status registers are for reading only.
                return;
        }
        Update();
    }

    private void Transmit(byte value)
    {
        _transmittedPending = true;
        if (!IsLoopback)
        {
            _one[0] = value;
            _output?.Invoke(_one);
            return;
        }
        if (_loopCount >= (FifosEnabled ? FifoDepth : 1))
        {
            _lineErrors |= Overrun;
            // Without FIFOs the new character takes the place of the old one; with them it is lost.
            if (FifosEnabled)
                return;
            _loopCount = 0;
        }
        _loop[(_loopHead + _loopCount++) % FifoDepth] = value;
    }

    private void WriteFifoControl(byte value)
    {
        bool toggled = ((value ^ _fifoControl) & 1) != 0;
        // A receiver reset empties what the FIFO holds; what still queues outside has not arrived yet.
        if (toggled || (value & 0x03) == 0x03)
        {
            if (IsLoopback)
                _loopCount = 0;
            _lineErrors = 0;
        }
        // The other bits are taken only together with bit 0.
        _fifoControl = (value & 1) != 0 ? (byte)(value & 0xC9) : (byte)0;
    }

    private void WriteModemControl(byte value)
    {
        _modemControl = (byte)(value & 0x1F);
        if (!IsLoopback)
            _loopCount = 0;
        byte lines = ModemLines;
        byte changed = (byte)(lines ^ _modemLines);
        // CTS, DSR and DCD report any change, RI only its trailing edge.
        _modemDeltas |= (byte)((changed & 0xB0) >> 4);
        if ((changed & ~lines & 0x40) != 0)
            _modemDeltas |= 0x04;
        _modemLines = lines;
    }

    /// <summary>Its state between two accesses.</summary>
    public UartState Save()
    {
        byte[] input = new byte[_queueCount];
        for (int i = 0; i < input.Length; i++)
            input[i] = _queue[(_queueHead + i) % QueueCapacity];
        byte[] loop = new byte[_loopCount];
        for (int i = 0; i < loop.Length; i++)
            loop[i] = _loop[(_loopHead + i) % FifoDepth];
        return new()
        {
            Input = input,
            Loop = loop,
            FellShort = _fellShort,
            InterruptEnable = _interruptEnable,
            FifoControl = _fifoControl,
            LineControl = _lineControl,
            ModemControl = _modemControl,
            LineErrors = _lineErrors,
            ModemLines = _modemLines,
            ModemDeltas = _modemDeltas,
            Scratch = _scratch,
            Divisor = _divisor,
            TransmittedPending = _transmittedPending,
        };
    }

    /// <summary>Takes a saved state; the interrupt does not change by that.</summary>
    /// <exception cref="InvalidStateException">It is none of a serial port.</exception>
    public void Load(UartState state)
    {
        InvalidStateException.ThrowUnless(state.Input.Length <= QueueCapacity, "Uart.Input", $"it is longer than {QueueCapacity} bytes.");
        InvalidStateException.ThrowUnless(state.Loop.Length <= FifoDepth, "Uart.Loop", $"it is longer than {FifoDepth} bytes.");
        state.Input.CopyTo(_queue, 0);
        _queueHead = 0;
        _queueCount = state.Input.Length;
        state.Loop.CopyTo(_loop, 0);
        _loopHead = 0;
        _loopCount = state.Loop.Length;
        _fellShort = state.FellShort;
        _interruptEnable = state.InterruptEnable;
        _fifoControl = state.FifoControl;
        _lineControl = state.LineControl;
        _modemControl = state.ModemControl;
        _lineErrors = state.LineErrors;
        _modemLines = state.ModemLines;
        _modemDeltas = state.ModemDeltas;
        _scratch = state.Scratch;
        _divisor = state.Divisor;
        _transmittedPending = state.TransmittedPending;
    }
}
