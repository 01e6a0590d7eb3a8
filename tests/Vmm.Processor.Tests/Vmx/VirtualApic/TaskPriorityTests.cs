using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VirtualApic;

/// <summary>The TPR shadow and its threshold (SDM volume 3, sections 30.1.2, 30.3 and 27.7.7).</summary>
public sealed unsafe class TaskPriorityTests
{
    [Fact]
    public void Cr8_is_bits_7_to_4_of_the_virtual_task_priority()
    {
        using var guest = new ApicGuest();
        guest[0x80] = 0x5A;
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(rbx, cr8);
            a.mov(ecx, 9);
            a.mov(cr8, rcx);
            a.hlt();
        }));
        Assert.Equal(5ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(0x90u, guest[0x80]);
        Assert.Equal(0ul, guest.Guest.State->Cr8);
    }

    [Fact]
    public void A_priority_below_the_threshold_exits_after_the_write()
    {
        using var guest = new ApicGuest();
        guest[0x80] = 0x80;
        guest.Vmcs[VmcsField.TprThreshold] = 5;
        void Program(Assembler a)
        {
            a.mov(ecx, 5);
            a.mov(cr8, rcx);
            a.mov(ecx, 4);
            a.mov(cr8, rcx);
            a.mov(ebx, 1);
            a.hlt();
        }
        Assert.Equal(ExitReason.TprBelowThreshold, guest.Run(Program));
        Assert.Equal(0x40u, guest[0x80]);
        Assert.Equal(0ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(0u, guest.Vmcs.Read32(VmcsField.VmExitInstructionLength));
        guest.Vmcs[VmcsField.TprThreshold] = 0;
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal(1ul, guest.Guest.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void A_single_step_after_such_a_write_stays_pending()
    {
        using var guest = new ApicGuest();
        guest.Vmcs[VmcsField.TprThreshold] = 1;
        guest.Vmcs[VmcsField.GuestRflags] = 0x102;
        Assert.Equal(ExitReason.TprBelowThreshold, guest.Run(a =>
        {
            a.mov(cr8, rcx);
            a.hlt();
        }));
        Assert.Equal(1ul << 14, guest.Vmcs[VmcsField.GuestPendingDebugExceptions]);
    }

    [Theory]
    [InlineData(3, 0x20, true)]
    [InlineData(2, 0x20, false)]
    public void The_threshold_is_looked_at_right_after_entry_too(uint threshold, uint priority, bool exits)
    {
        using var guest = new ApicGuest(secondary: SecondaryControls.VirtualizeApicAccesses);
        guest[0x80] = priority;
        guest.Vmcs[VmcsField.TprThreshold] = threshold;
        Assert.Equal(exits ? ExitReason.TprBelowThreshold : ExitReason.Hlt, guest.Run(a => a.hlt()));
        Assert.Equal(TestGuest.CodeBase, guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void The_exit_after_entry_follows_the_injection_of_an_event()
    {
        using var guest = new ApicGuest(secondary: SecondaryControls.VirtualizeApicAccesses) { InterruptsEnabled = true };
        guest.Vmcs[VmcsField.TprThreshold] = 3;
        guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | 0x40;
        Assert.Equal(ExitReason.TprBelowThreshold, guest.Run(a => a.hlt()));
        Assert.Equal(ApicGuest.Handlers + (0x40 * 32), guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void Without_memory_behind_it_the_page_reads_as_ones()
    {
        using var guest = new ApicGuest();
        guest.Vmcs[VmcsField.VirtualApicAddress] = 0xFEC0_0000;
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.mov(rbx, cr8);
            a.mov(cr8, rcx);
            a.hlt();
        }));
        Assert.Equal(15ul, guest.Guest.State->Gpr[Gpr.Rbx]);
    }
}
