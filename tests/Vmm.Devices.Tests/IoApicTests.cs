using Vmm.Devices.Interrupts;
using Vmm.Devices.Tests.Fixture;
using Vmm.Hypervisor.Apic;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class IoApicTests
{
    private const uint Level = 1 << 15;
    private const uint Masked = 1 << 16;
    private const uint RemoteIrr = 1 << 14;

    private readonly TestBoard _board = new();

    private IoApic IoApic => _board.Board.IoApic;

    private List<InterruptMessage> Messages => _board.Sink.Messages;

    [Fact]
    public void IdentifiesItself()
    {
        _board.Write32(0xFEC0_0000, 1);
        Assert.Equal(0x0017_0020u, _board.Read32(0xFEC0_0010));
        _board.Write32(0xFEC0_0000, 0);
        _board.Write32(0xFEC0_0010, 0x0500_0000);
        Assert.Equal(0x0500_0000u, _board.Read32(0xFEC0_0010));
        _board.Write32(0xFEC0_0000, 0x3F);
        Assert.Equal(0x0000_0000u, _board.Read32(0xFEC0_0010));
        Assert.Equal(Masked, _board.RedirectionLow(23));
    }

    [Fact]
    public void AnEdgeIsSentOnce()
    {
        _board.Redirect(5, 0x0830 | 0x100, 0x0300_0000);
        IoApic.SetInput(5, true);
        IoApic.SetInput(5, true);
        Assert.Equal([new InterruptMessage(3, true, DeliveryMode.LowestPriority, 0x30, false)], Messages);
        IoApic.SetInput(5, false);
        IoApic.SetInput(5, true);
        Assert.Equal(2, Messages.Count);
    }

    [Fact]
    public void AnEdgeOnAMaskedPinIsLost()
    {
        _board.Redirect(5, 0x30 | Masked);
        IoApic.SetInput(5, true);
        _board.Redirect(5, 0x30);
        Assert.Empty(Messages);
    }

    [Fact]
    public void ALevelIsSentAgainAfterEachEndOfInterruptWhileItLasts()
    {
        _board.Redirect(11, 0x41 | Level);
        IoApic.SetInput(11, true);
        Assert.Equal([new InterruptMessage(0, false, DeliveryMode.Fixed, 0x41, true)], Messages);
        Assert.Equal(0x41 | Level | RemoteIrr, _board.RedirectionLow(11));
        IoApic.EndOfInterrupt(0x42);
        Assert.Single(Messages);
        IoApic.EndOfInterrupt(0x41);
        Assert.Equal(2, Messages.Count);
        IoApic.SetInput(11, false);
        IoApic.EndOfInterrupt(0x41);
        Assert.Equal(2, Messages.Count);
        Assert.Equal(0x41 | Level, _board.RedirectionLow(11));
    }

    [Fact]
    public void AMaskedLevelWaits()
    {
        _board.Redirect(11, 0x41 | Level | Masked);
        IoApic.SetInput(11, true);
        Assert.Empty(Messages);
        _board.Redirect(11, 0x41 | Level);
        Assert.Single(Messages);
    }

    [Fact]
    public void ALevelThatNobodyAcceptedIsNotInService()
    {
        _board.Sink.Accepts = false;
        _board.Redirect(11, 0x41 | Level);
        IoApic.SetInput(11, true);
        Assert.Equal(0x41 | Level, _board.RedirectionLow(11));
    }

    [Fact]
    public void TheEndRegisterAndATripThroughEdgeModeClearTheRemoteIrr()
    {
        _board.Redirect(11, 0x41 | Level);
        IoApic.SetInput(11, true);
        IoApic.SetInput(11, false);
        _board.Write32(0xFEC0_0040, 0x41);
        Assert.Equal(0x41 | Level, _board.RedirectionLow(11));
        IoApic.SetInput(11, true);
        _board.Redirect(11, 0x41 | Masked);
        _board.Redirect(11, 0x41 | Level | Masked);
        Assert.Equal(0x41 | Level | Masked, _board.RedirectionLow(11));
    }

    [Fact]
    public void ReadOnlyBitsStay()
    {
        _board.Redirect(3, 0xFFFF_FFFF & ~Level, 0xFFFF_FFFF);
        Assert.Equal(0x0001_2FFFu, _board.RedirectionLow(3));
        _board.Write32(0xFEC0_0000, 0x17);
        Assert.Equal(0xFF00_0000u, _board.Read32(0xFEC0_0010));
    }

    [Fact]
    public void IsaInterruptsReachBothControllersAndTheTimerIsOnPinTwo()
    {
        _board.InitializePic();
        _board.Redirect(2, 0x50);
        _board.Out(0x43, 0x34);
        _board.Out(0x40, 0xE8);
        _board.Out(0x40, 0x03);
        _board.Clock.AdvanceMilliseconds(1);
        Assert.Equal(0x50, Assert.Single(Messages).Vector);
        Assert.Equal(0x20, _board.Board.Pic.Acknowledge());
    }

    [Fact]
    public void ThePicsOutputIsOnPinZero()
    {
        _board.InitializePic();
        _board.Redirect(0, 0x700);
        _board.Out(0x2004, 1);
        Assert.Equal(DeliveryMode.ExtInt, Assert.Single(Messages).Mode);
        _board.Out(0x2004, 0);
    }
}
