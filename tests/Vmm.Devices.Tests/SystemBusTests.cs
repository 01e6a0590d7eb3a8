using Vmm.Devices.Bus;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class SystemBusTests
{
    /// <summary>Registers that hold bytes and write down the accesses they see.</summary>
    private sealed class Probe : IPortDevice, IMemoryDevice
    {
        public List<string> Accesses { get; } = [];

        public uint ReadPort(ushort port, int size)
        {
            Accesses.Add($"in{size} {port:x}");
            return 0xFFFF_FF00u | (byte)port;
        }

        public void WritePort(ushort port, int size, uint value) => Accesses.Add($"out{size} {port:x} {value:x}");

        public ulong ReadMemory(ulong offset, int size)
        {
            Accesses.Add($"read{size} {offset:x}");
            return 0xFFFF_FFFF_FFFF_FF00 | (byte)offset;
        }

        public void WriteMemory(ulong offset, int size, ulong value) => Accesses.Add($"write{size} {offset:x} {value:x}");
    }

    [Fact]
    public void UnclaimedAddressesReadAsOnesAndTakeWrites()
    {
        var bus = new SystemBus();
        Assert.Equal(0xFFu, bus.ReadPort(0x123, 1));
        Assert.Equal(0xFFFFu, bus.ReadPort(0xFFFF, 2));
        Assert.Equal(0xFFFF_FFFFu, bus.ReadPort(0x123, 4));
        Assert.Equal(ulong.MaxValue, bus.ReadMemory(ulong.MaxValue - 3, 8));
        bus.WritePort(0xFFFF, 4, 1);
        bus.WriteMemory(ulong.MaxValue, 8, 1);
    }

    [Fact]
    public void WideAccessesToByteRegistersAreSplit()
    {
        var bus = new SystemBus();
        var probe = new Probe();
        bus.AddPorts(probe, 0x10, 3);
        Assert.Equal(0xFF12_1110u, bus.ReadPort(0x10, 4));
        Assert.Equal(["in1 10", "in1 11", "in1 12"], probe.Accesses);
        probe.Accesses.Clear();
        bus.WritePort(0x11, 2, 0xBBAA);
        Assert.Equal(["out1 11 aa", "out1 12 bb"], probe.Accesses);
    }

    [Fact]
    public void AnAccessThatStraddlesTwoDevicesReachesBoth()
    {
        var bus = new SystemBus();
        Probe low = new(), high = new();
        bus.AddPorts(low, 0x10, 2, 4);
        bus.AddPorts(high, 0x12, 2, 4);
        bus.WritePort(0x10, 4, 0x4433_2211);
        Assert.Equal(["out2 10 2211"], low.Accesses);
        Assert.Equal(["out2 12 4433"], high.Accesses);
    }

    [Fact]
    public void ResultsAreCutToTheSizeOfTheAccess()
    {
        var bus = new SystemBus();
        bus.AddPorts(new Probe(), 0x10, 4, 4);
        bus.AddMemory(new Probe(), 0x1000, 0x10, 8);
        Assert.Equal(0x10u, bus.ReadPort(0x10, 1));
        Assert.Equal(0xFF02u, bus.ReadMemory(0x1002, 2));
    }

    [Fact]
    public void OverlappingClaimsAreRejectedAndChangeNothing()
    {
        var bus = new SystemBus();
        bus.AddPorts(new Probe(), 0x10, 4);
        Assert.Throws<ArgumentException>(() => bus.AddPorts(new Probe(), 0x0E, 3));
        Assert.Equal(0xFFu, bus.ReadPort(0x0E, 1));
        Assert.Throws<ArgumentException>(() => bus.AddPorts(new Probe(), 0xFFFF, 2));
        Assert.Throws<ArgumentException>(() => bus.AddPorts(new Probe(), 0x20, 0));
        bus.AddMemory(new Probe(), 0x1000, 0x1000, 4);
        Assert.Throws<ArgumentException>(() => bus.AddMemory(new Probe(), 0x1FFF, 1, 4));
        Assert.Throws<ArgumentException>(() => bus.AddMemory(new Probe(), ulong.MaxValue, 2, 4));
        bus.AddMemory(new Probe(), 0x2000, 1, 4);
    }

    [Fact]
    public void MovableWindowsFollowTheirBaseAndNeverHideAFixedOne()
    {
        var bus = new SystemBus();
        Probe fix = new(), bar = new(), other = new();
        bus.AddMemory(fix, 0x1000, 0x100, 4);
        MemoryWindow window = bus.AddMovableMemory(bar, 0x100, 4);
        MemoryWindow second = bus.AddMovableMemory(other, 0x100, 4);
        Assert.Equal(0xFFFF_FFFFul, bus.ReadMemory(0, 4));
        window.MapAt(0x2000);
        Assert.Equal(0xFFFF_FF04ul, bus.ReadMemory(0x2004, 4));
        second.MapAt(0x2080);
        bus.ReadMemory(0x2080, 4);
        Assert.Empty(other.Accesses);
        window.MapAt(0x10C0);
        bus.ReadMemory(0x10C0, 4);
        bus.ReadMemory(0x2080, 4);
        Assert.Equal(["read4 c0"], fix.Accesses);
        Assert.Equal(["read4 0"], other.Accesses);
        window.MapAt(ulong.MaxValue - 3);
        Assert.Null(window.Base);
        Assert.False(bus.IsClaimed(ulong.MaxValue));
    }

    [Fact]
    public void ManyWindowsAreFoundByTheirAddresses()
    {
        var bus = new SystemBus();
        var probes = new Probe[64];
        for (int i = 0; i < probes.Length; i++)
            bus.AddMemory(probes[i] = new Probe(), (ulong)((i * 37 % 64 + 1) * 0x1000), 0x800, 8);
        for (int i = 0; i < probes.Length; i++)
        {
            ulong at = (ulong)((i * 37 % 64 + 1) * 0x1000);
            bus.ReadMemory(at + 0x7F8, 8);
            Assert.Equal(["read8 7f8"], probes[i].Accesses);
            Assert.False(bus.IsClaimed(at + 0x800));
        }
    }
}
