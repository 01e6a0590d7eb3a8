using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VirtualApic;

/// <summary>The APIC-access page (SDM volume 3, section 30.4 and table 28-6).</summary>
public sealed unsafe class ApicAccessTests
{
    private const SecondaryControls Accesses = SecondaryControls.VirtualizeApicAccesses;
    private const SecondaryControls Registers = Accesses | SecondaryControls.ApicRegisterVirtualization;
    private const SecondaryControls Delivery = Accesses | SecondaryControls.VirtualInterruptDelivery;
    private const int Base = (int)ApicGuest.AccessPage;

    // What section 30.4.2 lists, and 30.4.3 in each of its three cases.
    private static readonly uint[] Readable = [0x20, 0x30, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, .. Range(0x100, 0x280), 0x300, 0x310, .. Range(0x320, 0x380), 0x3E0];
    private static readonly uint[] Writable = [0x20, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, .. Range(0x320, 0x380), 0x3E0];

    public static TheoryData<SecondaryControls, uint[], uint[]> Cases => new()
    {
        { Accesses, [0x80], [0x80] },
        { Delivery, [0x80], [0x80, 0xB0, 0x300] },
        { Registers, Readable, Writable },
        { Registers | Delivery, Readable, Writable },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void Exactly_the_listed_registers_are_virtualized(SecondaryControls controls, uint[] readable, uint[] writable)
    {
        for (uint offset = 0; offset < 0x1000; offset += 16)
        {
            using var guest = new ApicGuest(secondary: controls);
            guest[offset] = 0x1234_5678 + offset;
            ExitReason reason = guest.Run(a =>
            {
                a.mov(ebx, __dword_ptr[Base + (int)offset]);
                a.hlt();
            });
            Assert.Equal(readable.Contains(offset) ? ExitReason.Hlt : ExitReason.ApicAccess, reason);
            if (reason == ExitReason.Hlt)
                Assert.Equal(0x1234_5678ul + offset, guest.Guest.State->Gpr[Gpr.Rbx]);
            else
                Assert.Equal(offset, guest.Vmcs[VmcsField.ExitQualification]);

            using var writer = new ApicGuest(secondary: controls);
            reason = writer.Run(a =>
            {
                a.mov(__dword_ptr[Base + (int)offset], 0x40);
                a.hlt();
            });
            if (writable.Contains(offset))
            {
                Assert.NotEqual(ExitReason.ApicAccess, reason);
            }
            else
            {
                Assert.Equal(ExitReason.ApicAccess, reason);
                Assert.Equal(1ul << 12 | offset, writer.Vmcs[VmcsField.ExitQualification]);
                Assert.Equal(TestGuest.CodeBase, writer.Vmcs[VmcsField.GuestRip]);
                Assert.Equal(11u, writer.Vmcs.Read32(VmcsField.VmExitInstructionLength));
                Assert.Equal(0u, writer[offset]);
            }
        }
    }

    [Fact]
    public void Accesses_that_are_not_contained_in_a_register_exit()
    {
        (Action<Assembler> Access, uint Qualification)[] cases =
        [
            (a => a.mov(rbx, __qword_ptr[Base + 0x80]), 0x80),
            (a => a.mov(ebx, __dword_ptr[Base + 0x82]), 0x82),
            (a => a.mov(bx, __word_ptr[Base + 0x83]), 0x83),
            (a => a.mov(bl, __byte_ptr[Base + 0x84]), 0x84),
            (a => a.movdqa(xmm0, __xmmword_ptr[Base + 0x80]), 0x80),
            (a => a.mov(__qword_ptr[Base + 0x80], rbx), 0x1080),
            (a => a.mov(ebx, __dword_ptr[Base - 2]), 0),
            (a => a.mov(ebx, __dword_ptr[Base + 0xFFE]), 0xFFE),
        ];
        foreach ((Action<Assembler> access, uint qualification) in cases)
        {
            using var guest = new ApicGuest(secondary: Registers);
            Assert.Equal(ExitReason.ApicAccess, guest.Run(access));
            Assert.Equal(qualification, guest.Vmcs[VmcsField.ExitQualification]);
        }
    }

    [Fact]
    public void Parts_of_a_register_are_virtualized()
    {
        using var guest = new ApicGuest(secondary: Registers);
        guest[0x80] = 0x35;
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.movzx(ebx, __byte_ptr[Base + 0x80]);
            a.mov(__byte_ptr[Base + 0x80], 0x70);
            a.mov(__word_ptr[Base + 0x312], -1);
            a.hlt();
        }));
        Assert.Equal(0x35ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(0x70u, guest[0x80]);
        Assert.Equal(0xFF00_0000u, guest[0x310]);
    }

    [Fact]
    public void Without_a_tpr_shadow_every_access_exits()
    {
        using var guest = new ApicGuest(0, Accesses);
        Assert.Equal(ExitReason.ApicAccess, guest.Run(a =>
        {
            a.mov(ebx, __dword_ptr[Base + 0x80]);
            a.mov(__dword_ptr[Base + 0x80], ebx);
        }));
        Assert.Equal(ExitReason.ApicAccess, guest.Skip());
        Assert.Equal(0x1080ul, guest.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void Other_writes_exit_after_they_have_reached_the_page()
    {
        using var guest = new ApicGuest(secondary: Registers);
        Assert.Equal(ExitReason.ApicWrite, guest.Run(a =>
        {
            a.mov(__dword_ptr[Base + 0x380], 12345);
            a.mov(ebx, 1);
            a.hlt();
        }));
        Assert.Equal(0x380ul, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(12345u, guest[0x380]);
        Assert.Equal(TestGuest.CodeBase + 11, guest.Vmcs[VmcsField.GuestRip]);
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal(1ul, guest.Guest.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void A_read_modify_write_is_virtualized_as_both()
    {
        using var guest = new ApicGuest(secondary: Registers);
        guest[0x80] = 0x20;
        Assert.Equal(ExitReason.Hlt, guest.Run(a =>
        {
            a.add(__dword_ptr[Base + 0x80], 0x30);
            a.hlt();
        }));
        Assert.Equal(0x50u, guest[0x80]);
        Assert.Equal(ExitReason.Hlt, guest.Guest.Run());
        using var readOnly = new ApicGuest(secondary: Registers);
        Assert.Equal(ExitReason.ApicAccess, readOnly.Run(a => a.add(__dword_ptr[Base + 0x30], 0x30)));
        Assert.Equal(0x1030ul, readOnly.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void A_fetch_from_the_page_exits()
    {
        using var guest = new ApicGuest(secondary: Registers);
        Assert.Equal(ExitReason.ApicAccess, guest.Run(a =>
        {
            a.mov(eax, Base + 0x100);
            a.jmp(rax);
        }));
        Assert.Equal(0x2100ul, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(ApicGuest.AccessPage + 0x100, guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void An_access_in_the_delivery_of_an_event_says_so()
    {
        using var guest = new ApicGuest(secondary: Registers);
        guest.Vmcs[VmcsField.GuestRsp] = ApicGuest.AccessPage + 0x200;
        Assert.Equal(ExitReason.ApicAccess, guest.Run(a => a.@int(0x40)));
        Assert.Equal(3ul, guest.Vmcs[VmcsField.ExitQualification] >> 12);
        Assert.Equal(1u << 31 | 4 << 8 | 0x40, guest.Vmcs.Read32(VmcsField.IdtVectoringInformation));
    }

    [Fact]
    public void The_control_counts_from_the_next_entry_although_the_page_was_used_before()
    {
        using var guest = new ApicGuest();
        guest.Guest.Write(ApicGuest.AccessPage + 0x80, [77UL]);
        void Program(Assembler a)
        {
            a.mov(ebx, __dword_ptr[Base + 0x80]);
            a.hlt();
        }
        Assert.Equal(ExitReason.Hlt, guest.Run(Program));
        Assert.Equal(77ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        guest.Vmcs[VmcsField.GuestRip] = TestGuest.CodeBase;
        guest.Vmcs[VmcsField.SecondaryControls] = (uint)Registers;
        guest[0x80] = 5;
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal(5ul, guest.Guest.State->Gpr[Gpr.Rbx]);
        guest.Vmcs[VmcsField.GuestRip] = TestGuest.CodeBase;
        guest.Vmcs[VmcsField.SecondaryControls] = 0;
        Assert.Equal(ExitReason.Hlt, guest.Resume());
        Assert.Equal(77ul, guest.Guest.State->Gpr[Gpr.Rbx]);
    }

    private static uint[] Range(uint first, uint last) => [.. Enumerable.Range(0, (int)(last - first) / 16 + 1).Select(k => first + (uint)k * 16)];
}
