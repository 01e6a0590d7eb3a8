using System.Text;
using Vmm.Devices.Board;
using Vmm.Devices.Bus;
using Vmm.Hypervisor.Apic;

namespace Vmm.Devices.Tests.Fixture;

/// <summary>RAM in an array.</summary>
public sealed class ArrayMemory(int size) : IGuestMemory
{
    public byte[] Bytes { get; } = new byte[size];

    public int Writes { get; private set; }

    public bool TryRead(ulong address, Span<byte> destination)
    {
        if (!IsRam(address, (ulong)destination.Length))
            return false;
        Bytes.AsSpan((int)address, destination.Length).CopyTo(destination);
        return true;
    }

    public bool TryWrite(ulong address, ReadOnlySpan<byte> source)
    {
        if (!IsRam(address, (ulong)source.Length))
            return false;
        Writes++;
        source.CopyTo(Bytes.AsSpan((int)address));
        return true;
    }

    public bool IsRam(ulong address, ulong length) => address <= (ulong)Bytes.Length && length <= (ulong)Bytes.Length - address;
}

/// <summary>Local APICs that write down what comes.</summary>
public sealed class RecordingSink : IInterruptSink
{
    public List<InterruptMessage> Messages { get; } = [];

    public bool ExternalInterrupt { get; private set; }

    public bool Accepts { get; set; } = true;

    public bool Deliver(InterruptMessage message)
    {
        Messages.Add(message);
        return Accepts;
    }

    public void SetExternalInterrupt(bool asserted) => ExternalInterrupt = asserted;
}

/// <summary>A whole board with everything around it faked.</summary>
public sealed class TestBoard
{
    public const int MemorySize = 8 << 20;

    public TestBoard(Func<PcBoardOptions, PcBoardOptions>? change = null)
    {
        var options = new PcBoardOptions
        {
            Clock = Clock,
            Interrupts = Sink,
            Memory = Memory,
            MemoryBytes = MemorySize,
            PowerOff = () => PowerOffs++,
            ResetRequested = () => Resets++,
            InitRequested = () => Inits++,
            DebugExit = value => Exits.Add(value),
            SerialOutput = [bytes => Output.Append(Encoding.Latin1.GetString(bytes))],
            DebugConsoleOutput = bytes => DebugOutput.Append(Encoding.Latin1.GetString(bytes)),
        };
        Board = new PcBoard(change == null ? options : change(options));
    }

    public FakeClock Clock { get; } = new();

    public RecordingSink Sink { get; } = new();

    public ArrayMemory Memory { get; } = new(MemorySize);

    public PcBoard Board { get; }

    public StringBuilder Output { get; } = new();

    public StringBuilder DebugOutput { get; } = new();

    public List<uint> Exits { get; } = [];

    public int PowerOffs { get; private set; }

    public int Resets { get; private set; }

    public int Inits { get; private set; }

    public byte In(ushort port) => (byte)Board.Bus.ReadPort(port, 1);

    public ushort In16(ushort port) => (ushort)Board.Bus.ReadPort(port, 2);

    public uint In32(ushort port) => Board.Bus.ReadPort(port, 4);

    public void Out(ushort port, byte value) => Board.Bus.WritePort(port, 1, value);

    public void Out16(ushort port, ushort value) => Board.Bus.WritePort(port, 2, value);

    public void Out32(ushort port, uint value) => Board.Bus.WritePort(port, 4, value);

    public uint Read32(ulong address) => (uint)Board.Bus.ReadMemory(address, 4);

    public void Write32(ulong address, uint value) => Board.Bus.WriteMemory(address, 4, value);

    /// <summary>Programs the 8259 pair as PCs do: vectors 0x20 and 0x28, everything unmasked.</summary>
    public void InitializePic()
    {
        Out(0x20, 0x11);
        Out(0x21, 0x20);
        Out(0x21, 0x04);
        Out(0x21, 0x01);
        Out(0xA0, 0x11);
        Out(0xA1, 0x28);
        Out(0xA1, 0x02);
        Out(0xA1, 0x01);
        Out(0x21, 0x00);
        Out(0xA1, 0x00);
    }

    /// <summary>Programs a redirection entry of the I/O APIC.</summary>
    public void Redirect(int pin, uint low, uint high = 0)
    {
        Write32(0xFEC0_0000, (uint)(0x11 + pin * 2));
        Write32(0xFEC0_0010, high);
        Write32(0xFEC0_0000, (uint)(0x10 + pin * 2));
        Write32(0xFEC0_0010, low);
    }

    public uint RedirectionLow(int pin)
    {
        Write32(0xFEC0_0000, (uint)(0x10 + pin * 2));
        return Read32(0xFEC0_0010);
    }
}
