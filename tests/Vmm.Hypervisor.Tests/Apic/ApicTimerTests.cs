using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Tests.Apic;

public sealed class ApicTimerTests
{
    private const uint Periodic = 1 << 17, TscDeadline = 2 << 17, Masked = 1 << 16;

    // SDM volume 3, figure 12-10: bits 0, 1 and 3 of the divide configuration.
    [Theory]
    [InlineData(0b0000, 2)]
    [InlineData(0b0001, 4)]
    [InlineData(0b0010, 8)]
    [InlineData(0b0011, 16)]
    [InlineData(0b1000, 32)]
    [InlineData(0b1001, 64)]
    [InlineData(0b1010, 128)]
    [InlineData(0b1011, 1)]
    public void One_shot_fires_once_at_the_divided_count(uint configuration, uint divisor)
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40);
        bench.Write(ApicRegister.DivideConfiguration, configuration);
        bench.Write(ApicRegister.InitialCount, 1000);
        bench.Clock.Advance(400 * divisor);
        Assert.Equal(600u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(600 * divisor - 1);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Clock.Advance(1);
        Assert.Equal(0x40, bench.Apic.AcknowledgeInterrupt());
        Assert.Equal(0u, bench.Read(ApicRegister.CurrentCount));
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        bench.Clock.Advance(100_000_000);
        Assert.False(bench.Apic.HasInterrupt);
        Assert.Equal(1000u, bench.Read(ApicRegister.InitialCount));
    }

    [Fact]
    public void Periodic_keeps_its_phase_and_coalesces_what_could_not_be_served()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40 | Periodic);
        bench.Write(ApicRegister.DivideConfiguration, 0b1011);
        bench.Write(ApicRegister.InitialCount, 10_000);
        for (int i = 0; i < 5; i++)
        {
            bench.Clock.Advance(9_999);
            Assert.False(bench.Apic.HasInterrupt);
            bench.Clock.Advance(1);
            Assert.Equal(0x40, bench.Apic.AcknowledgeInterrupt());
            bench.Write(ApicRegister.EndOfInterrupt, 0);
        }
        bench.Clock.AdvanceLate(35_000);
        Assert.Equal(0x40, bench.Apic.AcknowledgeInterrupt());
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.False(bench.Apic.HasInterrupt);
        Assert.Equal(5_000u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(5_000);
        Assert.True(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void A_period_of_nothing_does_not_hang_the_machine()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40 | Periodic);
        bench.Write(ApicRegister.DivideConfiguration, 0b1011);
        bench.Write(ApicRegister.InitialCount, 1);
        int before = bench.Owners[0].Interrupts;
        bench.Clock.Advance(1_000_000);
        Assert.InRange(bench.Owners[0].Interrupts - before, 1, 1_000);
    }

    [Fact]
    public void A_masked_timer_counts_without_interrupting_and_zero_stops_it()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40 | Masked);
        bench.Write(ApicRegister.InitialCount, 1000);
        bench.Clock.Advance(200);
        Assert.Equal(900u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(10_000);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Write(ApicRegister.LvtTimer, 0x40);
        bench.Write(ApicRegister.InitialCount, 1000);
        bench.Write(ApicRegister.InitialCount, 0);
        Assert.Equal(0u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(10_000);
        Assert.False(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void Tsc_deadline_fires_when_the_counter_gets_there_and_reads_zero_then()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Owners[0].TscOffset = 5_000;
        // Outside its mode a write is ignored.
        bench.Apic.TscDeadline = 7_000;
        Assert.Equal(0UL, bench.Apic.TscDeadline);
        bench.Write(ApicRegister.LvtTimer, 0x40 | TscDeadline);
        bench.Apic.TscDeadline = 7_000;
        Assert.Equal(7_000UL, bench.Apic.TscDeadline);
        Assert.Equal(0u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(1_999);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Clock.Advance(1);
        Assert.Equal(0x40, bench.Apic.AcknowledgeInterrupt());
        Assert.Equal(0UL, bench.Apic.TscDeadline);
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        // One in the past fires at once.
        bench.Apic.TscDeadline = 1;
        bench.Clock.Advance(0);
        Assert.True(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void Tsc_deadline_moves_with_the_counter_and_goes_with_its_mode()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40 | TscDeadline);
        bench.Apic.TscDeadline = 10_000;
        bench.Owners[0].TscOffset = 9_000;
        bench.Apic.TscOffsetChanged();
        bench.Clock.Advance(1_000);
        Assert.True(bench.Apic.HasInterrupt);
        bench.Apic.AcknowledgeInterrupt();
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        bench.Apic.TscDeadline = 100_000;
        bench.Write(ApicRegister.LvtTimer, 0x40);
        Assert.Equal(0UL, bench.Apic.TscDeadline);
        bench.Clock.Advance(1_000_000);
        Assert.False(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void A_change_of_the_divisor_keeps_the_count()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40);
        bench.Write(ApicRegister.DivideConfiguration, 0b1011);
        bench.Write(ApicRegister.InitialCount, 1000);
        bench.Clock.Advance(500);
        bench.Write(ApicRegister.DivideConfiguration, 0b0011);
        Assert.Equal(500u, bench.Read(ApicRegister.CurrentCount));
        bench.Clock.Advance(500 * 16 - 1);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Clock.Advance(1);
        Assert.True(bench.Apic.HasInterrupt);
    }
}
