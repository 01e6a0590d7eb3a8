using Vmm.Hypervisor.Apic;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>Windows, the monitor trap flag, the preemption timer, INIT and start-up in L2, and the exits of EPT.</summary>
public sealed unsafe class NestedEventTests
{
    /// <summary>Section 26.2: the window opens behind the instruction that follows STI.</summary>
    [Theory]
    [Tiers]
    public void The_interrupt_window_opens_after_sti_and_one_instruction(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Proc |= ProcControls.InterruptWindowExiting;
        l1.ExpectExit(ExitReason.InterruptWindow, a =>
        {
            a.nop();
            a.sti();
            a.nop();
            a.hlt();
        });
        Assert.Equal(NestedMachine.L2Code + 3, l1[VmcsField.GuestRip]);
    }

    [Theory]
    [Tiers]
    public void The_monitor_trap_flag_exits_behind_each_instruction(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Proc |= ProcControls.MonitorTrapFlag;
        l1.ExpectExit(ExitReason.MonitorTrapFlag, a =>
        {
            a.nop();
            a.mov(ebx, 1);
        });
        Assert.Equal(NestedMachine.L2Code + 1, l1[VmcsField.GuestRip]);
        l1.ExpectExit(ExitReason.MonitorTrapFlag);
        Assert.Equal(NestedMachine.L2Code + 6, l1[VmcsField.GuestRip]);
    }

    /// <summary>Section 26.5.1: a timer of 0 runs down before the first instruction.</summary>
    [Theory]
    [Tiers]
    public void A_preemption_timer_of_zero_exits_at_once(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Pin |= PinControls.PreemptionTimer;
        l1[VmcsField.PreemptionTimerValue] = 0;
        l1.ExpectExit(ExitReason.PreemptionTimer, a => a.hlt());
        Assert.Equal(NestedMachine.L2Code, l1[VmcsField.GuestRip]);
    }

    /// <summary>Section 26.2: INIT exits; a start-up message does in the wait-for-SIPI state, with its vector as the qualification.</summary>
    [Theory]
    [Tiers]
    public void Init_and_start_up_exit(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.LoadL2(a => a.jmp(NestedMachine.L2Code));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.Init, 0, false)));
        Assert.Equal((L1Stop.Exit, ExitReason.Init), (l1.Continue(), l1.Reason));
        l1[VmcsField.GuestActivityState] = (ulong)ActivityState.WaitForSipi;
        Assert.Equal(L1Stop.Waiting, l1.Enter());
        Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.StartUp, 0x9A, false)));
        Assert.Equal((L1Stop.Exit, ExitReason.Sipi, 0x9Aul), (l1.Continue(), l1.Reason, l1.Qualification));
    }

    /// <summary>Section 24.8: INIT is blocked in root operation, and remembered: it exits as soon as L2 is entered, once.</summary>
    [Theory]
    [Tiers]
    public void An_init_that_came_in_root_operation_exits_from_l2(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.ExpectExit(ExitReason.Hlt, a => a.hlt());
        Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.Init, 0, false)));
        Assert.Equal((L1Stop.Exit, ExitReason.Init), (l1.Enter(), l1.Reason));
        Assert.Equal(NestedMachine.L2Code, l1[VmcsField.GuestRip]);
        l1.ExpectExit(ExitReason.Hlt);
    }

    /// <summary>Section 30.6: an interrupt with the notification vector is dismissed, and what the descriptor has becomes pending in L2's own APIC.</summary>
    [Theory]
    [Tiers]
    public void A_notification_of_posted_interrupts_is_no_exit(Tier tier)
    {
        const byte notification = 0xF2, posted = 0x71;
        const ulong descriptor = NestedMachine.Scratch + 0x400, outstanding = 1;
        using var l1 = new NestedMachine(tier: tier);
        l1.Pin |= PinControls.ExternalInterruptExiting | PinControls.PostedInterrupts;
        l1.Exit |= VmExitControls.AcknowledgeInterrupt;
        l1.Proc |= ProcControls.TprShadow | ProcControls.ActivateSecondary;
        l1.Secondary |= SecondaryControls.VirtualInterruptDelivery | SecondaryControls.ApicRegisterVirtualization;
        l1[VmcsField.VirtualApicAddress] = NestedMachine.VirtualApic;
        l1[VmcsField.PostedInterruptVector] = notification;
        l1[VmcsField.PostedInterruptDescriptorAddress] = descriptor;
        l1.LoadL2(a => a.jmp(NestedMachine.L2Code));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        l1.Write(descriptor, [0, 1ul << (posted - 64), 0, 0, outstanding]);
        l1.Send(notification);
        Assert.Equal(L1Stop.Running, l1.Continue(2_000));
        Assert.True(l1.Vcpu.IsGuestMode);
        Assert.Equal(posted, l1.Vcpu.Vmcs[VmcsField.GuestInterruptStatus] & 0xFF);
        Assert.False(l1.Apic.Page.Test(ApicRegister.Request, notification));
        Assert.False(l1.Apic.Page.Test(ApicRegister.InService, notification));
    }

    /// <summary>Table 28-7: a write (bit 1) to a page that may be read and executed (bits 3 and 5), at a linear address that is valid (7 and 8).</summary>
    [Theory]
    [Tiers]
    public void A_page_that_may_not_be_written_is_an_ept_violation(Tier tier)
    {
        using NestedMachine l1 = WithEpt(tier);
        l1.Write(NestedMachine.Ept + 0x3000 + 0x100 * 8, [0x10_0000 | 6 << 3 | 5]);
        l1.ExpectExit(ExitReason.EptViolation, a => a.mov(__dword_ptr[0x10_0018UL], 1));
        Assert.Equal(0x1AAul, l1.Qualification & 0x1BF);
        Assert.Equal((0x10_0018ul, 0x10_0018ul), (l1[VmcsField.GuestPhysicalAddress], l1[VmcsField.GuestLinearAddress]));
    }

    /// <summary>Section 29.3.3.1: write without read is misconfigured.</summary>
    [Theory]
    [Tiers]
    public void A_page_that_may_only_be_written_is_an_ept_misconfiguration(Tier tier)
    {
        using NestedMachine l1 = WithEpt(tier);
        l1.Write(NestedMachine.Ept + 0x3000 + 0x100 * 8, [0x10_0000 | 6 << 3 | 2]);
        l1.ExpectExit(ExitReason.EptMisconfiguration, a => a.mov(eax, __dword_ptr[0x10_0018UL]));
        Assert.Equal(0x10_0018ul, l1[VmcsField.GuestPhysicalAddress]);
    }

    /// <summary>Section 26.5.6.3: L2 changes its EPT pointer and the EPTP index, which L1 finds in its VMCS, and L2 when it is resumed.</summary>
    [Theory]
    [Tiers]
    public void Eptp_switching_changes_pointer_and_index_for_l1_too(Tier tier)
    {
        const ulong list = NestedMachine.MsrAreas, other = NestedMachine.OtherRegion;
        using NestedMachine l1 = WithEpt(tier);
        l1.Secondary |= SecondaryControls.EnableVmFunctions | SecondaryControls.EptViolationVe;
        l1[VmcsField.VmFunctionControls] = 1;
        l1[VmcsField.EptpListAddress] = list;
        l1[VmcsField.VirtualizationExceptionAddress] = NestedMachine.VirtualApic;
        l1[VmcsField.EptpIndex] = 9;
        // The other tables share everything but their root.
        l1.Write(other, [(NestedMachine.Ept + 0x1000) | 7]);
        l1.Write(list + 5 * 8, [other | 3 << 3 | 6]);
        l1.ExpectExit(ExitReason.Vmcall, a =>
        {
            a.vmcall();
            a.xor(eax, eax);
            a.mov(ecx, 5);
            a.vmfunc();
            a.vmcall();
            a.vmcall();
        });
        Assert.Equal((NestedMachine.Ept | 3 << 3 | 6, 9ul), (l1[VmcsField.EptPointer], l1[VmcsField.EptpIndex]));
        foreach (int _ in (int[])[0, 1])
        {
            l1.Skip();
            l1.ExpectExit(ExitReason.Vmcall);
            Assert.Equal((other | 3 << 3 | 6, 5ul), (l1[VmcsField.EptPointer], l1[VmcsField.EptpIndex]));
            Assert.Equal(5ul, l1.Vcpu.Nested.Vmcs02[VmcsField.EptpIndex]);
        }
    }

    /// <summary>Table 25-2 of volume 4: what WRMSR refuses, VM entry refuses too.</summary>
    [Theory]
    [Tiers]
    public void Debugctl_has_the_same_bits_at_vm_entry_as_for_wrmsr(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1[VmcsField.GuestDebugCtl] = 1 << 6;
        Assert.Equal(L1Stop.Exit, l1.Enter());
        Assert.Equal(0x8000_0021u, l1.FullReason);
        Assert.Equal(l1.Vcpu.Cpu.Environment.EntryLimits.DebugCtlAllowed, l1.Vcpu.Nested.Limits.DebugCtlAllowed);
        Assert.Equal(3ul, l1.Vcpu.Nested.Limits.DebugCtlAllowed);
    }

    /// <summary>The first 2 MiB in small pages, onto themselves.</summary>
    private static NestedMachine WithEpt(Tier tier)
    {
        var l1 = new NestedMachine(tier: tier);
        l1.Secondary = SecondaryControls.EnableEpt;
        l1[VmcsField.EptPointer] = NestedMachine.Ept | 3 << 3 | 6;
        for (ulong level = 0; level < 3; level++)
            l1.Write(NestedMachine.Ept + level * 0x1000, [(NestedMachine.Ept + (level + 1) * 0x1000) | 7]);
        l1.Write(NestedMachine.Ept + 0x3000, [.. Enumerable.Range(0, 512).Select(k => (ulong)k << 12 | 6 << 3 | 7)]);
        return l1;
    }
}
