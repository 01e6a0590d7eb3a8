using Vmm.Devices.Tests.Fixture;
using Vmm.Hypervisor.Apic;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class SystemManagementPortTests
{
    private readonly TestBoard _board = new();

    [Fact]
    public void WithoutFirmwareThatTurnsItOnAWriteIsKeptAndNothingElse()
    {
        _board.Out(0xB2, 0x5A);
        _board.Out(0xB3, 0xA5);
        Assert.Empty(_board.Sink.Messages);
        Assert.Equal((0x5A, 0xA5, 0u), (_board.In(0xB2), _board.In(0xB3), _board.In32(0x634)));
    }

    [Theory]
    [InlineData(0x21u, true)]
    [InlineData(0x20u, false)]
    [InlineData(0x01u, false)]
    public void AWriteOfTheControlPortIsAnSmiToEveryProcessor(uint enable, bool sent)
    {
        _board.Out32(0x630, enable);
        Assert.Equal(enable, _board.In32(0x630));
        _board.Out(0xB3, 1);
        _board.Out(0xB2, 7);
        Assert.Equal(sent ? [new InterruptMessage(0xFF, false, DeliveryMode.Smi, 0, false)] : [], _board.Sink.Messages);
        Assert.Equal(sent ? 0x20u : 0, _board.In32(0x634));
        _board.Out32(0x634, 0x20);
        Assert.Equal(0u, _board.In32(0x634));
    }

    [Fact]
    public void ItsStateIsSavedAndAResetEndsIt()
    {
        Assert.Null(_board.Board.Save().SystemManagement);
        _board.Out32(0x630, 0x21);
        _board.Out(0xB2, 7);
        var other = new TestBoard();
        other.Board.Load(_board.Board.Save());
        Assert.Empty(other.Sink.Messages);
        Assert.Equal((7, 0x21u, 0x20u), (other.In(0xB2), other.In32(0x630), other.In32(0x634)));
        other.Board.Reset();
        other.Out(0xB2, 7);
        Assert.Empty(other.Sink.Messages);
    }
}
