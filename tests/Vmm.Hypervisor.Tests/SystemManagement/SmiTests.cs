using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Tests.Nested;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.SystemManagement;

/// <summary>SMI delivery and RSM without VMX operation (SDM volume 3, chapter 32).</summary>
public sealed unsafe class SmiTests
{
    private const ulong Spin = NestedMachine.Code + 0x100;

    /// <summary>Table 32-3, and what of the registers is as it was after RSM.</summary>
    [Fact]
    public void The_interrupted_program_is_in_the_map_and_goes_on_as_it_was()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        ulong[] before = [.. Enumerable.Range(0, 16).Select(l1.Vcpu.General)];
        Vmcs vmcs = l1.Vcpu.Vmcs;
        (ulong rip, ulong flags, ulong cr0, ulong cr3, ulong cr4, ulong efer) = (vmcs[VmcsField.GuestRip], vmcs[VmcsField.GuestRflags], vmcs[VmcsField.GuestCr0],
            vmcs[VmcsField.GuestCr3], l1.Vcpu.GuestCr4, vmcs[VmcsField.GuestEfer]);
        string segments = Segments(vmcs);
        guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
        guest.SendSmi();
        Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.True(l1.Vcpu.SystemManagement.IsActive);

        uint[] general = [0x7F5C, 0x7F64, 0x7F6C, 0x7F74, 0x7F7C, 0x7F84, 0x7F8C, 0x7F94, 0x7F54, 0x7F4C, 0x7F44, 0x7F3C, 0x7F34, 0x7F2C, 0x7F24, 0x7F1C];
        Assert.Equal(before, general.Select(guest.Read));
        Assert.Equal((rip, flags, cr0, cr3, cr4, efer), (guest.Read(0x7FD8), guest.Read(0x7FE8), guest.Read(0x7FF8), guest.Read(0x7FF0), guest.Read(0x7E40), guest.Read(0x7FE0)));
        // ES to GS, LDTR, TR.
        Assert.Equal((uint[])[16, 8, 16, 16, 16, 16, 0, 24], new uint[] { 0x7FA8, 0x7FAC, 0x7FB0, 0x7FB4, 0x7FB8, 0x7FBC, 0x7FC0, 0x7FC4 }.Select(guest.Read32));
        Assert.Equal((NestedMachine.Gdt, NestedMachine.Idt), (guest.Read32(0x7E8C) | guest.Read(0x7DD0) << 32, guest.Read32(0x7E94) | (ulong)guest.Read32(0x7DD8) << 32));
        Assert.Equal((SmiGuest.Smbase, 0x2_0101u, 0u, 0u), (guest.Read32(0x7EF8), guest.Read32(0x7EFC), guest.Read32(0x7F00), guest.Read32(0x7EE0)));

        guest.Handler(a => a.rsm());
        Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.False(l1.Vcpu.SystemManagement.IsActive);
        Assert.Equal(before, Enumerable.Range(0, 16).Select(l1.Vcpu.General));
        Assert.Equal((rip, flags, cr0, cr3, cr4, efer), (vmcs[VmcsField.GuestRip], vmcs[VmcsField.GuestRflags], vmcs[VmcsField.GuestCr0],
            vmcs[VmcsField.GuestCr3], l1.Vcpu.GuestCr4, vmcs[VmcsField.GuestEfer]));
        Assert.Equal(segments, Segments(vmcs));
        Assert.Equal(L1Stop.Running, l1.Continue(100));
        AssertSpinning(l1);
    }

    /// <summary>Section 32.5.1: what the handler finds, as it reads it itself.</summary>
    [Fact]
    public void The_handler_begins_in_a_real_mode_with_segments_of_4_gib()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        guest.Handler(a =>
        {
            void Keep(uint mark)
            {
                a.mov(edi, (int)(SmiGuest.Marks + mark * 8));
                a.mov(__dword_ptr[edi], eax);
            }

            a.mov(eax, cr0);
            Keep(0);
            a.mov(eax, cr4);
            Keep(1);
            a.mov(ecx, unchecked((int)0xC000_0080));
            a.rdmsr();
            Keep(2);
            a.pushfd();
            a.pop(eax);
            Keep(3);
            a.mov(ax, cs);
            a.cwde();
            Keep(4);
            a.mov(ax, ds);
            a.cwde();
            Keep(5);
            a.mov(eax, dr7);
            Keep(6);
            a.rsm();
        });
        l1.Vcpu.State->Gpr[Gpr.Rsp] = SmiGuest.Marks + 0x800;
        l1.Vcpu.Vmcs[VmcsField.GuestRsp] = SmiGuest.Marks + 0x800;
        guest.SendSmi();
        Assert.Equal(L1Stop.Running, l1.Continue(1_000));
        Assert.Equal(NestedMachine.DefaultCr0 & ~(Cr0.Pe | Cr0.Pg), guest.Mark(0));
        Assert.Equal((0ul, 0ul, 2ul), (guest.Mark(1), guest.Mark(2), guest.Mark(3)));
        Assert.Equal((SmiGuest.Smbase >> 4 & 0xFFFF, 0ul, 0x400ul), (guest.Mark(4), guest.Mark(5), guest.Mark(6)));
        AssertSpinning(l1);
    }

    [Fact]
    public void What_the_handler_writes_into_the_map_is_what_the_program_goes_on_with()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        l1.Assemble(a =>
        {
            a.mov(__qword_ptr[SmiGuest.Marks + 8UL], rax);
            NestedMachine.Report(a, L1Stop.Done);
        }, Spin);
        guest.Handler(a =>
        {
            SmiGuest.Store(a, 0x7FD8, (uint)Spin);
            SmiGuest.Store(a, 0x7F5C, 0x1234_5678);
            SmiGuest.Store(a, 0x7F60, 0x9ABC_DEF0);
            a.rsm();
        });
        guest.SendSmi();
        Assert.Equal(L1Stop.Done, l1.Continue());
        Assert.Equal(0x9ABC_DEF0_1234_5678, guest.Mark(1));
    }

    /// <summary>Neither delivery nor return costs or loses an instruction of the program.</summary>
    [Fact]
    public void An_smi_between_any_two_instructions_leaves_the_count_and_the_result()
    {
        using var straight = new SmiGuest();
        Begin(straight.L1);
        straight.L1.Continue(200);
        ulong[] expected = [.. Enumerable.Range(0, 16).Select(straight.L1.Vcpu.General), straight.L1.Vcpu.Vmcs[VmcsField.GuestRip]];
        for (int at = 1; at < 60; at++)
        {
            using var guest = new SmiGuest();
            NestedMachine l1 = guest.L1;
            Begin(l1);
            guest.Handler(a =>
            {
                SmiGuest.Count(a);
                a.rsm();
            });
            l1.Continue(at);
            guest.SendSmi();
            // MOV, INC and RSM are three more.
            l1.Continue(200 - at + 3);
            Assert.Equal(1ul, guest.Mark());
            Assert.Equal<ulong>(expected, (ulong[])[.. Enumerable.Range(0, 16).Select(l1.Vcpu.General), l1.Vcpu.Vmcs[VmcsField.GuestRip]]);
        }
    }

    /// <summary>Section 32.3.1: one SMI is remembered in system-management mode.</summary>
    [Fact]
    public void Of_the_smis_in_the_handler_one_is_delivered_behind_it()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            for (int k = 0; k < 20; k++)
                a.nop();
            a.rsm();
        });
        guest.SendSmi();
        l1.Continue(5);
        for (int k = 0; k < 3; k++)
            guest.SendSmi();
        Assert.Equal(1ul, guest.Mark());
        Assert.Equal(L1Stop.Running, l1.Continue(1_000));
        Assert.Equal(2ul, guest.Mark());
        AssertSpinning(l1);
    }

    /// <summary>Sections 32.7 and 32.3.2: NMIs wait for RSM, or for an IRET of the handler; RSM puts the blocking back that there was.</summary>
    [Fact]
    public void Nmis_wait_for_rsm_and_are_blocked_behind_it_as_before_the_smi()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        l1.Assemble(a =>
        {
            a.inc(__qword_ptr[SmiGuest.Marks + 8UL]);
            for (int k = 0; k < 30; k++)
                a.nop();
            a.iretq();
        }, NestedMachine.Scratch + 0x800);
        l1.SetGate(NestedMachine.Idt, 2, NestedMachine.Scratch + 0x800);
        Begin(l1);
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            for (int k = 0; k < 20; k++)
                a.nop();
            a.rsm();
        });
        guest.SendSmi();
        l1.Continue(5);
        l1.SendNmi();
        l1.Continue(10);
        Assert.Equal((1ul, 0ul, true), (guest.Mark(), guest.Mark(1), l1.Vcpu.SystemManagement.IsActive));
        l1.Continue(20);
        Assert.Equal((1ul, false), (guest.Mark(1), l1.Vcpu.SystemManagement.IsActive));
        // In the handler of the NMI now.
        guest.SendSmi();
        l1.Continue(1);
        Assert.True(l1.Vcpu.SystemManagement.IsActive);
        l1.SendNmi();
        l1.Continue(25);
        Assert.Equal((2ul, 1ul, false), (guest.Mark(), guest.Mark(1), l1.Vcpu.SystemManagement.IsActive));
        l1.Continue(200);
        Assert.Equal(2ul, guest.Mark(1));
        AssertSpinning(l1);
    }

    /// <summary>VMX-critical state of section 32.14.1, which a processor keeps outside VMX operation too: an interrupt shadow, a single step.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_shadow_behind_sti_and_a_single_step_are_still_there_behind_rsm(bool step)
    {
        const byte vector = 0x45;
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        l1.Assemble(a => NestedMachine.Report(a, L1Stop.Done), NestedMachine.Scratch + 0x800);
        l1.SetGate(NestedMachine.Idt, step ? 1u : vector, NestedMachine.Scratch + 0x800);
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            a.rsm();
        });
        l1.Apic.WriteMemory(ApicRegister.SpuriousVector, 4, 0x1FF);
        l1.Assemble(a =>
        {
            a.pushfq();
            a.or(__dword_ptr[rsp], step ? (int)Rflags.Tf : 0);
            a.xor(ebx, ebx);
            if (step)
                a.popfq();
            else
                a.sti();
            a.inc(ebx);
            a.inc(ebx);
            a.inc(ebx);
        }, NestedMachine.Code);
        l1.Vcpu.Vmcs[VmcsField.GuestRip] = NestedMachine.Code;
        if (!step)
            l1.Send(vector);
        // To behind STI, or to the first instruction that traps.
        Assert.Equal(L1Stop.Running, l1.Continue(step ? 5 : 4));
        guest.SendSmi();
        Assert.Equal(L1Stop.Done, l1.Continue());
        Assert.Equal((1ul, 1ul), (guest.Mark(), l1.Vcpu.General(Gpr.Rbx)));
    }

    /// <summary>Section 32.10.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void From_hlt_the_handler_decides_whether_it_halts_again(bool restart)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            if (!restart)
                SmiGuest.Store(a, 0x7F00, 0);
            a.rsm();
        });
        Assert.Equal(L1Stop.Waiting, l1.RunL1(a =>
        {
            a.hlt();
            NestedMachine.Report(a, L1Stop.Done);
        }));
        Assert.False(l1.Vcpu.IsRunnable);
        guest.SendSmi();
        Assert.True(l1.Vcpu.IsRunnable);
        Assert.Equal(restart ? L1Stop.Waiting : L1Stop.Done, l1.Continue());
        Assert.Equal(1ul, guest.Mark());
        Assert.Equal(restart ? 1u << 16 : 0, guest.Read32(0x7F00));
    }

    [Fact]
    public void Rsm_elsewhere_is_undefined()
    {
        using var guest = new SmiGuest();
        Assert.Equal(L1Stop.Exception, guest.L1.RunL1(a => a.rsm()));
        Assert.Equal(Vector.Ud, guest.L1.ExceptionVector);
    }

    /// <summary>Section 32.14.3, and what there is no VMX for: VMXON is undefined with CR4.VMXE 0.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_handler_has_no_vmx(bool vmxon)
    {
        const ulong vectors = 0x5_8000, caught = 0x5_9000;
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        // A real-mode interrupt table: the same handler for #UD and #GP.
        l1.Write(vectors + 6 * 4 & ~7ul, [(caught >> 4) << 48]);
        l1.Write(vectors + 6 * 4, [(caught >> 4) << 16]);
        l1.Write(vectors + 13 * 4 & ~7ul, [(caught >> 4) << 48]);
        guest.Assemble(a =>
        {
            SmiGuest.Count(a, 1);
            a.rsm();
        }, caught);
        l1.Write(SmiGuest.Marks + 0x100, [0x3FF | vectors << 16]);
        guest.Handler(a =>
        {
            a.mov(edi, (int)SmiGuest.Marks + 0x100);
            a.lidt(__[edi]);
            a.mov(esp, (int)SmiGuest.Marks - 0x20_0000);
            a.mov(esp, 0x5_A000 & 0xFFFF);
            if (vmxon)
            {
                a.mov(edi, (int)NestedMachine.Scratch);
                a.vmxon(__qword_ptr[edi]);
            }
            else
            {
                a.mov(eax, (int)Cr4.Vmxe);
                a.mov(cr4, eax);
            }
            SmiGuest.Count(a, 2);
            a.rsm();
        });
        guest.SendSmi();
        Assert.Equal(L1Stop.Running, l1.Continue(1_000));
        Assert.Equal((1ul, 0ul), (guest.Mark(1), guest.Mark(2)));
        AssertSpinning(l1);
    }

    [Fact]
    public void The_interrupt_command_register_sends_smis()
    {
        using var guest = new SmiGuest();
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            a.rsm();
        });
        Assert.Equal(L1Stop.Done, guest.L1.RunL1(a =>
        {
            a.mov(rbx, 0xFEE0_0000UL);
            a.mov(__dword_ptr[rbx + (int)ApicRegister.CommandHigh], 0);
            a.mov(__dword_ptr[rbx + (int)ApicRegister.CommandLow], (int)DeliveryMode.Smi << 8);
            a.mov(eax, __dword_ptr[SmiGuest.Marks]);
            a.mov(__dword_ptr[SmiGuest.Marks + 8], eax);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        Assert.Equal((1ul, 1ul), (guest.Mark(), guest.Mark(1)));
    }

    [Fact]
    public void An_init_in_the_handler_waits_for_rsm()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Begin(l1);
        guest.Handler(a =>
        {
            for (int k = 0; k < 20; k++)
                a.nop();
            SmiGuest.Count(a);
            a.rsm();
        });
        guest.SendSmi();
        l1.Continue(5);
        Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.Init, 0, false)));
        l1.Continue(5);
        Assert.True(l1.Vcpu.SystemManagement.IsActive);
        l1.Continue(13);
        Assert.Equal(1ul, guest.Mark());
        // SMBASE survives INIT.
        Assert.Equal((false, SmiGuest.Smbase, 0xFFF0ul), (l1.Vcpu.SystemManagement.IsActive, l1.Vcpu.SystemManagement.Base, l1.Vcpu.Vmcs[VmcsField.GuestRip]));
    }

    /// <summary>L1 spins, with something in every register.</summary>
    private static void Begin(NestedMachine l1)
    {
        l1.Assemble(a =>
        {
            Label again = a.CreateLabel();
            AssemblerRegister64[] registers = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
            for (int k = 0; k < registers.Length; k++)
                a.mov(registers[k], 0x0101_0101_0000_0000UL * (ulong)(k + 1) + (ulong)k);
            a.mov(rbp, 0UL);
            a.sti();
            a.Label(ref again);
            a.inc(rbp);
            a.imul(rax, rbx);
            a.add(rax, rbp);
            a.jmp(again);
        }, NestedMachine.Code);
        l1.Vcpu.Vmcs[VmcsField.GuestRip] = NestedMachine.Code;
        Assert.Equal(L1Stop.Running, l1.Continue(40));
    }

    private static void AssertSpinning(NestedMachine l1)
    {
        ulong before = l1.Vcpu.General(Gpr.Rbp);
        Assert.Equal(L1Stop.Running, l1.Continue(40));
        Assert.Equal(10ul, l1.Vcpu.General(Gpr.Rbp) - before);
    }

    private static string Segments(Vmcs vmcs) => string.Join(' ', Enumerable.Range(0, 8).Select(k =>
        $"{vmcs[Vcpu.SegmentField(VmcsField.GuestEsSelector, k)]:x}:{vmcs[Vcpu.SegmentField(VmcsField.GuestEsBase, k)]:x}+{vmcs[Vcpu.SegmentField(VmcsField.GuestEsLimit, k)]:x}/{vmcs[Vcpu.SegmentField(VmcsField.GuestEsAccessRights, k)]:x}"));
}
