using Vmm.Devices.Tests.Fixture;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class IntervalTimerTests
{
    private readonly TestBoard _board = new();

    private const ulong Second = 1_000_000_000;

    public IntervalTimerTests() => _board.Redirect(2, 0x50);

    private int Interrupts => _board.Sink.Messages.Count;

    private void Program(int channel, byte control, ushort count)
    {
        _board.Out(0x43, (byte)(channel << 6 | control));
        _board.Out((ushort)(0x40 + channel), (byte)count);
        _board.Out((ushort)(0x40 + channel), (byte)(count >> 8));
    }

    private ushort Latched(int channel)
    {
        _board.Out(0x43, (byte)(channel << 6));
        return Count(channel);
    }

    private ushort Count(int channel) => (ushort)(_board.In((ushort)(0x40 + channel)) | _board.In((ushort)(0x40 + channel)) << 8);

    private static ulong Ticks(ulong count) => (count * Second + 1_193_181) / 1_193_182;

    [Theory]
    [InlineData(0x34)]
    [InlineData(0x36)]
    public void PeriodicModesInterruptAtTheirRateWithoutDrift(byte control)
    {
        Program(0, control, 11932);
        _board.Clock.Advance(10 * Second);
        Assert.Equal((int)(10UL * 1_193_182 / 11932), Interrupts);
    }

    [Theory]
    [InlineData(0x34)]
    [InlineData(0x36)]
    public void APeriodicCounterThatNobodyHearsArmsNoTimerAndKeepsItsPhase(byte control)
    {
        const int Period = 11932;
        var masked = new TestBoard();
        masked.Out(0x43, control);
        masked.Out(0x40, Period & 0xFF);
        masked.Out(0x40, Period >> 8);
        Program(0, control, Period);
        // The 8259 notes the first edge although it is masked.
        masked.Clock.Advance(Ticks(Period));
        _board.Clock.Advance(Ticks(Period));
        Assert.Equal(0, masked.Clock.ArmedTimers);
        Assert.Equal(1, masked.In(0x20) & 1);

        masked.Clock.Advance(Ticks(Period * 7 / 2));
        _board.Clock.Advance(Ticks(Period * 7 / 2));
        Assert.Empty(masked.Sink.Messages);
        int before = Interrupts;
        masked.Redirect(2, 0x50);
        for (int step = 0; step < 40; step++)
        {
            masked.Clock.Advance(Ticks(Period / 10));
            _board.Clock.Advance(Ticks(Period / 10));
            Assert.Equal(Interrupts - before, masked.Sink.Messages.Count);
        }
        Assert.True(masked.Sink.Messages.Count >= 3);

        // Masked again it falls silent, and an 8259 that is unmasked hears it.
        masked.Redirect(2, 0x1_0050);
        masked.Clock.Advance(Ticks(Period));
        Assert.Equal(0, masked.Clock.ArmedTimers);
        masked.InitializePic();
        Assert.False(masked.Sink.ExternalInterrupt);
        masked.Clock.Advance(Ticks(Period));
        Assert.True(masked.Sink.ExternalInterrupt);
    }

    [Fact]
    public void AOneShotInterruptsOnce()
    {
        Program(0, 0x30, 1000);
        _board.Clock.Advance(Ticks(1000) - 1);
        Assert.Equal(0, Interrupts);
        _board.Clock.Advance(1);
        Assert.Equal(1, Interrupts);
        _board.Clock.Advance(Second);
        Assert.Equal(1, Interrupts);
        // A new count starts it anew.
        _board.Out(0x40, 0x10);
        _board.Out(0x40, 0x00);
        _board.Clock.Advance(Second);
        Assert.Equal(2, Interrupts);
        Assert.Equal(0, _board.Clock.ArmedTimers);
    }

    [Fact]
    public void TheSoftwareStrobeInterruptsATickAfterItsEnd()
    {
        Program(0, 0x38, 1000);
        _board.Clock.Advance(Ticks(1001) - 1);
        Assert.Equal(0, Interrupts);
        _board.Clock.Advance(1);
        Assert.Equal(1, Interrupts);
    }

    [Fact]
    public void CountsDownAndWrapsInModeZero()
    {
        Program(0, 0x30, 1000);
        _board.Clock.Advance(Ticks(400));
        Assert.Equal(600, Latched(0));
        Assert.Equal(600, Count(0));
        _board.Clock.Advance(Ticks(700));
        Assert.InRange(Latched(0), 0x1_0000 - 101, 0x1_0000 - 100);
    }

    [Fact]
    public void ALatchedCountStaysUntilItIsRead()
    {
        Program(0, 0x34, 60000);
        _board.Clock.Advance(Ticks(100));
        _board.Out(0x43, 0x00);
        _board.Clock.Advance(Ticks(100));
        _board.Out(0x43, 0x00);
        Assert.Equal(59900, Count(0));
        Assert.InRange(Count(0), 59799, 59800);
    }

    [Fact]
    public void TheSquareWaveCountsByTwosAndItsOutputIsHalfHigh()
    {
        Program(2, 0x36, 1000);
        _board.Out(0x61, 0x01);
        Assert.Equal(0x20, _board.In(0x61) & 0x20);
        _board.Clock.Advance(Ticks(100));
        Assert.Equal(800, Latched(2));
        _board.Clock.Advance(Ticks(450));
        Assert.Equal(0, _board.In(0x61) & 0x20);
        Assert.InRange(Latched(2), 896, 902);
    }

    [Fact]
    public void TheGateStopsAndRestartsCounterTwo()
    {
        // As Linux calibrates: gate closed, mode 0, gate open, wait for OUT.
        _board.Out(0x61, 0x00);
        _board.Out(0x61, 0x01);
        Program(2, 0x30, 1000);
        Assert.Equal(0, _board.In(0x61) & 0x20);
        _board.Clock.Advance(Ticks(500));
        _board.Out(0x61, 0x00);
        _board.Clock.Advance(Second);
        Assert.Equal(500, Latched(2));
        Assert.Equal(0, _board.In(0x61) & 0x20);
        _board.Out(0x61, 0x01);
        _board.Clock.Advance(Ticks(501));
        Assert.Equal(0x20, _board.In(0x61) & 0x20);
    }

    [Fact]
    public void TheHardwareOneShotWaitsForTheGate()
    {
        _board.Out(0x61, 0x00);
        Program(2, 0x32, 100);
        _board.Clock.Advance(Second);
        Assert.Equal(0x20, _board.In(0x61) & 0x20);
        _board.Out(0x61, 0x01);
        Assert.Equal(0, _board.In(0x61) & 0x20);
        _board.Clock.Advance(Ticks(101));
        Assert.Equal(0x20, _board.In(0x61) & 0x20);
    }

    [Fact]
    public void ReadBackGivesStatusThenCount()
    {
        Program(0, 0x34, 5000);
        _board.Clock.Advance(Ticks(10));
        _board.Out(0x43, 0xC2);
        Assert.Equal(0xB4, _board.In(0x40));
        Assert.Equal(4990, Count(0));
        _board.Out(0x43, 0x30);
        _board.Out(0x43, 0xE2);
        Assert.Equal(0x70, _board.In(0x40));
    }

    [Fact]
    public void BinaryCodedDecimalCountsInTens()
    {
        Program(0, 0x31, 0x1000);
        _board.Clock.Advance(Ticks(1));
        Assert.Equal(0x0999, Latched(0));
    }

    [Fact]
    public void ANewCountOfAPeriodicModeWaitsForThePeriodsEnd()
    {
        Program(0, 0x34, 1000);
        _board.Clock.Advance(Ticks(500));
        _board.Out(0x40, 0x88);
        _board.Out(0x40, 0x13);
        Assert.Equal(500, Latched(0));
        _board.Clock.Advance(Ticks(510));
        Assert.Equal(1, Interrupts);
        Assert.InRange(Latched(0), 4989, 4991);
    }

    [Fact]
    public void LowOnlyAndHighOnlyAccessLoadOneByte()
    {
        _board.Out(0x43, 0x14);
        _board.Out(0x40, 0x64);
        Assert.Equal(100, _board.In(0x40));
        _board.Out(0x43, 0x24);
        _board.Out(0x40, 0x02);
        Assert.Equal(2, _board.In(0x40));
    }

    [Fact]
    public void TheRefreshBitToggles()
    {
        var seen = new HashSet<int>();
        for (int i = 0; i < 10; i++)
        {
            seen.Add(_board.In(0x61) & 0x10);
            _board.Clock.AdvanceMicroseconds(15);
        }
        Assert.Equal([0, 0x10], seen.Order());
    }
}

public sealed class RealTimeClockTests
{
    private readonly TestBoard _board = new();

    public RealTimeClockTests() => _board.Redirect(8, 0x58);

    private int Interrupts => _board.Sink.Messages.Count;

    private byte Get(byte index)
    {
        _board.Out(0x70, index);
        return _board.In(0x71);
    }

    private void Put(byte index, byte value)
    {
        _board.Out(0x70, index);
        _board.Out(0x71, value);
    }

    [Fact]
    public void ShowsTheWallClockInBcdAndLeapDays()
    {
        Assert.Equal([0x50, 0x59, 0x23, 0x28, 0x02, 0x24, 0x20], new byte[] { Get(0), Get(2), Get(4), Get(7), Get(8), Get(9), Get(0x32) });
        _board.Clock.Advance(10_000_000_000);
        Assert.Equal([0x00, 0x00, 0x00, 0x29, 0x02], new byte[] { Get(0), Get(2), Get(4), Get(7), Get(8) });
        Assert.Equal(5, Get(6));
        Assert.Equal(0x80, Get(0x0D));
    }

    [Fact]
    public void BinaryAndTwelveHourModes()
    {
        Put(0x0B, 0x06);
        Assert.Equal([50, 59, 23], new byte[] { Get(0), Get(2), Get(4) });
        Put(0x0B, 0x00);
        Assert.Equal(0x91, Get(4));
        Put(4, 0x12);
        Put(0x0B, 0x02);
        Assert.Equal(0x00, Get(4));
    }

    [Fact]
    public void TheTimeCanBeSetAndRunsOn()
    {
        Put(0x0B, 0x82);
        Put(0, 0x58);
        Put(2, 0x59);
        Put(4, 0x23);
        Put(7, 0x31);
        Put(8, 0x12);
        Put(9, 0x99);
        Put(0x32, 0x19);
        _board.Clock.Advance(5_000_000_000);
        Assert.Equal(0x58, Get(0));
        Put(0x0B, 0x02);
        _board.Clock.Advance(2_000_000_000);
        Assert.Equal([0x00, 0x00, 0x00, 0x01, 0x01, 0x00, 0x20], new byte[] { Get(0), Get(2), Get(4), Get(7), Get(8), Get(9), Get(0x32) });
    }

    [Fact]
    public void ImpossibleDatesAreClippedAndNeverThrow()
    {
        foreach (byte index in (byte[])[0, 2, 4, 6, 7, 8, 9, 0x32])
        {
            foreach (byte value in (byte[])[0x00, 0xFF, 0x7F, 0x99])
                Put(index, value);
        }
        _board.Clock.Advance(5_000_000_000);
        Get(0);
    }

    [Fact]
    public void UpdateInProgressShowsBeforeTheSecondChanges()
    {
        Assert.Equal(0, Get(0x0A) & 0x80);
        _board.Clock.AdvanceMicroseconds(999_000);
        Assert.Equal(0x80, Get(0x0A) & 0x80);
        _board.Clock.AdvanceMicroseconds(1_000);
        Assert.Equal(0, Get(0x0A) & 0x80);
    }

    [Fact]
    public void PeriodicInterruptsComeAtTheirRateOnceEachIsAcknowledged()
    {
        Put(0x0A, 0x2F);
        Put(0x0B, 0x42);
        for (int i = 0; i < 10; i++)
        {
            _board.Clock.AdvanceMilliseconds(500);
            Assert.Equal(i + 1, Interrupts);
            Assert.Equal(0xC0, Get(0x0C) & 0xC0);
            Assert.Equal(0, Get(0x0C) & 0xC0);
        }
        Put(0x0B, 0x02);
        _board.Clock.Advance(5_000_000_000);
        Assert.Equal(10, Interrupts);
        Assert.Equal(0, _board.Clock.ArmedTimers);
    }

    [Fact]
    public void TheAlarmRingsAtItsTimeWithWildcards()
    {
        Put(1, 0x55);
        Put(3, 0xFF);
        Put(5, 0xFF);
        Put(0x0B, 0x22);
        _board.Clock.Advance(4_900_000_000);
        Assert.Equal(0, Interrupts);
        _board.Clock.Advance(200_000_000);
        Assert.Equal(1, Interrupts);
        Assert.Equal(0xA0, Get(0x0C) & 0xA0);
        _board.Clock.Advance(60_000_000_000);
        Assert.Equal(2, Interrupts);
    }

    [Fact]
    public void UpdateEndedInterruptsEverySecond()
    {
        Put(0x0B, 0x12);
        for (int i = 0; i < 3; i++)
        {
            _board.Clock.Advance(1_000_000_000);
            Assert.Equal(0x90, Get(0x0C) & 0x90);
        }
        Assert.Equal(3, Interrupts);
    }

    [Fact]
    public void MemorySizesAreWhereFirmwarePutsThem()
    {
        Assert.Equal(640, Get(0x15) | Get(0x16) << 8);
        Assert.Equal((TestBoard.MemorySize - (1 << 20)) / 1024, Get(0x17) | Get(0x18) << 8);
        int sum = 0;
        for (byte i = 0x10; i <= 0x2D; i++)
            sum += Get(i);
        Assert.Equal(sum, Get(0x2E) << 8 | Get(0x2F));
        Put(0x40, 0xA5);
        Assert.Equal(0xA5, Get(0x40));
        _board.Out(0x70, 0x80);
        Assert.True(_board.Board.Rtc.NmiMasked);
    }
}

public sealed class HpetTests
{
    private const ulong Base = 0xFED0_0000;
    private const uint Millisecond = 100_000;

    private readonly TestBoard _board = new();

    private int Interrupts => _board.Sink.Messages.Count;

    private ulong Read64(ulong offset) => _board.Board.Bus.ReadMemory(Base + offset, 8);

    private void Write64(ulong offset, ulong value) => _board.Board.Bus.WriteMemory(Base + offset, 8, value);

    [Fact]
    public void TellsItsPeriodAndCountsWhileItIsOn()
    {
        Assert.Equal(0x0098_9680_8086_A201ul, Read64(0));
        _board.Clock.AdvanceMilliseconds(1);
        Assert.Equal(0ul, Read64(0xF0));
        Write64(0x10, 1);
        _board.Clock.AdvanceMilliseconds(1);
        Assert.Equal(Millisecond, Read64(0xF0));
        Assert.Equal(Millisecond, _board.Read32(Base + 0xF0));
        Write64(0x10, 0);
        _board.Clock.AdvanceMilliseconds(1);
        Assert.Equal(Millisecond, Read64(0xF0));
        Write64(0xF0, 0x1_0000_0000);
        Assert.Equal(1u, _board.Read32(Base + 0xF4));
    }

    [Fact]
    public void AOneShotFiresOnItsPin()
    {
        _board.Redirect(21, 0x61);
        Write64(0x140, 21 << 9 | 4);
        Write64(0x148, 2 * Millisecond);
        Write64(0x10, 1);
        _board.Clock.AdvanceMilliseconds(1);
        Assert.Equal(0, Interrupts);
        _board.Clock.AdvanceMilliseconds(10);
        Assert.Equal(0x61, Assert.Single(_board.Sink.Messages).Vector);
    }

    [Fact]
    public void PeriodicLegacyReplacementTakesTheTimersInterrupt()
    {
        _board.Redirect(2, 0x50);
        _board.Out(0x43, 0x34);
        _board.Out(0x40, 0x00);
        _board.Out(0x40, 0x10);
        Write64(0x100, 1 << 2 | 1 << 3 | 1 << 6);
        Write64(0x108, 4 * Millisecond);
        Write64(0x108, 4 * Millisecond);
        Write64(0x10, 3);
        _board.Sink.Messages.Clear();
        _board.Clock.AdvanceMilliseconds(100);
        Assert.Equal(25, Interrupts);
        Write64(0x10, 0);
        _board.Clock.AdvanceMilliseconds(100);
        // The PIT has its wire back.
        Assert.InRange(Interrupts, 26 + 25, 28 + 29);
    }

    [Fact]
    public void ALevelHoldsUntilItsStatusIsCleared()
    {
        _board.Redirect(20, 0x60 | 1 << 15);
        Write64(0x120, 20 << 9 | 4 | 2);
        Write64(0x128, Millisecond);
        Write64(0x10, 1);
        _board.Clock.AdvanceMilliseconds(2);
        Assert.Equal(2ul, Read64(0x20));
        _board.Board.IoApic.EndOfInterrupt(0x60);
        Assert.Equal(2, Interrupts);
        Write64(0x20, 2);
        _board.Board.IoApic.EndOfInterrupt(0x60);
        Assert.Equal(2, Interrupts);
        Assert.Equal(0ul, Read64(0x20));
    }

    [Fact]
    public void A32BitComparatorMatchesAfterTheWrap()
    {
        _board.Redirect(20, 0x60);
        Write64(0xF0, 0xFFFF_FFF0);
        Write64(0x100, 20 << 9 | 4 | 1 << 8);
        Write64(0x108, 0x10);
        Write64(0x10, 1);
        _board.Clock.Advance(310);
        Assert.Equal(0, Interrupts);
        _board.Clock.Advance(10);
        Assert.Equal(1, Interrupts);
    }
}
