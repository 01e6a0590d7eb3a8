using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Acpi;
using Vmm.Devices.Platform;
using Vmm.Devices.Tests.Fixture;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class PowerManagementTests
{
    private readonly TestBoard _board = new();

    public PowerManagementTests() => _board.Redirect(9, 0x59 | 1 << 15);

    [Fact]
    public void TheTimerCounts24Bits()
    {
        _board.Clock.Advance(1_000_000_000);
        Assert.Equal(3_579_545u, _board.In32(0x608));
        _board.Clock.Advance(4_000_000_000);
        Assert.Equal(5u * 3_579_545 & 0xFF_FFFF, _board.In32(0x608));
    }

    [Fact]
    public void TheTimersCarryInterruptsEvery2Point3Seconds()
    {
        _board.Out16(0x602, 1);
        _board.Clock.Advance(2_300_000_000);
        Assert.Empty(_board.Sink.Messages);
        _board.Clock.Advance(100_000_000);
        Assert.Equal(0x59, Assert.Single(_board.Sink.Messages).Vector);
        Assert.Equal(1, _board.In16(0x600) & 1);
        _board.Out16(0x600, 1);
        Assert.Equal(0, _board.In16(0x600) & 1);
        _board.Board.IoApic.EndOfInterrupt(0x59);
        _board.Clock.Advance(2_400_000_000);
        Assert.Equal(2, _board.Sink.Messages.Count);
    }

    [Fact]
    public void ThePowerButtonRaisesTheSci()
    {
        _board.Board.Power.PressPowerButton();
        Assert.Empty(_board.Sink.Messages);
        _board.Out16(0x602, 0x0100);
        Assert.Single(_board.Sink.Messages);
        Assert.Equal(0x0100, _board.In16(0x600) & 0x0100);
        _board.Out(0x601, 0x01);
        Assert.Equal(0, _board.In16(0x600) & 0x0100);
        _board.Board.IoApic.EndOfInterrupt(0x59);
        Assert.Single(_board.Sink.Messages);
    }

    [Fact]
    public void SoftOffPowersOffAndOtherSleepStatesDoNot()
    {
        Assert.Equal(1, _board.In16(0x604));
        _board.Out16(0x604, 0x2000 | 5 << 10);
        Assert.Equal(0, _board.PowerOffs);
        _board.Out16(0x604, 0x2000);
        Assert.Equal(1, _board.PowerOffs);
        Assert.Equal(1, _board.In16(0x604));
    }

    [Fact]
    public void GeneralPurposeEventsRaiseTheSci()
    {
        _board.Out16(0x622, 0x0004);
        _board.Board.Power.RaiseGeneralEvent(2);
        Assert.Single(_board.Sink.Messages);
        Assert.Equal(4, _board.In(0x620));
        _board.Out(0x620, 4);
        Assert.Equal(0, _board.In(0x620));
    }
}

public sealed class CpuHotplugTests
{
    private readonly TestBoard _board = new(options => options with { Cpus = 2, MaxCpus = 4 });

    public CpuHotplugTests() => _board.Redirect(9, 0x59 | 1 << 15);

    [Fact]
    public void AnAddedProcessorShowsInItsRegistersAndInFwCfgAndRaisesTheSci()
    {
        _board.Out16(0x622, 1 << CpuHotplug.Event);
        Assert.Equal((3u, 0u), (_board.In32(0x640), _board.In32(0x644)));
        _board.Board.AddCpu();
        Assert.Equal(0x59, Assert.Single(_board.Sink.Messages).Vector);
        Assert.Equal(1 << CpuHotplug.Event, _board.In16(0x620));
        Assert.Equal((7u, 4u), (_board.In32(0x640), _board.In32(0x644)));
        _board.Board.AddCpu();
        Assert.Equal((15u, 12u), (_board.In32(0x640), _board.In32(0x644)));
        Assert.Equal((4, 4), (Item(FirmwareItem.CpuCount), Item(FirmwareItem.MaximumCpuCount)));
        Assert.Throws<InvalidOperationException>(_board.Board.AddCpu);
    }

    [Fact]
    public void TakingNoteOfOneProcessorLeavesTheOthersAndWhoIsPresentCannotBeWritten()
    {
        _board.Board.AddCpu();
        _board.Board.AddCpu();
        _board.Out32(0x644, 4);
        _board.Out32(0x640, 0);
        Assert.Equal((15u, 8u), (_board.In32(0x640), _board.In32(0x644)));
        _board.Out(0x644, 0xFF);
        Assert.Equal(0, _board.In(0x644));
    }

    [Fact]
    public void ProcessorsStayOverAResetWithoutBeingNewAnyMore()
    {
        Assert.Equal(1, Cmos(0x5F));
        _board.Board.AddCpu();
        _board.Board.Reset();
        Assert.Equal((7u, 0u), (_board.In32(0x640), _board.In32(0x644)));
        Assert.Equal((2, 3), (Cmos(0x5F), _board.Board.Cpus));
    }

    [Fact]
    public void ABoardWithAllItsProcessorsHasNoSuchRegisters()
    {
        var board = new TestBoard(options => options with { Cpus = 4 });
        Assert.Equal((uint.MaxValue, uint.MaxValue), (board.In32(0x640), board.In32(0x644)));
        Assert.Equal((4, false), (board.Board.MaxCpus, board.Board.HasCpuHotplug));
        Assert.Throws<InvalidOperationException>(board.Board.AddCpu);
    }

    private int Item(ushort selector)
    {
        _board.Out16(0x510, selector);
        return _board.In(0x511) | _board.In(0x511) << 8;
    }

    private byte Cmos(byte index)
    {
        _board.Out(0x70, index);
        return _board.In(0x71);
    }
}

public sealed class ResetTests
{
    private readonly TestBoard _board = new();

    [Fact]
    public void TheKeyboardControllerPulsesInit()
    {
        _board.Out(0x64, 0xFE);
        Assert.Equal(1, _board.Inits);
        _board.Out(0x64, 0xFF);
        Assert.Equal(1, _board.Inits);
        _board.Out(0x64, 0xD1);
        _board.Out(0x60, 0xFE);
        Assert.Equal(2, _board.Inits);
        Assert.Equal(0, _board.Resets);
    }

    [Fact]
    public void Port92PullsInitByAnEdgeThatStaysUntilAReset()
    {
        Assert.Equal(2, _board.In(0x92));
        _board.Out(0x92, 0x02);
        Assert.Equal(0, _board.Inits);
        _board.Out(0x92, 0x03);
        Assert.Equal(1, _board.Inits);
        _board.Out(0x92, 0x03);
        Assert.Equal(1, _board.Inits);
        Assert.Equal(3, _board.In(0x92));
        _board.Out(0x92, 0x00);
        _board.Out(0x92, 0x01);
        Assert.Equal(2, _board.Inits);
        Assert.Equal(0, _board.Resets);
        _board.Board.Reset();
        Assert.Equal(2, _board.In(0x92));
    }

    [Fact]
    public void TheResetRegisterNeedsItsEdge()
    {
        _board.Out(0xCF9, 0x02);
        Assert.Equal(0, _board.Resets);
        Assert.Equal(0x02, _board.In(0xCF9));
        _board.Out(0xCF9, 0x06);
        Assert.Equal(1, _board.Resets);
        // The dword there is the configuration address, whatever its second byte.
        _board.Out32(0xCF8, 0x8000_0600);
        Assert.Equal(1, _board.Resets);
        Assert.Equal(0x8000_0600u, _board.In32(0xCF8));
        Assert.Equal(0, _board.Inits);
        _board.Out(0xCF9, 0x00);
        _board.Out(0xCF9, 0x04);
        Assert.Equal((1, 1), (_board.Resets, _board.Inits));
    }

    [Fact]
    public void TheFirmwareChipEndsAt4GiBAndCannotBeWritten()
    {
        byte[] content = new byte[0x1_0000];
        content[^16] = 0xEA;
        content[^1] = 0xFC;
        var board = new TestBoard(options => options with { FirmwareRom = content });
        Assert.Equal(0xEAu, board.Read32(0xFFFF_FFF0));
        board.Write32(0xFFFF_FFF0, 0x1234_5678);
        Assert.Equal(0xEAu, board.Read32(0xFFFF_FFF0));
        Assert.Equal(0xFCul, board.Board.Bus.ReadMemory(0xFFFF_FFFF, 1));
        // The last byte and three that nobody drives.
        Assert.Equal(0xFFFF_FFFCu, board.Read32(0xFFFF_FFFF));
        Assert.Equal(uint.MaxValue, _board.Read32(0xFFFF_FFF0));
        Assert.Throws<ArgumentException>(() => new TestBoard(options => options with { FirmwareRom = new byte[100] }));
    }

    [Fact]
    public void TheKeyboardControllerPassesItsTestsWithNothingPluggedIn()
    {
        _board.Out(0x64, 0xAA);
        Assert.Equal(1, _board.In(0x64) & 1);
        Assert.Equal(0x55, _board.In(0x60));
        Assert.Equal(0, _board.In(0x64) & 1);
        _board.Out(0x64, 0x60);
        _board.Out(0x60, 0x47);
        _board.Out(0x64, 0x20);
        Assert.Equal(0x47, _board.In(0x60));
        _board.Out(0x60, 0xFF);
        Assert.Equal(0x40, _board.In(0x64) & 0x40);
        Assert.Equal(0xFE, _board.In(0x60));
        _board.Out(0x64, 0xD4);
        _board.Out(0x60, 0xFF);
        Assert.Equal(0x61, _board.In(0x64) & 0x61);
    }

    [Fact]
    public void ABoardResetRestoresWhatTheGuestChanged()
    {
        _board.InitializePic();
        _board.Out16(0x602, 0x100);
        _board.Board.Power.PressPowerButton();
        _board.Out(0x3FB, 0x80);
        _board.Board.Reset();
        Assert.Equal(0, _board.In16(0x602));
        Assert.Equal(0, _board.In(0x3FB));
        Assert.Equal(0xFF, _board.In(0x21));
        Assert.False(_board.Sink.ExternalInterrupt);
    }
}

public sealed class TestPortTests
{
    private readonly TestBoard _board = new();

    [Fact]
    public void DebugExitGivesTheValueInAnyWidth()
    {
        _board.Out(0xF4, 0x10);
        _board.Out16(0xF4, 0x1234);
        _board.Out32(0xF4, 0xDEAD_BEEF);
        Assert.Equal([0x10u, 0x1234u, 0xDEAD_BEEFu], _board.Exits);
    }

    [Fact]
    public void TheDebugConsoleProvesItsPresence()
    {
        Assert.Equal(0xE9, _board.In(0xE9));
        _board.Out(0xE9, (byte)'d');
        _board.Out32(0xE8, 0x4142_4344);
        Assert.Equal("d", _board.DebugOutput.ToString());
    }

    [Fact]
    public void EchoPortsHoldEverySize()
    {
        _board.Out32(0xE0, 0x4433_2211);
        Assert.Equal(0x4433_2211u, _board.In32(0xE0));
        Assert.Equal(0x33, _board.In(0xE2));
        _board.Out16(0xE2, 0xBEEF);
        Assert.Equal(0xBEEF_2211u, _board.In32(0xE0));
        _board.Out(0xE4, 0x77);
        Assert.Equal(0x77, _board.In(0xE4));
    }

    [Fact]
    public void InterruptLinesAndScratchMemory()
    {
        _board.Redirect(14, 0x77);
        _board.Out(0x200E, 1);
        Assert.Equal(0x77, Assert.Single(_board.Sink.Messages).Vector);
        _board.Out(0x200E, 0);
        _board.Out(0x2002, 1);
        _board.Board.Bus.WriteMemory(0xFF00_0FFC, 8, 0x1122_3344_5566_7788);
        Assert.Equal(0x1122_3344ul, _board.Board.Bus.ReadMemory(0xFF00_1000, 4));
        Assert.False(_board.Board.Bus.IsClaimed(0xFF01_0000));
    }
}

public sealed class FirmwareConfigurationTests
{
    private readonly TestBoard _board = new(options => options with { Cpus = 3 });

    private byte[] Read(ushort selector, int count)
    {
        _board.Out16(0x510, selector);
        byte[] bytes = new byte[count];
        for (int i = 0; i < count; i++)
            bytes[i] = _board.In(0x511);
        return bytes;
    }

    /// <summary>Runs a DMA command at 0x1000 and gives its control word back.</summary>
    private uint Dma(uint control, uint length, ulong address)
    {
        Span<byte> command = _board.Memory.Bytes.AsSpan(0x1000, 16);
        BinaryPrimitives.WriteUInt32BigEndian(command, control);
        BinaryPrimitives.WriteUInt32BigEndian(command[4..], length);
        BinaryPrimitives.WriteUInt64BigEndian(command[8..], address);
        _board.Out32(0x514, 0);
        _board.Out32(0x518, BinaryPrimitives.ReverseEndianness(0x1000u));
        return BinaryPrimitives.ReadUInt32BigEndian(command);
    }

    [Fact]
    public void FixedItemsAreReadByteByByte()
    {
        Assert.Equal("QEMU\0", Encoding.ASCII.GetString(Read(FirmwareItem.Signature, 5)));
        Assert.Equal([3, 0], Read(FirmwareItem.CpuCount, 2));
        Assert.Equal([3, 0], Read(FirmwareItem.MaximumCpuCount, 2));
        Assert.Equal((ulong)TestBoard.MemorySize, BinaryPrimitives.ReadUInt64LittleEndian(Read(FirmwareItem.RamSize, 8)));
        Assert.Equal([0, 0], Read(0x7777, 2));
    }

    [Fact]
    public void FilesAreFoundThroughTheDirectory()
    {
        _board.Board.FirmwareConfiguration.SetFile("opt/org.example/b", "two"u8.ToArray());
        _board.Board.FirmwareConfiguration.SetFile("opt/org.example/a", "one!"u8.ToArray());
        byte[] directory = Read(FirmwareItem.Directory, 4 + 2 * 64);
        Assert.Equal(2u, BinaryPrimitives.ReadUInt32BigEndian(directory));
        Assert.Equal("opt/org.example/a", Encoding.ASCII.GetString(directory, 12, 56).TrimEnd('\0'));
        Assert.Equal(4u, BinaryPrimitives.ReadUInt32BigEndian(directory.AsSpan(4)));
        Assert.Equal("one!", Encoding.ASCII.GetString(Read(BinaryPrimitives.ReadUInt16BigEndian(directory.AsSpan(8)), 4)));
        Assert.Equal("two", Encoding.ASCII.GetString(Read(BinaryPrimitives.ReadUInt16BigEndian(directory.AsSpan(72)), 3)));
    }

    [Theory]
    [InlineData("")]
    [InlineData("with\nnewline")]
    [InlineData("0123456789012345678901234567890123456789012345678901234567")]
    public void BadFileNamesAreRefused(string name) =>
        Assert.Throws<ArgumentException>(() => _board.Board.FirmwareConfiguration.SetFile(name, new byte[1]));

    [Fact]
    public void DmaCopiesAndSkips()
    {
        Assert.Equal(0x554D_4551u, _board.In32(0x514));
        _board.Board.FirmwareConfiguration.SetFile("opt/x", "0123456789"u8.ToArray());
        Assert.Equal(0u, Dma(FirmwareItem.FirstFile << 16 | 8 | 2, 4, 0x2000));
        Assert.Equal("0123", Encoding.ASCII.GetString(_board.Memory.Bytes, 0x2000, 4));
        Assert.Equal(0u, Dma(4, 2, 0));
        _board.Memory.Bytes.AsSpan(0x2000, 16).Fill(0xFF);
        Assert.Equal(0u, Dma(2, 8, 0x2000));
        Assert.Equal("6789\0\0\0\0"u8, _board.Memory.Bytes.AsSpan(0x2000, 8));
        Assert.Equal(0xFF, _board.Memory.Bytes[0x2008]);
    }

    [Fact]
    public void DmaErrorsAreReported()
    {
        Assert.Equal(1u, Dma(2, 4, TestBoard.MemorySize - 2));
        Assert.Equal(1u, Dma(2, uint.MaxValue, ulong.MaxValue - 8));
        Assert.Equal(1u, Dma(16, 4, 0x2000));
        _board.Out32(0x514, 0xFFFF_FFFF);
        _board.Out32(0x518, 0xFFFF_FFFF);
    }
}
