using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>VM exits from L2 as L1 sees them: reason, qualification, length and what else the manual records (SDM volume 3, chapter 28).</summary>
public sealed unsafe class NestedExitTests
{
    private const uint Valid = 1u << 31, HasError = 1 << 11;

    [Theory]
    [Tiers]
    public void Instructions_that_exit_have_their_length_and_l2_goes_on_behind_them(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.ExpectExit(ExitReason.Cpuid, a =>
        {
            a.mov(ebx, 5);
            a.cpuid();
            a.mov(ebx, 6);
            a.hlt();
            a.vmcall();
        });
        Assert.Equal((5ul, 2ul, NestedMachine.L2Code + 5), (l1.Register(Gpr.Rbx), l1[VmcsField.VmExitInstructionLength], l1[VmcsField.GuestRip]));
        l1.Skip();
        l1.ExpectExit(ExitReason.Hlt);
        Assert.Equal((6ul, 1ul), (l1.Register(Gpr.Rbx), l1[VmcsField.VmExitInstructionLength]));
        l1.Skip();
        l1.ExpectExit(ExitReason.Vmcall);
        Assert.Equal(3ul, l1[VmcsField.VmExitInstructionLength]);
    }

    /// <summary>Table 28-5: size in bits 2:0, IN in bit 3, immediate in bit 6, port in 31:16.</summary>
    [Theory]
    [Tiers]
    public void Ports_exit_by_the_bitmaps(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Proc |= ProcControls.UseIoBitmaps;
        l1[VmcsField.IoBitmapA] = NestedMachine.IoBitmapA;
        l1[VmcsField.IoBitmapB] = NestedMachine.IoBitmapB;
        l1.WriteBytes(NestedMachine.IoBitmapA + (0x61 >> 3), [1 << (0x61 & 7)]);
        l1.WriteBytes(NestedMachine.IoBitmapB + (0x1234 >> 3), [1 << (0x1234 & 7)]);
        l1.ExpectExit(ExitReason.IoInstruction, a =>
        {
            a.@out(0x60, al);
            a.@in(al, 0x61);
            a.mov(edx, 0x9234);
            a.@out(dx, eax);
            a.cpuid();
        });
        Assert.Equal(((ushort)0x60, 1), (Assert.Single(l1.PortWrites).Port, l1.PortWrites.Count));
        Assert.Equal((0x61_0048ul, 2ul), (l1.Qualification, l1[VmcsField.VmExitInstructionLength]));
        l1.Skip();
        l1.WriteBytes(NestedMachine.IoBitmapB + (0x1234 >> 3), [1 << (0x1234 & 7)]);
        l1.ExpectExit(ExitReason.IoInstruction);
        Assert.Equal((0x9234_0003ul, 1ul), (l1.Qualification, l1[VmcsField.VmExitInstructionLength]));
    }

    /// <summary>Table 28-3, and the guest/host masks of section 26.6.6.</summary>
    [Theory]
    [Tiers]
    public void Control_registers_exit_by_masks_and_targets(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Proc |= ProcControls.Cr3LoadExiting;
        l1[VmcsField.Cr4Mask] = Cr4.Osfxsr;
        l1[VmcsField.Cr4Shadow] = 0;
        l1.ExpectExit(ExitReason.ControlRegister, a =>
        {
            a.mov(rbx, cr4);
            a.mov(rcx, rbx);
            a.or(rcx, (int)Cr4.Osfxsr);
            a.mov(cr4, rcx);
            a.mov(cr3, rdx);
        });
        Assert.Equal(NestedMachine.DefaultCr4 & ~Cr4.Osfxsr, l1.Register(Gpr.Rbx));
        Assert.Equal((0x104ul, 3ul), (l1.Qualification, l1[VmcsField.VmExitInstructionLength]));
        l1.Skip();
        l1.ExpectExit(ExitReason.ControlRegister);
        Assert.Equal(0x203ul, l1.Qualification);
    }

    [Theory]
    [Tiers]
    public void Msrs_exit_by_the_bitmaps(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Proc |= ProcControls.UseMsrBitmaps;
        l1[VmcsField.MsrBitmaps] = NestedMachine.MsrBitmap;
        // SYSENTER_ESP (175H), for writing only.
        l1.WriteBytes(NestedMachine.MsrBitmap + 2048 + (0x175 >> 3), [1 << (0x175 & 7)]);
        l1[VmcsField.GuestSysenterEsp] = 0x1234;
        l1.ExpectExit(ExitReason.Wrmsr, a =>
        {
            a.mov(ecx, 0x175);
            a.rdmsr();
            a.wrmsr();
        });
        Assert.Equal((0x1234ul, 2ul), (l1.Register(Gpr.Rax), l1[VmcsField.VmExitInstructionLength]));
    }

    /// <summary>Sections 26.2 and 28.2.2: the exception bitmap, and for page faults error-code mask and match; the address is the qualification.</summary>
    [Theory]
    [Tiers]
    public void Exceptions_exit_by_the_bitmap(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Ud | 1 << (int)Vector.Pf;
        l1.ExpectExit(ExitReason.ExceptionOrNmi, a => a.ud2());
        Assert.Equal(Valid | 3u << 8 | Vector.Ud, l1[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal(0ul, l1[VmcsField.IdtVectoringInformation] & Valid);
        l1.ExpectExit(ExitReason.ExceptionOrNmi, a =>
        {
            a.mov(rcx, 0x80_0000_1000);
            a.mov(__dword_ptr[rcx], 1);
        });
        Assert.Equal(Valid | HasError | 3u << 8 | Vector.Pf, l1[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal((2ul, 0x80_0000_1000ul), (l1[VmcsField.VmExitInterruptionErrorCode], l1.Qualification));
    }

    /// <summary>Section 28.2.4: what was being delivered through the IDT when the exit came.</summary>
    [Theory]
    [Tiers]
    public void An_injected_event_that_meets_an_exit_is_in_the_idt_vectoring_information(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Pf;
        l1[VmcsField.GuestIdtrBase] = 0x80_0000_0000;
        l1[VmcsField.VmEntryInterruptionInformation] = Valid | 0x45;
        l1[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.If;
        l1.ExpectExit(ExitReason.ExceptionOrNmi, a => a.hlt());
        Assert.Equal(Valid | 0x45, l1[VmcsField.IdtVectoringInformation]);
        Assert.Equal(0x80_0000_0450ul, l1.Qualification);
        // The valid bit of the field for injection is cleared with each exit.
        Assert.Equal(0x45ul, l1[VmcsField.VmEntryInterruptionInformation]);
    }

    [Theory]
    [Tiers]
    public void An_injected_interrupt_goes_through_the_idt_of_l2(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Assemble(a =>
        {
            a.mov(ebx, 7);
            a.vmcall();
        }, NestedMachine.Scratch + 0x800);
        l1.SetGate(NestedMachine.L2Idt, 0x45, NestedMachine.Scratch + 0x800);
        l1[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.If;
        l1[VmcsField.VmEntryInterruptionInformation] = Valid | 0x45;
        l1.ExpectExit(ExitReason.Vmcall, a => a.hlt());
        Assert.Equal((7ul, NestedMachine.L2Code), (l1.Register(Gpr.Rbx), l1.Read(l1[VmcsField.GuestRsp])));
    }

    [Theory]
    [Tiers(false, true)]
    public void An_interrupt_exits_with_its_vector_if_it_is_acknowledged(bool acknowledge, Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Pin |= PinControls.ExternalInterruptExiting;
        l1.Exit |= acknowledge ? VmExitControls.AcknowledgeInterrupt : 0;
        l1.LoadL2(a => a.jmp(NestedMachine.L2Code));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        l1.Send(0x61);
        Assert.Equal((L1Stop.Exit, ExitReason.ExternalInterrupt), (l1.Continue(), l1.Reason));
        Assert.Equal(acknowledge ? Valid | 0x61ul : 0, l1[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal(acknowledge, l1.Apic.Page.Test(ApicRegister.InService, 0x61));
        Assert.Equal(!acknowledge, l1.Apic.Page.Test(ApicRegister.Request, 0x61));
    }

    [Theory]
    [Tiers]
    public void An_nmi_exits_and_blocks_nmis_in_l1(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Pin |= PinControls.NmiExiting;
        l1.LoadL2(a => a.jmp(NestedMachine.L2Code));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        l1.SendNmi();
        Assert.Equal((L1Stop.Exit, ExitReason.ExceptionOrNmi), (l1.Continue(), l1.Reason));
        Assert.Equal(Valid | 2u << 8 | 2, l1[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal(8ul, l1.Vcpu.Vmcs01[VmcsField.GuestInterruptibility] & 8);
    }

    /// <summary>Section 27.8: a failed entry loads the host state, sets bit 31 of the reason, and saves nothing of the guest.</summary>
    [Theory]
    [Tiers]
    public void An_entry_into_invalid_guest_state_is_an_exit_with_reason_33(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1[VmcsField.GuestRflags] = 0;
        Assert.Equal(L1Stop.Exit, l1.Enter());
        Assert.Equal((Valid | 33u, 0ul, 0ul), (l1.FullReason, l1.Qualification, l1[VmcsField.GuestRflags]));
    }

    [Theory]
    [Tiers]
    public void An_entry_that_cannot_load_an_msr_is_an_exit_with_reason_34_and_its_place(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Write(NestedMachine.MsrAreas, [0x174, 5, 0xC000_0100, 0]);
        l1[VmcsField.VmEntryMsrLoadAddress] = NestedMachine.MsrAreas;
        l1[VmcsField.VmEntryMsrLoadCount] = 2;
        Assert.Equal(L1Stop.Exit, l1.Enter());
        Assert.Equal((Valid | 34u, 2ul), (l1.FullReason, l1.Qualification));
    }

    /// <summary>Section 28.4: L1 finds when the hardware left L2, however long L0 takes to write it. An exit that L0 makes is at that moment.</summary>
    [Theory]
    [Tiers]
    public void The_time_stamp_counter_in_the_list_is_that_of_the_exit(Tier tier)
    {
        const ulong AtExit = 5_000, Delay = 1_000;
        using var l1 = new NestedMachine(tier: tier);
        l1.Write(NestedMachine.MsrAreas, [0x10, 0]);
        l1[VmcsField.VmExitMsrStoreAddress] = NestedMachine.MsrAreas;
        l1[VmcsField.VmExitMsrStoreCount] = 1;
        l1.Pin |= PinControls.NmiExiting;
        l1.LoadL2(a =>
        {
            a.cpuid();
            a.hlt();
        });
        l1.Clock.Advance(AtExit);
        // On leaving L2, L0 stops the timer that might have woken it.
        l1.Clock.TimerDisarmed = () =>
        {
            if (l1.Vcpu.IsGuestMode)
                l1.Clock.AdvanceLate(Delay);
        };
        Assert.Equal((L1Stop.Exit, ExitReason.Cpuid), (l1.Enter(), l1.Reason));
        Assert.Equal((AtExit + l1.Vcpu.TscOffset, AtExit + Delay), (l1.Read(NestedMachine.MsrAreas + 8), l1.Clock.Nanoseconds));

        l1.Proc &= ~ProcControls.HltExiting;
        l1[VmcsField.GuestRip] += 2;
        Assert.Equal(L1Stop.Waiting, l1.Enter());
        l1.Vcpu.Request(VcpuRequest.Nmi);
        Assert.Equal((L1Stop.Exit, ExitReason.ExceptionOrNmi), (l1.Continue(), l1.Reason));
        Assert.Equal(AtExit + 2 * Delay + l1.Vcpu.TscOffset, l1.Read(NestedMachine.MsrAreas + 8));
    }

    /// <summary>Section 28.7: an MSR that cannot be stored ends in a VMX abort, whose indicator is in the region.</summary>
    [Theory]
    [Tiers]
    public void An_msr_that_cannot_be_stored_is_a_vmx_abort(Tier tier)
    {
        using var l1 = new NestedMachine(tier: tier);
        l1.Write(NestedMachine.MsrAreas, [0x800, 0]);
        l1[VmcsField.VmExitMsrStoreAddress] = NestedMachine.MsrAreas;
        l1[VmcsField.VmExitMsrStoreCount] = 1;
        l1.LoadL2(a => a.cpuid());
        Assert.Equal(L1Stop.Shutdown, l1.Enter());
        Assert.Equal(1u, (uint)(l1.Read(NestedMachine.VmcsRegion) >> 32));
    }
}
