using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VirtualApic;

/// <summary>Virtual-interrupt delivery, EOI and self-IPI virtualization, x2APIC mode (SDM volume 3, sections 30.1, 30.2 and 30.5).</summary>
public sealed unsafe class VirtualInterruptTests
{
    private const SecondaryControls Memory = SecondaryControls.VirtualizeApicAccesses | SecondaryControls.ApicRegisterVirtualization
        | SecondaryControls.VirtualInterruptDelivery;
    private const SecondaryControls X2Apic = SecondaryControls.VirtualizeX2Apic | SecondaryControls.ApicRegisterVirtualization
        | SecondaryControls.VirtualInterruptDelivery;
    private const int Base = (int)ApicGuest.AccessPage;

    [Fact]
    public void An_entry_delivers_the_highest_request()
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest.Request(0x31);
        guest.Request(0x45);
        Assert.Equal(ExitReason.Hlt, guest.Run(a => a.hlt()));
        Assert.Equal([0x45], guest.Taken);
        Assert.Equal(0x45u, guest.Servicing);
        Assert.Equal(0x31u, guest.Requesting);
        Assert.True(guest.Test(0x100, 0x45));
        Assert.False(guest.Test(0x200, 0x45));
        Assert.Equal(0x40u, guest[0xA0]);
    }

    [Fact]
    public void An_end_of_interrupt_lets_the_next_one_in()
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest.Request(0x31);
        guest.Request(0x45);
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.nop();
            a.mov(__dword_ptr[Base + 0xB0], 7);
            a.nop();
            a.mov(__dword_ptr[Base + 0xB0], 7);
            a.hlt();
        }));
        Assert.Equal([0x45, 0x31], guest.Taken);
        Assert.Equal(0ul, guest.Vmcs[VmcsField.GuestInterruptStatus]);
        Assert.Equal(0u, guest[0xB0]);
        Assert.Equal(0u, guest[0xA0]);
        Assert.False(guest.Test(0x100, 0x31));
    }

    [Theory]
    [InlineData(0x45u, 0x40u, false)]
    [InlineData(0x45u, 0x3Fu, true)]
    public void The_task_priority_holds_back_its_class_and_below(uint vector, uint priority, bool taken)
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest[0x80] = priority;
        guest.Request(vector);
        Assert.Equal(ExitReason.Hlt, guest.Run(a => a.hlt()));
        Assert.Equal(taken ? [0x45] : [], guest.Taken);
        Assert.Equal(taken ? 0x40u : priority, guest[0xA0]);
    }

    [Fact]
    public void Lowering_the_task_priority_delivers_before_the_next_instruction()
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest[0x80] = 0xF0;
        guest.Request(0x45);
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(rbx, r15);
            a.mov(cr8, rcx);
            a.mov(rdx, r15);
            a.hlt();
        }));
        Assert.Equal(0ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(1ul, guest.Guest.State->Gpr[Gpr.Rdx]);
    }

    [Fact]
    public void Interrupts_wait_for_the_flag_and_for_the_shadow_of_sti()
    {
        using var guest = new ApicGuest(secondary: Memory);
        guest.Request(0x45);
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.nop();
            a.sti();
            a.mov(rbx, r15);
            a.mov(rdx, r15);
            a.hlt();
        }));
        Assert.Equal(0ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(1ul, guest.Guest.State->Gpr[Gpr.Rdx]);
        Assert.Equal([0x45], guest.Taken);
    }

    [Fact]
    public void Interrupt_window_exiting_keeps_it_from_being_recognized()
    {
        using var guest = new ApicGuest(ProcControls.TprShadow | ProcControls.InterruptWindowExiting, Memory) { InterruptsEnabled = true };
        guest.Request(0x45);
        Assert.Equal(ExitReason.InterruptWindow, guest.Run(a => a.hlt()));
        Assert.Equal(0x45u, guest.Requesting);
        guest.Vmcs[VmcsField.ProcessorBasedControls] &= ~(ulong)ProcControls.InterruptWindowExiting;
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal([0x45], guest.Taken);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void It_wakes_a_halted_processor(bool enabled)
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = enabled };
        guest.Vmcs[VmcsField.GuestActivityState] = (uint)ActivityState.Hlt;
        guest.Request(0x45);
        Assert.Equal(enabled ? ExitReason.Hlt : ExitReason.BudgetExhausted, guest.Run(a => a.hlt()));
        Assert.Equal(enabled ? [0x45] : [], guest.Taken);
        Assert.Equal(enabled ? ActivityState.Active : ActivityState.Hlt, (ActivityState)guest.Vmcs.Read32(VmcsField.GuestActivityState));
    }

    [Fact]
    public void A_failing_delivery_is_reported_as_that_of_an_external_interrupt()
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest.Vmcs[VmcsField.GuestRsp] = ApicGuest.AccessPage + 0x40;
        guest.Request(0x45);
        Assert.Equal(ExitReason.ApicAccess, guest.Run(a => a.hlt()));
        Assert.Equal(1u << 31 | 0x45, guest.Vmcs.Read32(VmcsField.IdtVectoringInformation));
        Assert.Equal(0x45u, guest.Servicing);
        Assert.Equal(0u, guest.Requesting);
    }

    [Fact]
    public void An_end_of_interrupt_in_the_exit_bitmap_exits_after_it()
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        guest.Vmcs[VmcsField.EoiExitBitmap1] = 1UL << (0x45 - 0x40);
        guest.Request(0x31);
        guest.Request(0x45);
        Assert.Equal(ExitReason.VirtualizedEoi, guest.Run(a =>
        {
            a.nop();
            a.mov(__dword_ptr[Base + 0xB0], 0);
            a.hlt();
        }));
        Assert.Equal(0x45ul, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(0u, guest.Servicing);
        Assert.Equal([0x45], guest.Taken);
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal([0x45, 0x31], guest.Taken);
    }

    [Theory]
    [InlineData(0x0004_0045u, true)]
    [InlineData(0x0004_4045u, true)]
    [InlineData(0x0004_0845u, true)]
    [InlineData(0x0004_8045u, false)]
    [InlineData(0x0000_0045u, false)]
    [InlineData(0x0008_0045u, false)]
    [InlineData(0x0004_0145u, false)]
    [InlineData(0x0004_0005u, false)]
    [InlineData(0x0104_0045u, false)]
    public void A_fixed_edge_triggered_message_to_oneself_is_virtualized(uint command, bool virtualized)
    {
        using var guest = new ApicGuest(secondary: Memory) { InterruptsEnabled = true };
        ExitReason reason = guest.Run(a =>
        {
            a.mov(__dword_ptr[Base + 0x300], command);
            a.mov(rbx, r15);
            a.hlt();
        });
        Assert.Equal(virtualized ? ExitReason.Hlt : ExitReason.ApicWrite, reason);
        Assert.Equal(virtualized ? [0x45] : [], guest.Taken);
        Assert.Equal(virtualized ? 1ul : 0, guest.Guest.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void X2apic_registers_are_read_from_the_page()
    {
        using var guest = X2Guest(X2Apic);
        guest[0x300] = 0x1111_2222;
        guest[0x304] = 0x3333_4444;
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(ecx, 0x830);
            a.rdmsr();
            a.hlt();
        }));
        Assert.Equal(0x1111_2222ul, guest.Guest.State->Gpr[Gpr.Rax]);
        Assert.Equal(0x3333_4444ul, guest.Guest.State->Gpr[Gpr.Rdx]);
    }

    [Fact]
    public void X2apic_end_of_interrupt_and_self_ipi_are_virtualized()
    {
        using var guest = X2Guest(X2Apic);
        guest.InterruptsEnabled = true;
        guest.Request(0x45);
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(ecx, 0x83F);
            a.mov(eax, 0x52);
            a.xor(edx, edx);
            a.wrmsr();
            a.mov(ecx, 0x80B);
            a.xor(eax, eax);
            a.wrmsr();
            a.wrmsr();
            a.hlt();
        }));
        Assert.Equal([0x45, 0x52], guest.Taken);
        Assert.Equal(0ul, guest.Vmcs[VmcsField.GuestInterruptStatus]);
    }

    [Theory]
    [InlineData(0x808u, 0x100u, 0u)]
    [InlineData(0x808u, 0u, 1u)]
    [InlineData(0x80Bu, 1u, 0u)]
    [InlineData(0x83Fu, 0x145u, 0u)]
    [InlineData(0x830u, 0x45u, 0u)]
    public void X2apic_writes_of_reserved_bits_and_to_other_registers_fault(uint msr, uint low, uint high)
    {
        using var guest = X2Guest(X2Apic);
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run(a =>
        {
            a.mov(ecx, msr);
            a.mov(eax, low);
            a.mov(edx, high);
            a.wrmsr();
        }));
        Assert.Equal(0u, guest[0x80]);
    }

    [Fact]
    public void A_self_ipi_of_an_illegal_vector_is_left_to_the_hypervisor()
    {
        using var guest = X2Guest(X2Apic);
        Assert.Equal(ExitReason.ApicWrite, guest.Run(a =>
        {
            a.mov(ecx, 0x83F);
            a.mov(eax, 5);
            a.xor(edx, edx);
            a.wrmsr();
        }));
        Assert.Equal(0x3F0ul, guest.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void Without_register_virtualization_only_the_task_priority_is_read()
    {
        using var guest = X2Guest(SecondaryControls.VirtualizeX2Apic);
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        guest[0x80] = 0x30;
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run(a =>
        {
            a.mov(ecx, 0x808);
            a.rdmsr();
            a.mov(ebx, eax);
            a.mov(ecx, 0x802);
            a.rdmsr();
        }));
        Assert.Equal(0x30ul, guest.Guest.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void Msr_bitmaps_come_first()
    {
        using var guest = X2Guest(X2Apic);
        guest.Guest.Write(guest.Vmcs[VmcsField.MsrBitmaps] + (0x800 >> 3) + 1, [1]);
        Assert.Equal(ExitReason.Rdmsr, guest.Run(a =>
        {
            a.mov(ecx, 0x808);
            a.rdmsr();
        }));
    }

    [Fact]
    public void Posted_interrupts_are_taken_over_with_the_notification()
    {
        using var guest = PostingGuest();
        Assert.Equal(ExitReason.Hlt, guest.Run(a => a.hlt()));
        Assert.Empty(guest.Taken);
        guest.Guest.Cpu.ProcessPostedInterrupts(guest.Vmcs);
        Assert.Equal(0x91u, guest.Requesting);
        Assert.True(guest.Test(0x200, 0x45));
        Assert.Equal([0UL, 0, 0, 0, 0xAB_0000_0000_FE], Enumerable.Range(0, 5).Select(k => guest.Guest.Read<ulong>(Descriptor + (ulong)k * 8)));
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal([0x91], guest.Taken);
        guest.Vmcs[VmcsField.PinBasedControls] = 0;
        guest.Guest.Write(Descriptor, [1UL << 0x30]);
        guest.Guest.Cpu.ProcessPostedInterrupts(guest.Vmcs);
        Assert.Equal(0x45u, guest.Requesting);
    }

    [Fact]
    public void A_notification_from_a_device_delivers_before_the_next_instruction()
    {
        using var guest = PostingGuest();
        guest.Guest.Bus.OnWriteMemory = () => guest.Guest.Cpu.ProcessPostedInterrupts(guest.Vmcs);
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(__dword_ptr[0x0080_0000], 1);
            a.mov(rbx, r15);
            a.hlt();
        }));
        Assert.Equal(1ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal([0x91], guest.Taken);
    }

    private const ulong Descriptor = 0x30_0040;

    private static ApicGuest PostingGuest()
    {
        var guest = new ApicGuest(secondary: X2Apic) { InterruptsEnabled = true };
        guest.Vmcs[VmcsField.PinBasedControls] |= (ulong)PinControls.PostedInterrupts;
        guest.Vmcs[VmcsField.PostedInterruptDescriptorAddress] = Descriptor;
        guest.Guest.Write(Descriptor, [0, 1UL << 0x05, 1UL << 0x11, 0, 0xAB_0000_0000_FF]);
        return guest;
    }

    private static ApicGuest X2Guest(SecondaryControls secondary)
    {
        var guest = new ApicGuest(ProcControls.TprShadow | ProcControls.UseMsrBitmaps, secondary);
        guest.Vmcs[VmcsField.MsrBitmaps] = 0x30_0000;
        return guest;
    }
}
