using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Tests.Apic;

public sealed class LocalApicTests
{
    [Fact]
    public void Registers_after_power_up_are_those_of_the_manual()
    {
        using ApicBench bench = new(2);
        Assert.Equal(0xFEE0_0900UL, bench.Apic.BaseMsr);
        Assert.Equal(0xFEE0_0800UL, bench.Apics[1].BaseMsr);
        Assert.Equal(0x0100_0000u, (uint)bench.Apics[1].ReadMemory(ApicRegister.Id, 4));
        Assert.Equal(0x14u, bench.Read(ApicRegister.Version) & 0xFF);
        Assert.Equal(5u, bench.Read(ApicRegister.Version) >> 16 & 0xFF);
        Assert.Equal(0xFFu, bench.Read(ApicRegister.SpuriousVector));
        Assert.Equal(uint.MaxValue, bench.Read(ApicRegister.DestinationFormat));
        for (uint lvt = ApicRegister.LvtTimer; lvt <= ApicRegister.LvtError; lvt += 16)
            Assert.Equal(0x1_0000u, bench.Read(lvt));
        foreach (uint register in (uint[])[ApicRegister.TaskPriority, ApicRegister.LogicalDestination, ApicRegister.InService,
            ApicRegister.Request, ApicRegister.TriggerMode, ApicRegister.ErrorStatus, ApicRegister.CommandLow, ApicRegister.CommandHigh,
            ApicRegister.InitialCount, ApicRegister.CurrentCount, ApicRegister.DivideConfiguration])
            Assert.Equal(0u, bench.Read(register));
    }

    [Fact]
    public void A_software_disabled_apic_takes_no_interrupt_and_keeps_its_entries_masked()
    {
        using ApicBench bench = new();
        Assert.False(bench.Apic.Accept(DeliveryMode.Fixed, 0x40, false));
        bench.Write(ApicRegister.LvtTimer, 0x40);
        Assert.Equal(0x1_0040u, bench.Read(ApicRegister.LvtTimer));
        Assert.True(bench.Apic.Accept(DeliveryMode.Nmi, 0, false));
        Assert.Equal(1, bench.Owners[0].Nmis);
        bench.Enabled();
        bench.Write(ApicRegister.LvtTimer, 0x40);
        Assert.Equal(0x40u, bench.Read(ApicRegister.LvtTimer));
        bench.Write(ApicRegister.SpuriousVector, 0xFF);
        Assert.Equal(0x1_0040u, bench.Read(ApicRegister.LvtTimer));
    }

    [Fact]
    public void The_highest_vector_is_taken_first_and_nests_by_priority_class()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Apic.Accept(DeliveryMode.Fixed, 0x41, false);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x52, false);
        Assert.Equal(0x52, bench.Apic.AcknowledgeInterrupt());
        Assert.Equal(0x50u, bench.Read(ApicRegister.ProcessorPriority));
        // The same class does not interrupt itself, whatever the sub-class.
        bench.Apic.Accept(DeliveryMode.Fixed, 0x5F, false);
        Assert.Equal(-1, bench.Apic.DeliverableVector);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x60, false);
        Assert.Equal(0x60, bench.Apic.AcknowledgeInterrupt());
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Equal(0x50u, bench.Read(ApicRegister.ProcessorPriority));
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Equal(0x5F, bench.Apic.AcknowledgeInterrupt());
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Equal(0x41, bench.Apic.AcknowledgeInterrupt());
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Equal(0u, bench.Read(ApicRegister.ProcessorPriority));
        Assert.Equal(-1, bench.Apic.AcknowledgeInterrupt());
    }

    [Fact]
    public void The_task_priority_holds_interrupts_back_and_shows_in_cr8()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.TaskPriority, 0x45);
        Assert.Equal(0x45u, bench.Owners[0].Priority);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x4F, false);
        Assert.Equal(-1, bench.Apic.DeliverableVector);
        Assert.True(bench.Apic.IsHeldByTaskPriority);
        int notified = bench.Owners[0].Interrupts;
        bench.Apic.SetTaskPriority(0x30);
        Assert.Equal(notified + 1, bench.Owners[0].Interrupts);
        Assert.Equal(0x4F, bench.Apic.DeliverableVector);
        Assert.Equal(0x30u, bench.Read(ApicRegister.TaskPriority));
    }

    [Fact]
    public void End_of_interrupt_is_broadcast_for_level_triggered_vectors_only()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Apic.Accept(DeliveryMode.Fixed, 0x40, levelTriggered: true);
        Assert.Equal(1u, bench.Read(ApicRegister.TriggerMode + 0x20));
        bench.Apic.AcknowledgeInterrupt();
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Equal([0x40], bench.EndsOfInterrupt);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x40, levelTriggered: false);
        Assert.Equal(0u, bench.Read(ApicRegister.TriggerMode + 0x20));
        bench.Apic.AcknowledgeInterrupt();
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Single(bench.EndsOfInterrupt);
        // Suppressed by the spurious-vector register's bit 12.
        bench.Write(ApicRegister.SpuriousVector, 0x11FF);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x40, levelTriggered: true);
        bench.Apic.AcknowledgeInterrupt();
        bench.Write(ApicRegister.EndOfInterrupt, 0);
        Assert.Single(bench.EndsOfInterrupt);
    }

    [Fact]
    public void Illegal_vectors_are_errors_and_the_status_register_latches_on_write()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtError, 0xFE);
        bench.Command(0, 0x05);
        Assert.Equal(0u, bench.Read(ApicRegister.ErrorStatus));
        bench.Write(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0x20u, bench.Read(ApicRegister.ErrorStatus));
        Assert.Equal(0xFE, bench.Apic.DeliverableVector);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x0F, false);
        bench.Write(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0x40u, bench.Read(ApicRegister.ErrorStatus));
        bench.Read(0x40);
        bench.Write(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0x80u, bench.Read(ApicRegister.ErrorStatus));
        bench.Write(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0u, bench.Read(ApicRegister.ErrorStatus));
    }

    [Fact]
    public void An_illegal_error_vector_does_not_recur()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtError, 0x05);
        bench.Command(0, 0x05);
        bench.Write(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0x20u, bench.Read(ApicRegister.ErrorStatus));
    }

    [Fact]
    public void Init_keeps_the_id_and_the_base()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.Id, 0x0700_0000);
        bench.Apic.TrySetBase(0xFED0_0900);
        bench.Apic.Accept(DeliveryMode.Fixed, 0x40, false);
        bench.Apic.Init();
        Assert.Equal(0x0700_0000u, bench.Read(ApicRegister.Id));
        Assert.Equal(0xFED0_0000UL, bench.Apic.BaseAddress);
        Assert.Equal(0xFFu, bench.Read(ApicRegister.SpuriousVector));
        Assert.Equal(-1, bench.Apic.DeliverableVector);
    }

    // SDM volume 3, figure 12-27: the states of IA32_APIC_BASE, and the changes between them that are #GP.
    [Theory]
    [InlineData(0x800, 0x000, true)]
    [InlineData(0x800, 0xC00, true)]
    [InlineData(0x800, 0x400, false)]
    [InlineData(0xC00, 0x000, true)]
    [InlineData(0xC00, 0x800, false)]
    [InlineData(0xC00, 0x400, false)]
    [InlineData(0x000, 0x800, true)]
    [InlineData(0x000, 0xC00, false)]
    [InlineData(0x000, 0x400, false)]
    public void Mode_changes_follow_the_manual(uint from, uint to, bool allowed)
    {
        using ApicBench bench = new();
        if (from != 0x800)
            Assert.True(bench.Apic.TrySetBase(LocalApic.DefaultBase | from));
        ulong before = bench.Apic.BaseMsr;
        Assert.Equal(allowed, bench.Apic.TrySetBase(LocalApic.DefaultBase | to));
        Assert.Equal(allowed ? LocalApic.DefaultBase | to : before, bench.Apic.BaseMsr);
    }

    [Theory]
    [InlineData(1UL << 0)]
    [InlineData(1UL << 7)]
    [InlineData(1UL << 9)]
    [InlineData(1UL << 46)]
    [InlineData(1UL << 63)]
    public void Reserved_bits_of_the_base_are_refused(ulong bit)
    {
        using ApicBench bench = new();
        Assert.False(bench.Apic.TrySetBase(LocalApic.DefaultBase | 0x800 | bit));
    }

    [Fact]
    public void Only_whole_aligned_registers_can_be_written()
    {
        using ApicBench bench = new();
        bench.Apic.WriteMemory(ApicRegister.TaskPriority, 1, 0x55);
        bench.Apic.WriteMemory(ApicRegister.TaskPriority + 4, 4, 0x55);
        Assert.Equal(0u, bench.Read(ApicRegister.TaskPriority));
        bench.Write(ApicRegister.TaskPriority, 0x1234_5655);
        Assert.Equal(0x55u, bench.Read(ApicRegister.TaskPriority));
        Assert.Equal(0x14UL, bench.Apic.ReadMemory(ApicRegister.Version, 1));
        Assert.Equal(5UL, bench.Apic.ReadMemory(ApicRegister.Version + 2, 1));
        Assert.Equal(0UL, bench.Apic.ReadMemory(ApicRegister.Version + 4, 4));
    }

    [Fact]
    public void The_8259s_come_through_lint0_in_virtual_wire_mode()
    {
        using ApicBench bench = new();
        bench.Bus.SetExternalInterrupt(true);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Apic.EnterVirtualWireMode();
        Assert.True(bench.Apic.HasExternalInterrupt);
        Assert.Equal(0x30, bench.Apic.AcknowledgeInterrupt());
        Assert.Equal(1, bench.Acknowledged);
        // The pin is a level: it asks until the 8259 lowers it, and none of it goes through the APIC's own registers.
        Assert.True(bench.Apic.HasInterrupt);
        Assert.Equal(0u, bench.Read(ApicRegister.ProcessorPriority));
        bench.Bus.SetExternalInterrupt(false);
        Assert.False(bench.Apic.HasInterrupt);
        bench.Write(ApicRegister.LvtLint0, 0x1_0700);
        bench.Bus.SetExternalInterrupt(true);
        Assert.False(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void A_hardware_disabled_apic_lets_the_8259s_through()
    {
        using ApicBench bench = new();
        bench.Apic.TrySetBase(LocalApic.DefaultBase);
        bench.Bus.SetExternalInterrupt(true);
        Assert.True(bench.Apic.HasExternalInterrupt);
        Assert.False(bench.Apic.Accept(DeliveryMode.Fixed, 0x40, false));
    }

    [Fact]
    public void An_external_interrupt_message_is_acknowledged_once()
    {
        using ApicBench bench = new ApicBench().Enabled();
        Assert.True(bench.Bus.Deliver(new(0, false, DeliveryMode.ExtInt, 0, false)));
        Assert.Equal(0x30, bench.Apic.AcknowledgeInterrupt());
        Assert.False(bench.Apic.HasInterrupt);
    }

    [Fact]
    public void Lint_pins_deliver_by_their_entries()
    {
        using ApicBench bench = new ApicBench().Enabled();
        bench.Write(ApicRegister.LvtLint1, 0x400);
        bench.Apic.SetLint1(true);
        bench.Apic.SetLint1(true);
        Assert.Equal(1, bench.Owners[0].Nmis);
        bench.Write(ApicRegister.LvtLint0, 0x47);
        bench.Apic.SetLint0(true);
        Assert.Equal(0x47, bench.Apic.DeliverableVector);
        Assert.False(bench.Apic.HasExternalInterrupt);
    }
}
