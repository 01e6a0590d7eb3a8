using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>Ports, debug registers, time, model-specific registers, interrupt shadows (SDM volume 2; volume 3, chapter 26).</summary>
public sealed unsafe class ProcessorInstructionTests
{
    [Fact]
    public void PortsReachTheBusInEverySize()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Bus.OnReadPort = (port, size) => port == 0x71 && size == 2 ? 0xBEEF : 0xFFFF_FFFF;
        guest.Assemble(64, a =>
        {
            a.mov(eax, 0x12345678);
            a.@out(0x80, al);
            a.mov(edx, 0xCFC);
            a.@out(dx, eax);
            a.mov(rax, -1L);
            a.@in(ax, 0x71);
            a.mov(rcx, rax);
            a.@in(eax, dx);
            a.hlt();
        });
        guest.EnterLongMode();
        guest.ExpectHalt();
        Assert.Equal([(0x80, 1, 0x78u), (0xCFC, 4, 0x12345678u)], guest.Bus.PortWrites);
        Assert.Equal(0xFFFF_FFFF_FFFF_BEEFUL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(0xFFFF_FFFFUL, guest.Rax());
    }

    [Fact]
    public void RepeatedStringPortsRestart()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        uint next = 0;
        guest.Bus.OnReadPort = (_, _) => next++;
        guest.Assemble(64, a =>
        {
            a.mov(edx, 0x1F0);
            a.mov(edi, 0x3_0000);
            a.mov(ecx, 256);
            a.rep.insw();
            a.mov(rbp, rdi);
            a.mov(esi, 0x3_0000);
            a.mov(ecx, 100);
            a.rep.outsb();
            a.hlt();
        });
        guest.EnterLongMode();
        guest.ExpectHalt();
        Assert.Equal(0x3_0200UL, guest.State->Gpr[Gpr.Rbp]);
        Assert.Equal(0x3_0064UL, guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(0UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(255, guest.Read<ushort>(0x3_01FE));
        Assert.Equal(100, guest.Bus.PortWrites.Count);
        Assert.Equal(49u, guest.Bus.PortWrites[98].Value);
    }

    [Fact]
    public void FaultInAStringPortReadLosesNothing()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        int reads = 0;
        guest.Bus.OnReadPort = (_, _) => (uint)reads++;
        guest.Assemble(64, a =>
        {
            a.mov(edx, 0x1F0);
            // The identity map ends at 1 GiB; RAM does before, but MMIO takes the writes.
            a.mov(rdi, 0x3FFF_FFFEUL);
            a.mov(ecx, 4);
            a.rep.insb();
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Pf);
        Assert.Equal(2, reads);
        Assert.Equal(2UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(0x4000_0000UL, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(0x4000_0000UL, guest.State->Cr2);
    }

    [Fact]
    public void InterceptedPortsExitWithTheirQualification()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.@out(0x70, al);
            a.mov(edx, 0x8001);
            a.@in(eax, dx);
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseIoBitmaps;
        guest.Vmcs[VmcsField.IoBitmapA] = 0x1_5000;
        guest.Vmcs[VmcsField.IoBitmapB] = 0x1_6000;
        guest.Write(0x1_6000, [(byte)0x10]);
        Assert.Equal(ExitReason.IoInstruction, guest.Run());
        Assert.Equal(3 | 1 << 3 | 0x8001UL << 16, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal([(0x70, 1, 0u)], guest.Bus.PortWrites);
    }

    [Fact]
    public void GeneralDetectTrapsDebugRegisterAccess()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(eax, 0x2400);
            a.mov(dr7, rax);
            a.mov(rcx, dr0);
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Db);
        Assert.NotEqual(0UL, guest.State->Dr6 & (1 << 13));
        Assert.Equal(0UL, guest.State->Dr7 & (1 << 13));
        Assert.Equal(TestGuest.CodeBase + 5 + 3, guest.Stack64(0));
    }

    [Fact]
    public void DebugRegisters4And5AliasUnlessDebugExtensionsAreOn()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rcx, dr4);
            a.mov(rbp, dr5);
            a.mov(rax, cr4);
            a.or(rax, 8);
            a.mov(cr4, rax);
            a.mov(rcx, dr4);
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Ud);
        Assert.Equal(0xFFFF_0FF0UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(0x400UL, guest.State->Gpr[Gpr.Rbp]);
    }

    [Fact]
    public void Int1IsADebugExceptionThatReportsNothing()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.int1());
        guest.EnterLongMode(cpl: 3);
        guest.ExpectVector(Vector.Db);
        Assert.Equal(0UL, guest.State->Dr6 & 0xE00F);
        Assert.Equal(TestGuest.CodeBase + 1, guest.Stack64(0));
    }

    [Fact]
    public void InterruptsWaitOneInstructionAfterSti()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.sti();
            a.inc(rcx);
            a.inc(rcx);
            a.hlt();
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.InterruptWindowExiting;
        Assert.Equal(ExitReason.InterruptWindow, guest.Run());
        Assert.Equal(1UL, guest.State->Gpr[Gpr.Rcx]);
    }

    [Fact]
    public void SingleStepWaitsOneInstructionAfterMovSs()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(eax, ss);
            a.pushfq();
            a.or(__qword_ptr[rsp], 0x100);
            a.popfq();
            a.mov(ss, eax);
            a.nop();
            a.nop();
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Db);
        ulong start = TestGuest.CodeBase + 2 + 1 + 8 + 1;
        Assert.Equal(start + 3, guest.Stack64(0));
    }

    [Fact]
    public void TimeStampsAreOffsetAndBarredByTsd()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.nop();
            a.rdtsc();
            a.mov(ebp, eax);
            a.rdtscp();
            a.hlt();
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)(ProcControls.TscOffsetting | ProcControls.ActivateSecondary);
        guest.Vmcs[VmcsField.SecondaryControls] = (uint)SecondaryControls.EnableRdtscp;
        guest.Vmcs[VmcsField.TscOffset] = 1000;
        guest.State->TscAux = 0x55;
        guest.ExpectHalt();
        Assert.Equal(1001UL, guest.State->Gpr[Gpr.Rbp]);
        Assert.Equal(1003UL, guest.Rax());
        Assert.Equal(0x55UL, guest.State->Gpr[Gpr.Rcx]);
    }

    [Theory]
    [InlineData(Cr4.Tsd, true)]
    [InlineData(0UL, false)]
    public void UserCodeMayReadTheTimeUnlessTsdIsSet(ulong cr4, bool faults)
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(64, a =>
        {
            a.rdtsc();
            a.@int(0x80);
        });
        guest.EnterLongMode(cpl: 3);
        guest.Vmcs[VmcsField.GuestCr4] |= cr4;
        guest.ExpectVector(faults ? Vector.Gp : 0x80);
    }

    [Fact]
    public void RdtscpWithoutItsControlIsUndefined()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.rdtscp());
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Ud);
    }

    [Theory]
    [InlineData(0xC000_0100u, 0x0100_0000_0000_0000UL, true)]
    [InlineData(0xC000_0100u, 0x0000_8000_0000_0000UL, false)]
    [InlineData(0xC000_0082u, 0xFFFF_8000_0000_0000UL, false)]
    [InlineData(0xC000_0084u, 0x1_0000_0000UL, true)]
    [InlineData(0xC000_0080u, 0x2UL, true)]
    [InlineData(0xC000_0080u, 0x1UL, true)]
    [InlineData(0xC000_0080u, 0xD01UL, false)]
    [InlineData(0x277u, 0x0007_0406_0007_0406UL, false)]
    [InlineData(0x277u, 0x02UL, true)]
    [InlineData(0x12345u, 0UL, true)]
    public void WrmsrChecksItsValue(uint index, ulong value, bool faults)
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(ecx, index);
            a.mov(eax, (uint)value);
            a.mov(edx, (uint)(value >> 32));
            a.wrmsr();
            a.rdmsr();
            a.hlt();
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = 0x1_5000;
        if (index == 0x12345)
        {
            // Outside the bitmaps' ranges every access exits.
            Assert.Equal(ExitReason.Wrmsr, guest.Run());
            return;
        }
        if (faults)
        {
            guest.ExpectVector(Vector.Gp);
            return;
        }
        guest.ExpectHalt();
        Assert.Equal(value, guest.Rax() | guest.State->Gpr[Gpr.Rdx] << 32);
    }

    [Fact]
    public void MsrBitmapChoosesWhatExits()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(ecx, 0xC000_0082);
            a.rdmsr();
            a.wrmsr();
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = 0x1_5000;
        guest.Write(0x1_5000 + 3072 + (0x82 >> 3), [(byte)(1 << (0x82 & 7))]);
        Assert.Equal(ExitReason.Wrmsr, guest.Run());
    }

    [Fact]
    public void SwapgsAndBaseInstructions()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, 0x1111_2222_3333UL);
            a.wrgsbase(rax);
            a.swapgs();
            a.rdgsbase(rcx);
            a.mov(rax, 0x8000_0000_0000_0000UL);
            a.wrfsbase(rax);
        });
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.GuestCr4] |= Cr4.Fsgsbase;
        guest.State->KernelGsBase = 0x77;
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0x77UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(0x1111_2222_3333UL, guest.State->KernelGsBase);
    }

    [Fact]
    public void UmipHidesTablesFromUserCode()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(64, a =>
        {
            a.sidt(__[0x9900]);
            a.@int(0x80);
        });
        guest.EnterLongMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(TestGuest.IdtBase, guest.Read<ulong>(0x9902));
        guest.EnterLongMode(cpl: 3);
        guest.Vmcs[VmcsField.GuestCr4] |= Cr4.Umip;
        guest.ExpectVector(Vector.Gp);
    }

    [Fact]
    public void RandomNumbersHaveTheOperandsSizeAndSetCarry()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rax, -1L);
            a.rdrand(ax);
            a.setc(cl);
            a.mov(rdx, -1L);
            a.rdseed(edx);
            a.hlt();
        });
        guest.EnterLongMode();
        guest.ExpectHalt();
        Assert.Equal(0xFFFF_FFFF_FFFFUL, guest.Rax() >> 16);
        Assert.Equal(1UL, guest.State->Gpr[Gpr.Rcx] & 0xFF);
        Assert.True(guest.State->Gpr[Gpr.Rdx] <= uint.MaxValue);
    }

    [Theory]
    [InlineData(0x0Fu, 0xA2u, ExitReason.Cpuid)]
    [InlineData(0x0Fu, 0x32u, ExitReason.Rdmsr)]
    [InlineData(0x0Fu, 0x08u, ExitReason.Invd)]
    public void UnconditionalExits(uint first, uint second, ExitReason reason)
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.db((byte)first, (byte)second));
        guest.EnterLongMode();
        Assert.Equal(reason, guest.Run());
        Assert.Equal(2UL, guest.Vmcs[VmcsField.VmExitInstructionLength]);
        Assert.Equal(TestGuest.CodeBase, guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void CompatibilityModeInterruptsUse64BitGates()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(0x80, 0x1_1000, TestGuest.Code64, 14, 3);
        guest.SetGate64(0x81, SystemGuest.Handlers + 0x81 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(32, a =>
        {
            a.@int(0x80);
            a.mov(edx, cs);
            a.@int(0x81);
        });
        guest.Assemble(64, a =>
        {
            a.mov(rax, 0x1234_5678_9ABCUL);
            a.iretq();
        }, 0x1_1000);
        guest.EnterLongMode(cpl: 3);
        guest.SetSegment(Seg.Cs, TestGuest.UserCode32, 0, 0xFFFF_FFFF, 0xC0FB);
        guest.ExpectVector(0x81);
        Assert.Equal(0x1234_5678_9ABCUL, guest.Rax());
        Assert.Equal(TestGuest.UserCode32, (ushort)guest.State->Gpr[Gpr.Rdx]);
    }
}
