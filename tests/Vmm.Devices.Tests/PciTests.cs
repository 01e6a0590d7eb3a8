using Vmm.Devices.Board;
using Vmm.Devices.Tests.Fixture;
using Vmm.Hypervisor.Apic;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class PciTests
{
    private readonly TestBoard _board = new(options => options with { Entropy = bytes => bytes.Fill(0x5A) });

    private uint Config(int slot, int offset)
    {
        _board.Out32(0xCF8, 0x8000_0000 | (uint)slot << 11 | (uint)offset & 0xFC);
        return _board.In32(0xCFC);
    }

    private void Config(int slot, int offset, uint value)
    {
        _board.Out32(0xCF8, 0x8000_0000 | (uint)slot << 11 | (uint)offset & 0xFC);
        _board.Out32(0xCFC, value);
    }

    [Fact]
    public void MechanismOneAndEcamShowTheSameSpace()
    {
        Assert.Equal(0x29C0_8086u, Config(0, 0));
        Assert.Equal(0x1044_1AF4u, Config(2, 0));
        Assert.Equal(0xFFFF_FFFFu, Config(31, 0));
        Assert.Equal(0x29C0_8086u, _board.Read32(BoardLayout.EcamBase));
        Assert.Equal(0x1044ul, _board.Board.Bus.ReadMemory(BoardLayout.EcamBase + (2 << 15) + 2, 2));
        Assert.Equal(0ul, _board.Board.Bus.ReadMemory(BoardLayout.EcamBase + (2 << 15) + 0x100, 4));
        Assert.Equal(0xFFFF_FFFFul, _board.Board.Bus.ReadMemory(BoardLayout.EcamBase + (2 << 15) + 0x1000, 4));
        // Bytes and words of the data register.
        Config(2, 0);
        Assert.Equal(0x1044, _board.In16(0xCFE));
        Assert.Equal(0xF4, _board.In(0xCFC));
        _board.Out32(0xCF8, 0);
        Assert.Equal(0xFFFF_FFFFu, _board.In32(0xCFC));
    }

    [Fact]
    public void BaseAddressesAreSizedAndMoved()
    {
        uint placed = Config(2, 0x10);
        Assert.InRange(placed, (uint)BoardLayout.PciMemoryBase, (uint)(BoardLayout.PciMemoryBase + BoardLayout.PciMemoryLength - 1));
        Assert.True(_board.Board.Bus.IsClaimed(placed));
        Config(2, 0x10, 0xFFFF_FFFF);
        Assert.Equal(0xFFFF_C000u, Config(2, 0x10));
        Assert.False(_board.Board.Bus.IsClaimed(placed));
        Config(2, 0x10, 0xD000_0000);
        Assert.True(_board.Board.Bus.IsClaimed(0xD000_0000));
        Config(2, 0x04, 0);
        Assert.False(_board.Board.Bus.IsClaimed(0xD000_0000));
        Assert.Equal(0u, Config(2, 0x18));
        Config(2, 0x18, 0xFFFF_FFFF);
        Assert.Equal(0u, Config(2, 0x18));
    }

    [Fact]
    public void CapabilitiesFormAListThatEnds()
    {
        Assert.Equal(0x10u, Config(2, 4) >> 16 & 0x10);
        var kinds = new List<uint>();
        for (uint at = Config(2, 0x34) & 0xFF; at != 0; at = Config(2, (int)at) >> 8 & 0xFF)
            kinds.Add(Config(2, (int)at) & 0xFF);
        Assert.Equal([9u, 9u, 9u, 9u, 0x11u], kinds);
    }

    [Fact]
    public void IdentificationIsReadOnly()
    {
        Config(2, 0, 0xFFFF_FFFF);
        Config(2, 8, 0xFFFF_FFFF);
        Assert.Equal(0x1044_1AF4u, Config(2, 0));
        Assert.Equal(1u, Config(2, 8) & 0xFF);
        Config(2, 0x3C, 0xFFFF_FFFF);
        Assert.Equal(0x01FFu, Config(2, 0x3C));
    }

    [Fact]
    public void MaskedMessagesArePendingUntilTheyAreUnmasked()
    {
        var sink = new RecordingSink();
        var memory = new ArrayMemory(0x1000);
        var messages = new Pci.MessageSignalledInterrupts(sink, memory, 2);
        messages.WriteMemory(0x10, 4, 0xFEE0_3004);
        messages.WriteMemory(0x18, 4, 0x0000_0131);
        messages.Send(1);
        Assert.Empty(sink.Messages);
        messages.SetControl(0x8000);
        messages.Send(1);
        Assert.Empty(sink.Messages);
        Assert.Equal(2ul, messages.ReadMemory(0x800, 8));
        messages.WriteMemory(0x1C, 4, 0);
        Assert.Equal([new InterruptMessage(3, true, DeliveryMode.LowestPriority, 0x31, false)], sink.Messages);
        Assert.Equal(0ul, messages.ReadMemory(0x800, 8));
        messages.SetControl(0xC000);
        messages.Send(1);
        messages.Send(7);
        Assert.Single(sink.Messages);
        messages.SetControl(0x8000);
        Assert.Equal(2, sink.Messages.Count);
        // A message that is addressed to RAM is written there.
        messages.WriteMemory(0x10, 8, 0x100);
        messages.Send(1);
        Assert.Equal(0x31, memory.Bytes[0x100]);
    }
}
