using Vmm.Processor.State;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>Virtual-8086 mode with and without the mode extensions (SDM volume 3, chapter 20), and real mode's interrupts.</summary>
public sealed unsafe class Virtual8086Tests
{
    private const ulong V86Code = 0x3_0000;

    // Enters V86 mode at 3000:0000 with SS:SP = 4000:1000, then runs the program there.
    private static TestGuest Start(ulong flags, Action<Iced.Intel.Assembler> program, ulong cr4 = 0)
    {
        TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.push(0x7777);
            a.push(0x6666);
            a.push(0x5555);
            a.push(0x4444);
            a.push(0x4000);
            a.push(0x1000);
            a.push((uint)(flags | Rflags.Vm));
            a.push(0x3000);
            a.push(0);
            a.iretd();
        });
        guest.Assemble(16, program, 0);
        var code = new byte[64];
        guest.Memory.TryRead(0, code);
        guest.Write(V86Code, code);
        guest.EnterProtectedMode();
        guest.Vmcs[Vmx.VmcsField.GuestCr4] |= cr4;
        return guest;
    }

    [Fact]
    public void IretEntersAndAnInterruptLeavesWithAllSegments()
    {
        using TestGuest guest = Start(2 | Rflags.Iopl, a =>
        {
            a.mov(ax, ds);
            a.push(ax);
            a.@int(0x80);
        });
        guest.ExpectVector(0x80);
        Assert.Equal(0x5555UL, guest.Rax() & 0xFFFF);
        Assert.Equal(0x5555, guest.Read<ushort>(0x4_0FFE));
        Assert.Equal(0u, guest.State->Ds.Selector);
        Assert.True(guest.State->Ds.Unusable);
        Assert.Equal(0UL, guest.State->SystemFlags & Rflags.Vm);
        uint[] frame = [5, 0x3000, (uint)(2 | Rflags.Iopl | Rflags.Vm), 0x0FFE, 0x4000, 0x4444, 0x5555, 0x6666, 0x7777];
        for (int k = 0; k < frame.Length; k++)
            Assert.Equal(frame[k], guest.Stack32(k));
    }

    [Theory]
    [InlineData(0x80CDu)]
    [InlineData(0xFAu)]
    [InlineData(0xFBu)]
    [InlineData(0x9Cu)]
    [InlineData(0x9Du)]
    [InlineData(0xCFu)]
    public void SensitiveInstructionsFaultBelowIopl3(uint opcode)
    {
        using TestGuest guest = Start(2, a => a.dw((ushort)opcode));
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0u, guest.Stack32(0));
        Assert.Equal(0u, guest.Stack32(1));
        Assert.Equal(0x3000u, guest.Stack32(2));
    }

    [Fact]
    public void GateToAnOuterLevelIsRefusedFromVirtual8086Mode()
    {
        using TestGuest guest = Start(2 | Rflags.Iopl, a => a.@int(0x90));
        guest.SetGate32(0x90, 0x1_1000, TestGuest.UserCode32, 14, 3);
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(TestGuest.UserCode32 & 0xFFFCu, guest.Stack32(0));
    }

    [Fact]
    public void RedirectedInterruptStaysInVirtual8086Mode()
    {
        using TestGuest guest = Start(2, a =>
        {
            a.@int(0x21);
            a.int3();
        }, Cr4.Vme);
        // INT 21 goes to 3000:0010 by the redirection bitmap, which lies below the I/O map at 0x88.
        guest.SetSegment(Seg.Tr, TestGuest.Tss, TestGuest.TssBase, 0x90, 0x8B);
        guest.Write(TestGuest.TssBase + 0x64, [(byte)0, (byte)0, (byte)0x88, (byte)0]);
        guest.Write(TestGuest.TssBase + 0x68, new byte[32]);
        guest.SetGate32(3, SystemGuest.Handlers + 3 * 16, TestGuest.Code32, 14, 3);
        guest.Write(0x21 * 4, [(byte)0x10, (byte)0, (byte)0, (byte)0x30]);
        // STI; PUSHF; POP DX; IRET
        guest.Write(V86Code + 0x10, [(byte)0xFB, (byte)0x9C, (byte)0x5A, (byte)0xCF]);
        guest.ExpectVector(3);
        // The handler saw IF through VIF and IOPL 3; IRET brought back the clear VIF of before.
        Assert.Equal(Rflags.If | Rflags.Iopl, guest.State->Gpr[Gpr.Rdx] & (Rflags.If | Rflags.Iopl));
        Assert.Equal(0u, guest.Stack32(2) & (uint)(Rflags.Vif | Rflags.If | Rflags.Iopl));
        Assert.Equal(3u, guest.Stack32(0));
    }

    [Fact]
    public void StiWithAPendingVirtualInterruptFaults()
    {
        using TestGuest guest = Start(2 | Rflags.Vip, a => a.sti(), Cr4.Vme);
        guest.ExpectVector(Vector.Gp);
    }

    [Fact]
    public void ProtectedModeVirtualInterruptsChangeVif()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.sti();
            a.@int(0x80);
        });
        guest.EnterProtectedMode(cpl: 3);
        guest.Vmcs[Vmx.VmcsField.GuestCr4] |= Cr4.Pvi;
        guest.ExpectVector(0x80);
        Assert.Equal((uint)Rflags.Vif, guest.Stack32(2) & (uint)(Rflags.Vif | Rflags.If));
    }

    [Fact]
    public void RealModeInterruptPushesThreeWordsAndIretReturns()
    {
        using TestGuest guest = new TestGuest().WithRealHandlers();
        guest.Write(0x21 * 4, [(byte)0, (byte)0x80, (byte)0, (byte)0]);
        guest.Assemble(16, a =>
        {
            a.sti();
            a.@int(0x21);
            a.pushf();
            a.pop(di);
            a.@int(0x22);
        }, 0x7C00);
        guest.Assemble(16, a =>
        {
            a.pushf();
            a.pop(si);
            a.mov(cx, sp);
            a.iret();
        }, 0x8000);
        guest.EnterRealMode();
        guest.ExpectVector(0x22);
        Assert.Equal(TestGuest.StackTop - 6, guest.State->Gpr[Gpr.Rcx] & 0xFFFF);
        Assert.Equal(0UL, guest.State->Gpr[Gpr.Rsi] & Rflags.If);
        Assert.NotEqual(0UL, guest.State->Gpr[Gpr.Rdi] & Rflags.If);
        Assert.Equal(0x7C00 + 7, guest.Stack16(0));
        Assert.Equal(0, guest.Stack16(1));
    }

    [Fact]
    public void RealModeFaultsPushNoErrorCode()
    {
        using TestGuest guest = new TestGuest().WithRealHandlers();
        guest.Assemble(16, a => a.mov(ax, __word_ptr[0xFFFF]), 0x7C00);
        guest.EnterRealMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0x7C00, guest.Stack16(0));
        Assert.Equal(TestGuest.StackTop - 6, guest.State->Gpr[Gpr.Rsp] & 0xFFFF);
    }

    [Fact]
    public void RealModeInterruptBeyondTheTableEndsInATripleFaultWithoutATable()
    {
        using TestGuest guest = new TestGuest().WithRealHandlers();
        guest.Assemble(16, a => a.@int(0x21), 0x7C00);
        guest.EnterRealMode();
        guest.Vmcs[Vmx.VmcsField.GuestIdtrLimit] = 0;
        Assert.Equal(Vmx.ExitReason.TripleFault, guest.Run());
    }

    [Fact]
    public void RealModeLoadKeepsTheLimitOfProtectedMode()
    {
        using TestGuest guest = new TestGuest().WithRealHandlers();
        guest.Assemble(16, a =>
        {
            a.mov(ax, 0x1000);
            a.mov(fs, ax);
            a.db(0x67, 0x64, 0x66, 0xA1, 0x00, 0x00, 0x02, 0x00);
            a.hlt();
        }, 0x7C00);
        guest.Write(0x3_0000, [0xCAFEF00DUL]);
        guest.EnterRealMode();
        guest.SetSegment(Seg.Fs, 0, 0, 0xFFFF_FFFF, 0xC093);
        guest.ExpectHalt();
        Assert.Equal(0xCAFEF00DUL, guest.Rax());
    }
}
