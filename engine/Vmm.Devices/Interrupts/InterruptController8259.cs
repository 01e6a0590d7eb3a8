using System.Numerics;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Interrupts;

/// <summary>
/// One Intel 8259A programmable interrupt controller (data sheet 231468), with the edge/level control register that EISA and
/// PCI chipsets add. <see cref="PicPair"/> wires two of them up as a PC does.
/// </summary>
internal sealed class InterruptController8259
{
    private enum Initialization : byte
    {
        Done,
        ExpectWord2,
        ExpectWord3,
        ExpectWord4,
    }

    private readonly bool _isMaster;
    private readonly byte _edgeLevelWritable;
    private byte _lines;
    private byte _requested;
    private byte _inService;
    private byte _mask;
    private byte _edgeLevel;
    private byte _vectorBase;
    private byte _lowestPriority;
    private Initialization _initialization;
    private bool _needsWord4;
    private bool _single;
    private bool _levelTriggered;
    private bool _autoEnd;
    private bool _rotateOnAutoEnd;
    private bool _specialMask;
    private bool _specialFullyNested;
    private bool _poll;
    private bool _readInService;

    internal InterruptController8259(bool isMaster, byte edgeLevelWritable)
    {
        _isMaster = isMaster;
        _edgeLevelWritable = edgeLevelWritable;
        Reset();
    }

    internal void Reset()
    {
        _requested = 0;
        _inService = 0;
        // The chip's state after power-on is undefined; everything masked is what firmware leaves behind.
        _mask = 0xFF;
        _edgeLevel = 0;
        _vectorBase = 0;
        _lowestPriority = 7;
        _initialization = Initialization.Done;
        _needsWord4 = _single = _levelTriggered = _autoEnd = _rotateOnAutoEnd = false;
        _specialMask = _specialFullyNested = _poll = _readInService = false;
    }

    /// <summary>The edge/level control register (ports 0x4D0 and 0x4D1): a set bit makes its input level-triggered.</summary>
    internal byte EdgeLevel
    {
        get => _edgeLevel;
        set => _edgeLevel = (byte)(value & _edgeLevelWritable);
    }

    private byte LevelInputs => _levelTriggered ? (byte)0xFF : _edgeLevel;

    /// <summary>An input changes. In edge mode a request is latched by a rising edge and lost again if the input falls before its acknowledge.</summary>
    internal void SetInput(int input, bool asserted)
    {
        byte bit = (byte)(1 << input);
        if (asserted)
        {
            if ((_lines & bit) == 0)
                _requested |= bit;
            _lines |= bit;
        }
        else
        {
            _lines &= (byte)~bit;
            _requested &= (byte)~bit;
        }
    }

    /// <summary>Whether a further rising edge on an input changes nothing: it is masked, and its request latched.</summary>
    internal bool IgnoresEdge(int input) => (_mask & _requested & 1 << input) != 0;

    private byte Requests => (byte)(_requested | (_lines & LevelInputs));

    /// <summary>How far an input is from the highest priority, 0 to 7.</summary>
    private int Rank(int input) => (input - _lowestPriority - 1) & 7;

    private static byte RotateRight(byte value, int count) => (byte)(value >> count | value << (8 - count));

    private int HighestRank(byte set) => set == 0 ? 8 : BitOperations.TrailingZeroCount(RotateRight(set, (_lowestPriority + 1) & 7));

    /// <summary>The input that the INTR output stands for, or -1 while it is low.</summary>
    internal int PendingInput
    {
        get
        {
            // While the initialization sequence runs, the chip gives no interrupts.
            if (_initialization != Initialization.Done)
                return -1;
            byte requests = (byte)(Requests & ~_mask);
            byte blocking = _inService;
            if (_specialMask)
                // Data sheet, "special mask mode": a masked input in service blocks nothing, and an unmasked one only itself.
                return HighestRank((byte)(requests & ~blocking)) is var free and < 8 ? (free + _lowestPriority + 1) & 7 : -1;
            // "Special fully nested mode": the slave's input may interrupt itself, as the slave decides the priorities within.
            if (_specialFullyNested && _isMaster)
                blocking &= unchecked((byte)~(1 << PicPair.CascadeInput));
            int rank = HighestRank(requests);
            int blockedFrom = HighestRank(blocking);
            if (_specialFullyNested && _isMaster && (_inService & 1 << PicPair.CascadeInput) != 0)
                blockedFrom = Math.Min(blockedFrom, Rank(PicPair.CascadeInput) + 1);
            return rank < blockedFrom ? (rank + _lowestPriority + 1) & 7 : -1;
        }
    }

    /// <summary>
    /// The acknowledge cycle. With no request any more, the chip answers as for input 7 and puts nothing in service: the
    /// spurious interrupt.
    /// </summary>
    /// <returns>The input, or -1 for a spurious one.</returns>
    internal int Acknowledge()
    {
        int input = PendingInput;
        if (input < 0)
            return -1;
        byte bit = (byte)(1 << input);
        _requested &= (byte)~bit;
        if (_autoEnd)
        {
            if (_rotateOnAutoEnd)
                _lowestPriority = (byte)input;
        }
        else
        {
            _inService |= bit;
        }
        return input;
    }

    internal byte Vector(int input) => (byte)(_vectorBase | (input < 0 ? 7 : input));

    internal byte ReadCommand()
    {
        if (_poll)
            return Poll();
        return _readInService ? _inService : Requests;
    }

    internal byte ReadData() => _poll ? Poll() : _mask;

    private byte Poll()
    {
        _poll = false;
        int input = Acknowledge();
        return input < 0 ? (byte)0 : (byte)(0x80 | input);
    }

    internal void WriteCommand(byte value)
    {
        if ((value & 0x10) != 0)
            BeginInitialization(value);
        else if ((value & 0x08) == 0)
            EndOfInterrupt(value);
        else
            WriteOperation3(value);
    }

    private void BeginInitialization(byte value)
    {
        // Data sheet, ICW1: edge sense circuit reset, IMR cleared, IR7 lowest, special mask mode off, status read set to IRR.
        _requested = 0;
        _inService = 0;
        _mask = 0;
        _lowestPriority = 7;
        _specialMask = _readInService = _poll = false;
        _autoEnd = _rotateOnAutoEnd = _specialFullyNested = false;
        _needsWord4 = (value & 0x01) != 0;
        _single = (value & 0x02) != 0;
        _levelTriggered = (value & 0x08) != 0;
        _initialization = Initialization.ExpectWord2;
    }

    private void EndOfInterrupt(byte value)
    {
        int level = value & 7;
        switch (value >> 5)
        {
            case 0b000:
                _rotateOnAutoEnd = false;
                break;
            case 0b100:
                _rotateOnAutoEnd = true;
                break;
            case 0b001:
                End(HighestInService(), rotate: false);
                break;
            case 0b101:
                End(HighestInService(), rotate: true);
                break;
            case 0b011:
                End(level, rotate: false);
                break;
            case 0b111:
                End(level, rotate: true);
                break;
            case 0b110:
                _lowestPriority = (byte)level;
                break;
        }
    }

    /// <summary>What a non-specific end refers to; in special mask mode masked inputs do not count.</summary>
    private int HighestInService()
    {
        int rank = HighestRank(_specialMask ? (byte)(_inService & ~_mask) : _inService);
        return rank < 8 ? (rank + _lowestPriority + 1) & 7 : -1;
    }

    private void End(int input, bool rotate)
    {
        if (input < 0)
            return;
        _inService &= (byte)~(1 << input);
        if (rotate)
            _lowestPriority = (byte)input;
    }

    private void WriteOperation3(byte value)
    {
        if ((value & 0x04) != 0)
            _poll = true;
        if ((value & 0x02) != 0)
            _readInService = (value & 0x01) != 0;
        if ((value & 0x40) != 0)
            _specialMask = (value & 0x20) != 0;
    }

    internal void WriteData(byte value)
    {
        switch (_initialization)
        {
            case Initialization.Done:
                _mask = value;
                break;
            case Initialization.ExpectWord2:
                _vectorBase = (byte)(value & 0xF8);
                _initialization = !_single ? Initialization.ExpectWord3 : _needsWord4 ? Initialization.ExpectWord4 : Initialization.Done;
                break;
            case Initialization.ExpectWord3:
                // The wiring of the cascade is the board's and does not follow what is programmed.
                _initialization = _needsWord4 ? Initialization.ExpectWord4 : Initialization.Done;
                break;
            case Initialization.ExpectWord4:
                _autoEnd = (value & 0x02) != 0;
                _specialFullyNested = (value & 0x10) != 0;
                _initialization = Initialization.Done;
                break;
        }
    }

    internal InterruptControllerState Save() => new()
    {
        Lines = _lines,
        Requested = _requested,
        InService = _inService,
        Mask = _mask,
        EdgeLevel = _edgeLevel,
        VectorBase = _vectorBase,
        LowestPriority = _lowestPriority,
        ExpectedWord = _initialization == Initialization.Done ? (byte)0 : (byte)(_initialization + 1),
        NeedsWord4 = _needsWord4,
        Single = _single,
        LevelTriggered = _levelTriggered,
        AutoEnd = _autoEnd,
        RotateOnAutoEnd = _rotateOnAutoEnd,
        SpecialMask = _specialMask,
        SpecialFullyNested = _specialFullyNested,
        Poll = _poll,
        ReadInService = _readInService,
    };

    internal void Load(InterruptControllerState state)
    {
        InvalidStateException.ThrowUnless(state.LowestPriority < 8, "InterruptController.LowestPriority", "there are 8 inputs.");
        InvalidStateException.ThrowUnless(state.ExpectedWord is 0 or >= 2 and <= 4, "InterruptController.ExpectedWord", "it is none of the words 2 to 4.");
        InvalidStateException.ThrowUnless((state.EdgeLevel & ~_edgeLevelWritable) == 0, "InterruptController.EdgeLevel", "an input that is always an edge is a level.");
        InvalidStateException.ThrowUnless((state.VectorBase & 7) == 0, "InterruptController.VectorBase", "its low bits are the input's.");
        _lines = state.Lines;
        _requested = state.Requested;
        _inService = state.InService;
        _mask = state.Mask;
        _edgeLevel = state.EdgeLevel;
        _vectorBase = state.VectorBase;
        _lowestPriority = state.LowestPriority;
        _initialization = state.ExpectedWord == 0 ? Initialization.Done : (Initialization)(state.ExpectedWord - 1);
        _needsWord4 = state.NeedsWord4;
        _single = state.Single;
        _levelTriggered = state.LevelTriggered;
        _autoEnd = state.AutoEnd;
        _rotateOnAutoEnd = state.RotateOnAutoEnd;
        _specialMask = state.SpecialMask;
        _specialFullyNested = state.SpecialFullyNested;
        _poll = state.Poll;
        _readInService = state.ReadInService;
    }
}
