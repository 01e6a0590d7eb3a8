using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>The way from real mode up to 64-bit mode and back down (SDM volume 3, sections 10.8.5 and 10.9).</summary>
public sealed unsafe class ModeSwitchTests
{
    private const ulong Pdpt = 0xB000, Bitmap = 0xC000, Results = 0x9800, TableImage = 0x7E00;
    private const ushort Code16 = 0x48, Data16 = 0x50;

    private static TestGuest Prepare()
    {
        TestGuest guest = new TestGuest();
        guest.SetDescriptor(9, SystemGuest.Descriptor(0, 0xFFFF, 0x9B));
        guest.SetDescriptor(10, SystemGuest.Descriptor(0, 0xFFFF, 0x93));
        guest.Write(Pdpt, [(TestGuest.PageTables + 0x2000) | 1, 0, 0, 0]);
        guest.Write(TableImage, [0x7F, 0, (byte)(TestGuest.GdtBase & 0xFF), (byte)(TestGuest.GdtBase >> 8), 0, 0]);
        return guest;
    }

    private static void AllowMsrs(TestGuest guest)
    {
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = Bitmap;
    }

    [Fact]
    public void UpToLongModeAndBackToRealMode()
    {
        using TestGuest guest = Prepare();
        guest.Assemble(16, a =>
        {
            a.cli();
            a.lgdt(__[(uint)TableImage]);
            a.mov(eax, cr0);
            a.or(eax, 1);
            a.mov(cr0, eax);
            a.db(0x66, 0xEA, 0, 0x80, 0, 0, TestGuest.Code32 & 0xFF, 0);
        }, 0x7C00);
        guest.Assemble(32, a =>
        {
            a.mov(eax, TestGuest.Data);
            a.mov(ds, eax);
            a.mov(ss, eax);
            a.mov(es, eax);
            a.mov(esp, 0x9000);
            a.mov(__dword_ptr[(uint)Results], cs);
            // PAE paging
            a.mov(eax, cr4);
            a.or(eax, 0x20);
            a.mov(cr4, eax);
            a.mov(eax, (uint)Pdpt);
            a.mov(cr3, eax);
            a.mov(eax, cr0);
            a.or(eax, 0x8000_0000);
            a.mov(cr0, eax);
            a.mov(__dword_ptr[(uint)Results + 4], eax);
            // paging off, long mode on
            a.and(eax, 0x7FFF_FFFF);
            a.mov(cr0, eax);
            a.mov(eax, (uint)TestGuest.PageTables);
            a.mov(cr3, eax);
            a.mov(ecx, 0xC000_0080);
            a.rdmsr();
            a.or(eax, 0x100);
            a.wrmsr();
            a.mov(eax, cr0);
            a.or(eax, 0x8000_0000);
            a.mov(cr0, eax);
            a.rdmsr();
            a.mov(__dword_ptr[(uint)Results + 8], eax);
            a.db(0xEA, 0, 0x84, 0, 0, TestGuest.Code64 & 0xFF, 0);
        }, 0x8000);
        guest.Assemble(64, a =>
        {
            a.mov(rax, 0x1234_5678_9ABC_DEF0L);
            a.mov(__qword_ptr[Results + 16], rax);
            a.mov(eax, cs);
            a.mov(__dword_ptr[Results + 24], eax);
            a.push(TestGuest.Code32);
            a.push(0x8500);
            a.db(0x48, 0xCB);
        }, 0x8400);
        guest.Assemble(32, a =>
        {
            // compatibility mode
            a.mov(__dword_ptr[(uint)Results + 28], cs);
            a.mov(eax, cr0);
            a.and(eax, 0x7FFF_FFFF);
            a.mov(cr0, eax);
            a.mov(ecx, 0xC000_0080);
            a.rdmsr();
            a.mov(__dword_ptr[(uint)Results + 32], eax);
            a.and(eax, ~0x100);
            a.wrmsr();
            a.db(0xEA, 0, 0x86, 0, 0, Code16 & 0xFF, 0);
        }, 0x8500);
        guest.Assemble(16, a =>
        {
            a.mov(ax, Data16);
            a.mov(ds, ax);
            a.mov(ss, ax);
            a.mov(eax, cr0);
            a.and(eax, ~1);
            a.mov(cr0, eax);
            a.db(0xEA, 0, 7, 0, 0x08);
        }, 0x8600);
        guest.Assemble(16, a =>
        {
            a.mov(ax, cs);
            a.mov(ds, ax);
            a.hlt();
        }, 0x8700);
        guest.EnterRealMode();
        AllowMsrs(guest);
        guest.ExpectHalt();
        Assert.Equal((uint)TestGuest.Code32, guest.Read<uint>(Results) & 0xFFFF);
        Assert.NotEqual(0u, guest.Read<uint>(Results + 4) & 0x8000_0000);
        Assert.Equal(0x500u, guest.Read<uint>(Results + 8));
        Assert.Equal(0x1234_5678_9ABC_DEF0UL, guest.Read<ulong>(Results + 16));
        Assert.Equal((uint)TestGuest.Code64, guest.Read<uint>(Results + 24));
        Assert.Equal((uint)TestGuest.Code32, guest.Read<uint>(Results + 28) & 0xFFFF);
        Assert.Equal(0x100u, guest.Read<uint>(Results + 32));
        Assert.Equal(0x800UL, guest.Rax() & 0xFFFF);
        Assert.Equal(0x8000UL, guest.State->Ds.Base);
        Assert.Equal(0UL, guest.State->Cr0 & (Cr0.Pe | Cr0.Pg));
        Assert.Equal(0UL, guest.State->Efer & Efer.Lma);
    }

    [Theory]
    // PG without PE, NW without CD
    [InlineData(false, 0x8000_0010u, 0u, 0u)]
    [InlineData(true, 0x2000_0011u, 0u, 0u)]
    // LME without PAE
    [InlineData(true, 0x8000_0011u, 0u, 0x100u)]
    public void BadCr0IsGeneralProtection(bool isProtected, uint value, uint cr4, uint efer)
    {
        using TestGuest guest = isProtected ? new TestGuest().WithProtectedHandlers() : new TestGuest().WithRealHandlers();
        ulong at = isProtected ? TestGuest.CodeBase : 0x7C00;
        guest.Assemble(isProtected ? 32 : 16, a =>
        {
            a.mov(eax, value);
            a.mov(cr0, eax);
        }, at);
        if (isProtected)
            guest.EnterProtectedMode();
        else
            guest.EnterRealMode();
        guest.Vmcs[VmcsField.GuestCr4] |= cr4;
        guest.Vmcs[VmcsField.GuestEfer] = efer;
        guest.ExpectVector(Vector.Gp);
    }

    [Theory]
    [InlineData(4, Cr4.Pae | Cr4.Smxe)]
    [InlineData(4, Cr4.Pae | Cr4.Vmxe)]
    [InlineData(4, Cr4.Pae | 1UL << 40)]
    [InlineData(4, 0UL)]
    [InlineData(4, Cr4.Pae | Cr4.La57)]
    [InlineData(0, Cr0.Pe | Cr0.Ne)]
    [InlineData(0, Cr0.Pe | Cr0.Pg | 1UL << 32)]
    [InlineData(3, 1UL << 50)]
    [InlineData(3, 1UL << 63)]
    [InlineData(8, 16UL)]
    [InlineData(7 + 100, 1UL << 32)]
    [InlineData(6 + 100, 1UL << 32)]
    public void ValuesThatLongModeRefuses(int register, ulong value)
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, value);
            switch (register)
            {
                case 0: a.mov(cr0, rax); break;
                case 3: a.mov(cr3, rax); break;
                case 4: a.mov(cr4, rax); break;
                case 8: a.mov(cr8, rax); break;
                case 106: a.mov(dr6, rax); break;
                default: a.mov(dr7, rax); break;
            }
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0UL, guest.Stack64(0));
        Assert.InRange(guest.Stack64(1), TestGuest.CodeBase + 5, TestGuest.CodeBase + 10);
    }

    [Fact]
    public void PcidEnableNeedsPcidZero()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, cr4);
            a.or(rax, 1 << 17);
            a.mov(cr4, rax);
            // PCID 5 with bit 63 set is a value that MOV takes and does not store.
            a.mov(rax, 0x8000_0000_0000_0005UL | TestGuest.PageTables);
            a.mov(cr3, rax);
            a.mov(rbp, cr3);
            a.mov(rax, cr4);
            a.and(rax, ~(1 << 17));
            a.mov(cr4, rax);
            a.or(rax, 1 << 17);
            a.mov(cr4, rax);
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(TestGuest.PageTables | 5, guest.State->Gpr[Gpr.Rbp]);
    }

    [Fact]
    public void Cr0MaskAndShadow()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, cr0);
            a.mov(rcx, rax);
            a.mov(cr0, rcx);
            a.mov(rbp, cr0);
            a.clts();
            a.btr(rcx, 3);
            a.mov(cr0, rcx);
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.Cr0Mask] = Cr0.Ts | Cr0.Ne;
        guest.Vmcs[VmcsField.Cr0Shadow] = Cr0.Ts;
        Assert.Equal(ExitReason.ControlRegister, guest.Run());
        // CLTS finds the shadow set and exits; before it the guest saw TS and not NE.
        Assert.Equal(2UL << 4, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(Cr0.Ts, guest.State->Gpr[Gpr.Rbp] & (Cr0.Ts | Cr0.Ne));
        Assert.Equal(Cr0.Ne, guest.State->Cr0 & (Cr0.Ts | Cr0.Ne));
        guest.Vmcs[VmcsField.GuestRip] += guest.Vmcs[VmcsField.VmExitInstructionLength];
        Assert.Equal(ExitReason.ControlRegister, guest.Run());
        Assert.Equal(1UL << 8, guest.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void Cr3TargetsDoNotExit()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, TestGuest.PageTables);
            a.mov(cr3, rax);
            a.or(rax, 8);
            a.mov(cr3, rax);
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.Cr3LoadExiting;
        guest.Vmcs[VmcsField.Cr3TargetCount] = 1;
        guest.Vmcs[VmcsField.Cr3Target0] = TestGuest.PageTables;
        Assert.Equal(ExitReason.ControlRegister, guest.Run());
        Assert.Equal(3UL, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(TestGuest.PageTables | 8, guest.Rax());
    }

    [Fact]
    public void LmswSetsAndCannotClearProtection()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a =>
        {
            a.mov(eax, 0xE);
            a.lmsw(ax);
            a.smsw(ecx);
            a.hlt();
        });
        guest.EnterProtectedMode();
        guest.ExpectHalt();
        Assert.Equal(0xFUL, guest.State->Gpr[Gpr.Rcx] & 0xF);
    }
}
