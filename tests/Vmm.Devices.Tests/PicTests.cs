using Vmm.Devices.Interrupts;
using Vmm.Devices.Tests.Fixture;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class PicTests
{
    private readonly TestBoard _board = new();

    private PicPair Pic => _board.Board.Pic;

    private bool Asserted => _board.Sink.ExternalInterrupt;

    private void Pulse(int irq)
    {
        Pic.SetInput(irq, false);
        Pic.SetInput(irq, true);
    }

    [Fact]
    public void AnEdgeIsAcknowledgedWithItsVectorAndHeldUntilItsEnd()
    {
        _board.InitializePic();
        Pulse(4);
        Assert.True(Asserted);
        Assert.Equal(0x10, _board.In(0x20));
        Assert.Equal(0x24, Pic.Acknowledge());
        Assert.False(Asserted);
        _board.Out(0x20, 0x0B);
        Assert.Equal(0x10, _board.In(0x20));
        Pulse(4);
        Assert.False(Asserted);
        _board.Out(0x20, 0x20);
        Assert.True(Asserted);
        Assert.Equal(0x24, Pic.Acknowledge());
    }

    [Fact]
    public void HigherPrioritiesInterruptLowerOnes()
    {
        _board.InitializePic();
        Pulse(5);
        Assert.Equal(0x25, Pic.Acknowledge());
        Pulse(6);
        Assert.False(Asserted);
        Pulse(1);
        Assert.True(Asserted);
        Assert.Equal(0x21, Pic.Acknowledge());
        _board.Out(0x20, 0x20);
        Assert.False(Asserted);
        _board.Out(0x20, 0x20);
        Assert.Equal(0x26, Pic.Acknowledge());
    }

    [Fact]
    public void TheSlaveComesThroughTheCascade()
    {
        _board.InitializePic();
        Pulse(12);
        Assert.Equal(0x2C, Pic.Acknowledge());
        _board.Out(0x20, 0x0B);
        _board.Out(0xA0, 0x0B);
        Assert.Equal(0x04, _board.In(0x20));
        Assert.Equal(0x10, _board.In(0xA0));
        // A second one of the slave waits for the master's end too.
        Pulse(8);
        Assert.False(Asserted);
        _board.Out(0xA0, 0x20);
        _board.Out(0x20, 0x20);
        Assert.Equal(0x28, Pic.Acknowledge());
    }

    [Fact]
    public void SpecialFullyNestedModeLetsTheSlaveInterruptItself()
    {
        _board.InitializePic();
        _board.Out(0x20, 0x11);
        _board.Out(0x21, 0x20);
        _board.Out(0x21, 0x04);
        _board.Out(0x21, 0x11);
        Pulse(12);
        Assert.Equal(0x2C, Pic.Acknowledge());
        Pulse(8);
        Assert.Equal(0x28, Pic.Acknowledge());
        Pulse(5);
        Assert.False(Asserted);
        Pulse(1);
        Assert.True(Asserted);
    }

    [Fact]
    public void ARequestThatVanishesIsSpurious()
    {
        _board.InitializePic();
        Pulse(3);
        Pic.SetInput(3, false);
        Assert.False(Asserted);
        Assert.Equal(0x27, Pic.Acknowledge());
        _board.Out(0x20, 0x0B);
        Assert.Equal(0, _board.In(0x20));
    }

    [Fact]
    public void MaskedInputsWaitUntilTheyAreUnmasked()
    {
        _board.InitializePic();
        _board.Out(0x21, 0xFF);
        Pulse(7);
        Assert.False(Asserted);
        _board.Out(0x21, 0x7F);
        Assert.True(Asserted);
        Assert.Equal(0x7F, _board.In(0x21));
    }

    [Fact]
    public void LevelInputsAskAgainUntilTheyAreReleased()
    {
        _board.InitializePic();
        _board.Out(0x4D0, 0xFF);
        Assert.Equal(0xF8, _board.In(0x4D0));
        Pic.SetInput(5, true);
        Assert.Equal(0x25, Pic.Acknowledge());
        _board.Out(0x20, 0x20);
        Assert.True(Asserted);
        Assert.Equal(0x25, Pic.Acknowledge());
        Pic.SetInput(5, false);
        _board.Out(0x20, 0x20);
        Assert.False(Asserted);
    }

    [Fact]
    public void RotationMakesTheServedInputTheLowest()
    {
        _board.InitializePic();
        Pulse(3);
        Pic.Acknowledge();
        _board.Out(0x20, 0xA0);
        Pulse(3);
        Pulse(4);
        Assert.Equal(0x24, Pic.Acknowledge());
        _board.Out(0x20, 0x64);
        Assert.Equal(0x23, Pic.Acknowledge());
        // Specific: 6 becomes the lowest, so 7 is the highest.
        _board.Out(0x20, 0x63);
        _board.Out(0x20, 0xC6);
        Pulse(0);
        Pulse(7);
        Assert.Equal(0x27, Pic.Acknowledge());
    }

    [Fact]
    public void AutomaticEndLeavesNothingInService()
    {
        _board.Out(0x20, 0x11);
        _board.Out(0x21, 0x40);
        _board.Out(0x21, 0x04);
        _board.Out(0x21, 0x03);
        Pulse(4);
        Assert.Equal(0x44, Pic.Acknowledge());
        _board.Out(0x20, 0x0B);
        Assert.Equal(0, _board.In(0x20));
        Pulse(4);
        Assert.True(Asserted);
    }

    [Fact]
    public void SpecialMaskModeLetsLowerPrioritiesThrough()
    {
        _board.InitializePic();
        Pulse(1);
        Pic.Acknowledge();
        Pulse(6);
        Assert.False(Asserted);
        _board.Out(0x21, 0x02);
        _board.Out(0x20, 0x68);
        Assert.True(Asserted);
        Assert.Equal(0x26, Pic.Acknowledge());
        // The end refers to an input that is not masked.
        _board.Out(0x20, 0x20);
        _board.Out(0x20, 0x0B);
        Assert.Equal(0x02, _board.In(0x20));
    }

    [Fact]
    public void APollIsAnAcknowledge()
    {
        _board.InitializePic();
        Pulse(5);
        _board.Out(0x20, 0x0C);
        Assert.Equal(0x85, _board.In(0x20));
        Assert.False(Asserted);
        _board.Out(0x20, 0x0C);
        Assert.Equal(0x00, _board.In(0x20));
    }

    [Fact]
    public void InitializationForgetsRequests()
    {
        _board.InitializePic();
        Pulse(5);
        _board.Out(0x20, 0x11);
        Assert.False(Asserted);
        _board.Out(0x21, 0x30);
        _board.Out(0x21, 0x04);
        _board.Out(0x21, 0x01);
        Assert.Equal(0, _board.In(0x20));
        Pulse(5);
        Assert.Equal(0x35, Pic.Acknowledge());
    }
}
