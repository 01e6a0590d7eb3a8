using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Memory;

/// <summary>EPT together with the rest: cached mappings and their invalidation, event delivery, PDPTEs, modes without paging.</summary>
public sealed unsafe class EptContextTests
{
    private const ulong Data = EptGuest.Data, Other = EptGuest.Other;

    [Fact]
    public void MappingsStayCachedUntilInvept()
    {
        using EptGuest ept = TwoPages();
        UseVpid(ept, 1);
        Assert.Equal(1UL, ept.Load(Data));
        ept.Map(Data, Other | EptGuest.All | EptGuest.WriteBack);
        Assert.Equal(1UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateEpt(0x30_001E);
        Assert.Equal(1UL, ept.Load(Data));
        // Only the pointer's address counts.
        ept.Guest.Cpu.Mmu.InvalidateEpt(EptGuest.Root | 0x5E);
        Assert.Equal(2UL, ept.Load(Data));
        ept.Permit(Data, EptGuest.All);
        Assert.Equal(2UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateEpt(null);
        Assert.Equal(1UL, ept.Load(Data));
    }

    [Fact]
    public void GuestPhysicalMappingsStayCachedUntilInveptWhoeverForgetsTheRest()
    {
        using EptGuest ept = TwoPages();
        Assert.Equal(1UL, ept.Load(Data));
        ept.Map(Data, Other | EptGuest.All | EptGuest.WriteBack);
        // Neither entries without VPIDs, nor other VPIDs and their invalidation, take them away.
        Assert.Equal(1UL, ept.Load(Data));
        UseVpid(ept, 1);
        Assert.Equal(1UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateVpid(null);
        Assert.Equal(1UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateEpt(EptGuest.Root | 0x1E);
        Assert.Equal(2UL, ept.Load(Data));
    }

    [Fact]
    public void DirtyFlagsThatWereClearedAreSetAgainAtTheNextEntryWithoutVpid()
    {
        using EptGuest ept = TwoPages();
        ept.Vmcs[VmcsField.EptPointer] |= EptPointer.AccessedDirty;
        for (int k = 0; k < 2; k++)
        {
            ept.Permit(Data, EptGuest.All);
            Assert.Equal(ExitReason.Hlt, ept.Run(a => { a.mov(rbx, Data); a.mov(__qword_ptr[rbx], rax); a.hlt(); }));
            Assert.Equal(EptGuest.Accessed | EptGuest.Dirty, ept.Guest.Read<ulong>(EptGuest.EntryOf(Data)) & (EptGuest.Accessed | EptGuest.Dirty));
        }
    }

    [Fact]
    public void ARightThatWasGivenIsFoundWithoutInvept()
    {
        using EptGuest ept = TwoPages();
        UseVpid(ept, 1);
        ept.Permit(Data, 1);
        Assert.Equal(1UL, ept.Load(Data));
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(rbx, Data); a.mov(__qword_ptr[rbx], rax); a.hlt(); }));
        ept.Permit(Data, EptGuest.All);
        Assert.Equal(ExitReason.Hlt, ept.Run(a => { a.mov(rbx, Data); a.mov(eax, 7); a.mov(__[rbx], rax); a.hlt(); }));
        Assert.Equal(7UL, ept.Load(Data));
        // One that was taken away is still there until INVEPT.
        ept.Permit(Data, 1);
        Assert.Equal(7UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateEpt(null);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(rbx, Data); a.mov(__qword_ptr[rbx], rax); a.hlt(); }));
    }

    [Fact]
    public void WithoutVpidAnEntryForgets()
    {
        using EptGuest ept = TwoPages();
        Assert.Equal(1UL, ept.Load(Data));
        ept.MapLinear(Data, Other);
        Assert.Equal(2UL, ept.Load(Data));
    }

    [Fact]
    public void VpidsAreKeptApart()
    {
        using EptGuest ept = TwoPages();
        UseVpid(ept, 1);
        Assert.Equal(1UL, ept.Load(Data));
        ept.MapLinear(Data, Other);
        UseVpid(ept, 2);
        Assert.Equal(2UL, ept.Load(Data));
        // The other way round: what VPID 2 has cached is nothing to VPID 1.
        ept.MapLinear(Data, Data);
        UseVpid(ept, 1);
        Assert.Equal(1UL, ept.Load(Data));
        ept.MapLinear(Data, Other);
        ept.Guest.Cpu.Mmu.InvalidateVpid(2);
        Assert.Equal(1UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateVpidAddress(1, Data);
        Assert.Equal(2UL, ept.Load(Data));
        ept.MapLinear(Data, Data);
        Assert.Equal(2UL, ept.Load(Data));
        ept.Guest.Cpu.Mmu.InvalidateVpid(1);
        Assert.Equal(1UL, ept.Load(Data));
        ept.MapLinear(Data, Other);
        ept.Guest.Cpu.Mmu.InvalidateVpid(null);
        Assert.Equal(2UL, ept.Load(Data));
    }

    [Fact]
    public void EptPointersAreKeptApart()
    {
        using EptGuest ept = TwoPages();
        UseVpid(ept, 1);
        // A second set of tables that differs in one page.
        const ulong root = 0x30_0000, shift = root - EptGuest.Root;
        ept.Guest.Write(root, [EptGuest.Pointers + shift | 7]);
        ept.Guest.Write(EptGuest.Pointers + shift, [EptGuest.Directory + shift | 7]);
        ept.Guest.Write(EptGuest.Directory + shift, [EptGuest.Table + shift | 7]);
        for (ulong page = 0; page < 0x20_0000; page += 0x1000)
            ept.Guest.Write(EptGuest.EntryOf(page) + shift, [(page == Data ? Other : page) | 7 | EptGuest.WriteBack]);
        for (int k = 0; k < 3; k++)
        {
            ept.Vmcs[VmcsField.EptPointer] = EptGuest.Root | 0x1E;
            Assert.Equal(1UL, ept.Load(Data));
            ept.Vmcs[VmcsField.EptPointer] = root | 0x1E;
            Assert.Equal(2UL, ept.Load(Data));
            ept.Secondary &= ~SecondaryControls.EnableEpt;
            Assert.Equal(1UL, ept.Load(Data));
            ept.Secondary |= SecondaryControls.EnableEpt;
        }
    }

    [Fact]
    public void MoreContextsThanTagsAndListsHoldStayRight()
    {
        using EptGuest ept = TwoPages();
        for (uint k = 1; k < 5000; k++)
        {
            ept.MapLinear(Data, k % 2 == 0 ? Data : Other);
            UseVpid(ept, k % 100);
            ept.Guest.Cpu.Mmu.InvalidateVpid((ushort)(k % 100));
            Assert.Equal(k % 2 == 0 ? 1UL : 2, ept.Load(Data));
        }
    }

    [Fact]
    public void CodeFollowsItsMapping()
    {
        using EptGuest ept = TwoPages();
        UseVpid(ept, 1);
        ept.Guest.Assemble(64, a => { a.mov(eax, 1); a.hlt(); }, Data);
        ept.Guest.Assemble(64, a => { a.mov(eax, 2); a.hlt(); }, Other);
        for (uint k = 0; k < 4; k++)
        {
            ept.Map(Data, (k % 2 == 0 ? Data : Other) | EptGuest.All | EptGuest.WriteBack);
            ept.Guest.Cpu.Mmu.InvalidateEpt(null);
            Assert.Equal(ExitReason.Hlt, ept.Run(a => { a.mov(rbx, Data); a.jmp(rbx); }));
            Assert.Equal(k % 2 + 1, ept.Register(Gpr.Rax));
        }
    }

    [Theory]
    [InlineData(TestGuest.IdtBase)]
    [InlineData(TestGuest.GdtBase)]
    [InlineData(TestGuest.StackTop - 0x1000)]
    public void AnExitWhileAnInterruptIsDeliveredNamesTheInterrupt(ulong page)
    {
        using var ept = new EptGuest();
        ept.Guest.Write(TestGuest.IdtBase + 0x30 * 16, [Gate(Data), 0UL]);
        ept.Guest.Assemble(64, a => { a.mov(rcx, 5); a.hlt(); }, Data);
        ept.Permit(page, 0);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => a.@int(0x30)));
        Assert.Equal(page, ept.Vmcs[VmcsField.GuestPhysicalAddress] & ~0xFFFUL);
        Assert.Equal(0x180UL, ept.Vmcs[VmcsField.ExitQualification] & ~7UL);
        Assert.Equal(0x8000_0430UL, ept.Vmcs[VmcsField.IdtVectoringInformation]);
        Assert.Equal(2UL, ept.Vmcs[VmcsField.VmExitInstructionLength]);
        Assert.Equal(TestGuest.CodeBase, ept.Vmcs[VmcsField.GuestRip]);
        Assert.Equal(TestGuest.StackTop, ept.Vmcs[VmcsField.GuestRsp]);
        Reinject(ept);
        // Injection meets the same obstacle, and says so again.
        Assert.Equal(ExitReason.EptViolation, ept.Guest.Run());
        Assert.Equal(0x8000_0430UL, ept.Vmcs[VmcsField.IdtVectoringInformation]);
        ept.Permit(page, 7);
        Reinject(ept);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(5UL, ept.Register(Gpr.Rcx));
        Assert.Equal(0UL, ept.Vmcs[VmcsField.IdtVectoringInformation]);
    }

    [Fact]
    public void AnExitWhileAPageFaultIsDeliveredNamesTheFault()
    {
        using var ept = new EptGuest();
        ept.Guest.Write(TestGuest.PageTables + 0x2000 + 8, [0UL]);
        ept.Permit(TestGuest.IdtBase, 0);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(__[0x20_0000], eax); a.hlt(); }));
        Assert.Equal(0x8000_0B0EUL, ept.Vmcs[VmcsField.IdtVectoringInformation]);
        Assert.Equal(2UL, ept.Vmcs[VmcsField.IdtVectoringErrorCode]);
        Assert.Equal(TestGuest.IdtBase + 14 * 16, ept.Vmcs[VmcsField.GuestLinearAddress]);
        Assert.Equal(0x20_0000UL, ept.Guest.State->Cr2);
    }

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, false)]
    public void AnIretThatUnblocksNmisSaysSo(bool nmiExiting, bool reported)
    {
        using var ept = new EptGuest();
        ept.Permit(TestGuest.StackTop, 0);
        ept.Vmcs[VmcsField.GuestInterruptibility] = 8;
        if (nmiExiting)
            ept.Vmcs[VmcsField.PinBasedControls] = (ulong)PinControls.NmiExiting;
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => a.iretq()));
        Assert.Equal(0x181UL | (reported ? 1UL << 12 : 0), ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(ExitReason.EptViolation, ept.Guest.Run());
        Assert.Equal(0x181UL, ept.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void AnInterruptShadowOutlivesTheExit()
    {
        using var ept = new EptGuest();
        ept.Permit(Data, 0);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(rbx, Data); a.sti(); a.mov(rax, __[rbx]); a.hlt(); }));
        Assert.Equal(1UL, ept.Vmcs[VmcsField.GuestInterruptibility]);
        ept.Permit(Data, 7);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(0UL, ept.Vmcs[VmcsField.GuestInterruptibility]);
    }

    [Fact]
    public void WithoutPagingLinearAddressesAreGuestPhysical()
    {
        using EptGuest ept = TwoPages();
        ept.EnterProtectedMode();
        ept.EnableModeBasedExecute();
        // Every linear address is then a user-mode one.
        ept.Map(TestGuest.CodeBase, TestGuest.CodeBase | 0x401 | EptGuest.WriteBack);
        ept.Map(Data, Other | 0x401 | EptGuest.WriteBack);
        ept.Guest.Assemble(32, a => { a.mov(eax, __[0x8_0000]); a.mov(__[0x8_0000], eax); a.hlt(); });
        Assert.Equal(ExitReason.EptViolation, ept.Guest.Run());
        Assert.Equal(2UL, ept.Register(Gpr.Rax));
        Assert.Equal(2UL | 1 << 3 | 1 << 6 | 0x180, ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(Data, ept.Vmcs[VmcsField.GuestLinearAddress]);
    }

    [Fact]
    public void PdptesComeFromTheVmcsAndMovToCr3LoadsThemThroughEpt()
    {
        using EptGuest ept = TwoPages();
        ept.EnterProtectedMode();
        ept.Vmcs[VmcsField.GuestCr0] |= Cr0.Pg;
        ept.Vmcs[VmcsField.GuestCr4] |= Cr4.Pae;
        ept.Vmcs[VmcsField.EptPointer] |= EptPointer.AccessedDirty;
        // Nothing usable at CR3: what counts is in the VMCS.
        ept.Vmcs[VmcsField.GuestCr3] = 0xA_0000;
        ept.Vmcs[VmcsField.GuestPdpte0] = TestGuest.PageTables + 0x2000 | 1;
        const ulong table = 0xC_0020;
        ept.Guest.Write(table, [TestGuest.PageTables + 0x2000 | 1, 0x5000_0000UL, 0UL, 0UL]);
        ept.Permit(table & ~0xFFFUL, 0);
        ept.Guest.Assemble(32, a => { a.mov(eax, (uint)table); a.mov(cr3, eax); a.mov(ebx, __[0x8_0000]); a.hlt(); });
        Assert.Equal(ExitReason.EptViolation, ept.Guest.Run());
        Assert.Equal(1UL, ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(table, ept.Vmcs[VmcsField.GuestPhysicalAddress]);
        Assert.Equal(0xA_0000UL, ept.Vmcs[VmcsField.GuestCr3]);
        ept.Permit(table & ~0xFFFUL, 1);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(1UL, ept.Register(Gpr.Rbx));
        Assert.Equal(table, ept.Vmcs[VmcsField.GuestCr3]);
        Assert.Equal(0x5000_0000UL, ept.Vmcs[VmcsField.GuestPdpte1]);
        // The load of PDPTEs is a mere read.
        Assert.Equal(EptGuest.Accessed, ept.Guest.Read<ulong>(EptGuest.EntryOf(table & ~0xFFFUL)) & 0x300);
    }

    private static EptGuest TwoPages()
    {
        var ept = new EptGuest();
        ept.Guest.Write(Data, [1UL]);
        ept.Guest.Write(Other, [2UL]);
        return ept;
    }

    private static void UseVpid(EptGuest ept, uint vpid)
    {
        ept.Secondary |= SecondaryControls.EnableVpid;
        ept.Vmcs[VmcsField.VirtualProcessorId] = vpid;
    }

    private static void Reinject(EptGuest ept)
    {
        ept.Vmcs[VmcsField.VmEntryInterruptionInformation] = ept.Vmcs[VmcsField.IdtVectoringInformation];
        ept.Vmcs[VmcsField.VmEntryInstructionLength] = ept.Vmcs[VmcsField.VmExitInstructionLength];
    }

    private static ulong Gate(ulong offset) => (offset & 0xFFFF) | TestGuest.Code64 << 16 | 0x8E00UL << 32 | (offset >> 16 & 0xFFFF) << 48;
}
