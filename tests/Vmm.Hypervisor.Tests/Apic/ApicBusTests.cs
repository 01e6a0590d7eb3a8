using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Tests.Apic;

public sealed class ApicBusTests
{
    private const uint Logical = 1 << 11, Assert_ = 1 << 14, Level = 1 << 15;

    private static int[] Receivers(ApicBench bench)
    {
        List<int> found = [];
        for (int i = 0; i < bench.Apics.Length; i++)
        {
            if (bench.Apics[i].DeliverableVector < 0)
                continue;
            found.Add(i);
            bench.Apics[i].AcknowledgeInterrupt();
            bench.Apics[i].EndOfInterrupt();
        }
        return [.. found];
    }

    [Fact]
    public void Physical_destinations_and_shorthands()
    {
        using ApicBench bench = new ApicBench(4).Enabled();
        bench.Command(2, 0x40);
        Assert.Equal([2], Receivers(bench));
        bench.Command(9, 0x40);
        Assert.Empty(Receivers(bench));
        bench.Command(0xFF, 0x40);
        Assert.Equal([0, 1, 2, 3], Receivers(bench));
        bench.Command(0, 1 << 18 | 0x40);
        Assert.Equal([0], Receivers(bench));
        bench.Command(0, 2 << 18 | 0x40);
        Assert.Equal([0, 1, 2, 3], Receivers(bench));
        bench.Command(0, 3 << 18 | 0x40);
        Assert.Equal([1, 2, 3], Receivers(bench));
        Assert.Equal(0u, bench.Read(ApicRegister.CommandLow) & 1 << 12);
    }

    [Fact]
    public void Logical_destinations_in_the_flat_model()
    {
        using ApicBench bench = new ApicBench(4).Enabled();
        for (int i = 0; i < 4; i++)
            bench.Apics[i].WriteMemory(ApicRegister.LogicalDestination, 4, 1u << (24 + i));
        bench.Command(0b1010, Logical | 0x40);
        Assert.Equal([1, 3], Receivers(bench));
        bench.Command(0xFF, Logical | 0x40);
        Assert.Equal([0, 1, 2, 3], Receivers(bench));
        Assert.False(bench.Bus.Deliver(new(0xF0, true, DeliveryMode.Fixed, 0x40, false)));
    }

    [Fact]
    public void Logical_destinations_in_the_cluster_model()
    {
        using ApicBench bench = new ApicBench(4).Enabled();
        for (int i = 0; i < 4; i++)
        {
            bench.Apics[i].WriteMemory(ApicRegister.DestinationFormat, 4, 0x0FFF_FFFF);
            bench.Apics[i].WriteMemory(ApicRegister.LogicalDestination, 4, (uint)((i / 2 << 4 | 1 << (i % 2)) << 24));
        }
        bench.Command(0x12, Logical | 0x40);
        Assert.Equal([3], Receivers(bench));
        bench.Command(0x03, Logical | 0x40);
        Assert.Equal([0, 1], Receivers(bench));
        bench.Command(0xFF, Logical | 0x40);
        Assert.Equal([0, 1, 2, 3], Receivers(bench));
    }

    [Fact]
    public void Lowest_priority_goes_to_one_of_those_with_the_lowest()
    {
        using ApicBench bench = new ApicBench(4).Enabled();
        for (int i = 0; i < 4; i++)
            bench.Apics[i].WriteMemory(ApicRegister.LogicalDestination, 4, 1u << (24 + i));
        bench.Apics[0].SetTaskPriority(0x20);
        bench.Apics[2].SetTaskPriority(0x20);
        HashSet<int> seen = [];
        for (int i = 0; i < 8; i++)
        {
            bench.Bus.Deliver(new(0xFF, true, DeliveryMode.LowestPriority, 0x80, false));
            seen.Add(Assert.Single(Receivers(bench)));
        }
        Assert.Equal([1, 3], seen.Order());
    }

    [Fact]
    public void Devices_reach_everyone_with_all_ones()
    {
        using ApicBench bench = new ApicBench(3).Enabled().X2();
        Assert.True(bench.Bus.Deliver(new(0xFF, false, DeliveryMode.Fixed, 0x40, false)));
        Assert.Equal([0, 1, 2], Receivers(bench));
    }

    [Fact]
    public void Init_start_up_and_nmi_reach_their_owners()
    {
        using ApicBench bench = new(3);
        bench.Command(0, 3 << 18 | Level | Assert_ | 5 << 8);
        bench.Command(0, 3 << 18 | Level | 5 << 8);
        Assert.Equal([0, 1, 1], bench.Owners.Select(o => o.Inits));
        bench.Command(2, 6 << 8 | 0x9A);
        Assert.Equal([0x9A], bench.Owners[2].StartUps);
        Assert.Empty(bench.Owners[1].StartUps);
        bench.Command(1, 4 << 8);
        Assert.Equal([0, 1, 0], bench.Owners.Select(o => o.Nmis));
    }

    [Fact]
    public void Extended_ids_are_read_only_and_derived()
    {
        using ApicBench bench = new ApicBench(16).Enabled().X2();
        Assert.True(bench.Apics[13].TryReadMsr(0x802, out ulong id));
        Assert.Equal(13UL, id);
        Assert.True(bench.Apics[13].TryReadMsr(0x80D, out ulong ldr));
        Assert.Equal(1UL << 13, ldr);
        Assert.False(bench.Apic.TryWriteMsr(0x802, 5));
        Assert.False(bench.Apic.TryWriteMsr(0x80D, 5));
        Assert.True(bench.Apic.TryWriteMsr(0x830, 0x0000_2002UL << 32 | Logical | 0x40));
        Assert.Equal([1, 13], Receivers(bench));
        Assert.True(bench.Apic.TryWriteMsr(0x830, 0xFFUL << 32 | 0x40));
        Assert.Empty(Receivers(bench));
        Assert.True(bench.Apic.TryWriteMsr(0x830, 0xFFFF_FFFFUL << 32 | 0x40));
        Assert.Equal(16, Receivers(bench).Length);
        Assert.True(bench.Apic.TryWriteMsr(0x83F, 0x41));
        Assert.Equal([0], Receivers(bench));
    }

    // SDM volume 3, table 12-6: registers without an MSR, read-only and write-only ones, and reserved bits.
    [Theory]
    [InlineData(0x80E, 0, false, false)]
    [InlineData(0x831, 0, false, false)]
    [InlineData(0x803, 0, true, false)]
    [InlineData(0x80A, 0, true, false)]
    [InlineData(0x80B, 0, false, true)]
    [InlineData(0x80B, 1, false, false)]
    [InlineData(0x828, 0, true, true)]
    [InlineData(0x828, 1, true, false)]
    [InlineData(0x808, 0xFF, true, true)]
    [InlineData(0x808, 0x100, true, false)]
    [InlineData(0x80F, 0x2FF, true, true)]
    [InlineData(0x80F, 0x1_0000_0000, true, false)]
    [InlineData(0x832, 0x1_0000, true, true)]
    [InlineData(0x832, 0x100, true, false)]
    [InlineData(0x838, 5, true, true)]
    [InlineData(0x839, 5, true, false)]
    [InlineData(0x83E, 0xB, true, true)]
    [InlineData(0x83E, 4, true, false)]
    [InlineData(0x83F, 0x40, false, true)]
    [InlineData(0x830, 0x10_0000, true, false)]
    [InlineData(0x82F, 0, false, false)]
    [InlineData(0x8FF, 0, false, false)]
    public void Msrs_check_what_memory_does_not(uint msr, ulong value, bool readable, bool writable)
    {
        using ApicBench bench = new ApicBench().Enabled();
        Assert.False(bench.Apic.TryReadMsr(msr, out _));
        Assert.False(bench.Apic.TryWriteMsr(msr, value));
        bench.X2();
        Assert.Equal(readable, bench.Apic.TryReadMsr(msr, out _));
        Assert.Equal(writable, bench.Apic.TryWriteMsr(msr, value));
    }
}
