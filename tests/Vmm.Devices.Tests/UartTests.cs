using System.Text;
using Vmm.Devices.Serial;
using Vmm.Devices.Tests.Fixture;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class UartTests
{
    private const ushort Com1 = 0x3F8;

    private readonly TestBoard _board = new();

    public UartTests()
    {
        _board.InitializePic();
        _board.Out(0x21, 0xEF);
    }

    private Uart16550 Uart => _board.Board.Serial[0];

    private bool Irq => _board.Sink.ExternalInterrupt;

    private byte In(int register) => _board.In((ushort)(Com1 + register));

    private void Out(int register, byte value) => _board.Out((ushort)(Com1 + register), value);

    private void AcknowledgeIrq()
    {
        Assert.Equal(0x24, _board.Board.Pic.Acknowledge());
        _board.Out(0x20, 0x20);
    }

    [Fact]
    public void WhatIsSentComesOutAndTheTransmitterIsAlwaysEmpty()
    {
        foreach (byte b in "hello"u8)
        {
            Assert.Equal(0x60, In(5));
            Out(0, b);
        }
        Assert.Equal("hello", _board.Output.ToString());
    }

    [Fact]
    public void TheDivisorHidesBehindItsLatchBit()
    {
        Out(3, 0x83);
        Out(0, 0x01);
        Out(1, 0x02);
        Assert.Equal([0x01, 0x02], new byte[] { In(0), In(1) });
        Out(3, 0x03);
        Assert.Equal(0, In(1));
        Assert.Empty(_board.Output.ToString());
        Out(7, 0x5A);
        Assert.Equal(0x5A, In(7));
    }

    [Fact]
    public void TheFifoIsFoundByItsIdentificationBits()
    {
        Assert.Equal(0x01, In(2));
        Out(2, 0x01);
        Assert.Equal(0xC1, In(2));
        Out(2, 0x00);
        Assert.Equal(0x01, In(2));
    }

    [Fact]
    public void EnablingTheTransmitterInterruptRaisesItUntilItsCauseIsRead()
    {
        Out(1, 0x02);
        Assert.True(Irq);
        AcknowledgeIrq();
        Assert.Equal(0x02, In(2));
        Assert.Equal(0x01, In(2));
        Out(0, (byte)'x');
        Assert.True(Irq);
        AcknowledgeIrq();
        Out(1, 0x00);
        Assert.Equal(0x01, In(2));
    }

    [Fact]
    public void ReceivedBytesInterruptAndAreReadInOrder()
    {
        Out(2, 0x01);
        Out(1, 0x01);
        Assert.Equal(3, Uart.Receive("abc"u8));
        Assert.True(Irq);
        Assert.Equal(0xC4, In(2));
        Assert.Equal(0x61, In(5));
        Assert.Equal("abc", Encoding.ASCII.GetString([In(0), In(0), In(0)]));
        Assert.Equal(0x60, In(5));
        Assert.Equal(0xC1, In(2));
        Assert.Equal(0, In(0));
    }

    [Fact]
    public void FewerThanTheTriggerLevelTimeOut()
    {
        Out(2, 0xC1);
        Out(1, 0x01);
        Uart.Receive(new byte[13]);
        Assert.Equal(0xCC, In(2));
        Uart.Receive(new byte[1]);
        Assert.Equal(0xC4, In(2));
    }

    [Fact]
    public void TheInputQueueIsBoundedAndTellsWhenItHasRoom()
    {
        int drained = 0;
        Uart.InputDrained += () => drained++;
        byte[] flood = new byte[Uart16550.QueueCapacity + 100];
        Assert.Equal(Uart16550.QueueCapacity, Uart.Receive(flood));
        Assert.Equal(0, Uart.Receive([1]));
        for (int i = 0; i < Uart16550.QueueCapacity / 2; i++)
        {
            Assert.Equal(0, drained);
            In(0);
        }
        Assert.Equal(1, drained);
        Assert.Equal(1, Uart.Receive([1]));
    }

    [Fact]
    public void LoopbackReturnsBytesAndModemLines()
    {
        Uart.Receive("queued"u8);
        Out(2, 0x01);
        Out(4, 0x10);
        Assert.Equal(0x60, In(5));
        Out(0, 0xA5);
        Assert.Equal(0x61, In(5));
        Assert.Equal(0xA5, In(0));
        Assert.Empty(_board.Output.ToString());
        In(6);
        Out(4, 0x1A);
        // RTS comes back as CTS, OUT2 as DCD, and both have changed.
        Assert.Equal(0x99, In(6));
        Assert.Equal(0x90, In(6));
        Out(4, 0x15);
        Assert.Equal(0x6B, In(6));
        Out(4, 0x11);
        Assert.Equal(0x24, In(6));
        Out(4, 0x00);
        Assert.Equal((byte)'q', In(0));
    }

    [Fact]
    public void LoopbackOverrunsWhenNobodyReads()
    {
        Out(2, 0x01);
        Out(4, 0x10);
        Out(1, 0x04);
        for (byte i = 0; i < 17; i++)
            Out(0, i);
        Assert.Equal(0xC6, In(2));
        Assert.Equal(0x63, In(5));
        Assert.Equal(0x61, In(5));
        for (byte i = 0; i < 16; i++)
            Assert.Equal(i, In(0));
        Assert.Equal(0x60, In(5));
    }

    [Fact]
    public void ModemChangesInterrupt()
    {
        Out(1, 0x08);
        Out(4, 0x10);
        Assert.True(Irq);
        Assert.Equal(0x00, In(2));
        In(6);
        Assert.Equal(0x01, In(2));
    }

    [Fact]
    public void ThreeMorePortsAreThere()
    {
        foreach (ushort port in (ushort[])[0x2F8, 0x3E8, 0x2E8])
        {
            _board.Out((ushort)(port + 7), 0x77);
            Assert.Equal(0x77, _board.In((ushort)(port + 7)));
            _board.Out(port, (byte)'x');
        }
        Assert.Empty(_board.Output.ToString());
    }
}
