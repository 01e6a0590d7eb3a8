using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>Interrupts, exceptions and returns in IA-32e mode (SDM volume 3, section 6.14).</summary>
public sealed unsafe class LongModeEventTests
{
    [Fact]
    public void BreakpointPushesFiveWordsOnAnAlignedStack()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(3, SystemGuest.Handlers + 3 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(64, a =>
        {
            a.sub(rsp, 8);
            a.int3();
        });
        guest.EnterLongMode();
        guest.ExpectVector(3);
        Assert.Equal(TestGuest.CodeBase + 5, guest.Stack64(0));
        Assert.Equal(TestGuest.Code64, guest.Stack64(1));
        Assert.Equal(2UL, guest.Stack64(2) & ~Rflags.Arithmetic);
        Assert.Equal(TestGuest.StackTop - 8, guest.Stack64(3));
        Assert.Equal(TestGuest.Data, guest.Stack64(4));
        Assert.Equal(TestGuest.StackTop - 16 - 40, guest.State->Gpr[Gpr.Rsp]);
    }

    [Fact]
    public void PageFaultSetsCr2AndPushesItsErrorCodeWithRfInTheImage()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.mov(__byte_ptr[0x7F_FFFF_F000], al));
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Pf);
        Assert.Equal(0x7F_FFFF_F000UL, guest.State->Cr2);
        Assert.Equal(2UL, guest.Stack64(0));
        Assert.Equal(TestGuest.CodeBase, guest.Stack64(1));
        Assert.NotEqual(0UL, guest.Stack64(3) & Rflags.Rf);
    }

    [Fact]
    public void InterceptedPageFaultExitsAndLeavesCr2()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.mov(__byte_ptr[0x7F_FFFF_F000], al));
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Pf;
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run());
        Assert.Equal(0x7F_FFFF_F000UL, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(1u << 31 | 1u << 11 | 3 << 8 | Vector.Pf, guest.Vmcs.Read32(VmcsField.VmExitInterruptionInformation));
        Assert.Equal(2UL, guest.Vmcs[VmcsField.VmExitInterruptionErrorCode]);
        Assert.Equal(0UL, guest.State->Cr2);
        Assert.Equal(TestGuest.CodeBase, guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void PageFaultMaskAndMatchInvertTheBitmap()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.mov(__byte_ptr[0x7F_FFFF_F000], al));
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Pf;
        guest.Vmcs[VmcsField.PageFaultErrorCodeMask] = 2;
        guest.ExpectVector(Vector.Pf);
    }

    [Fact]
    public void UserInterruptSwitchesToTheInnerStackWithANullSelector()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code64, 15, 3);
        guest.Assemble(64, a => a.@int(0x80));
        guest.EnterLongMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(0, guest.State->Cpl);
        Assert.Equal(0, guest.State->Ss.Selector);
        Assert.Equal(SystemGuest.InnerStack - 40, guest.State->Gpr[Gpr.Rsp]);
        Assert.Equal(TestGuest.CodeBase + 2, guest.Stack64(0));
        Assert.Equal(TestGuest.UserCode64, guest.Stack64(1));
        Assert.Equal(TestGuest.UserData, guest.Stack64(4));
    }

    [Fact]
    public void SoftwareInterruptThroughASupervisorGateIsGeneralProtectionWithTheGateAsErrorCode()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.@int(0x80));
        guest.EnterLongMode(cpl: 3);
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0x80UL * 8 + 2, guest.Stack64(0));
        Assert.Equal(TestGuest.CodeBase, guest.Stack64(1));
    }

    [Fact]
    public void InterruptStackTableReplacesTheStackWithoutAChangeOfLevel()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(Vector.Ud, SystemGuest.Handlers + Vector.Ud * 16, TestGuest.Code64, 14, 0, table: 1);
        guest.Assemble(64, a => a.ud2());
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Ud);
        Assert.Equal(SystemGuest.TableStack - 40, guest.State->Gpr[Gpr.Rsp]);
        Assert.Equal(TestGuest.Data, guest.State->Ss.Selector);
    }

    [Fact]
    public void IretqGoesToUserModeAndBackByInterrupt()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(64, a =>
        {
            a.push(TestGuest.UserData);
            a.push(0x7000);
            a.push(0x202);
            a.push(TestGuest.UserCode64);
            a.mov(rax, 0x1_1000L);
            a.push(rax);
            a.iretq();
        });
        guest.Assemble(64, a =>
        {
            a.mov(eax, cs);
            a.@int(0x80);
        }, 0x1_1000);
        guest.EnterLongMode();
        guest.ExpectVector(0x80);
        Assert.Equal(TestGuest.UserCode64, guest.Rax());
        Assert.Equal(0x7000UL, guest.Stack64(3));
        Assert.Equal(0x202UL, guest.Stack64(2));
    }

    [Fact]
    public void SyscallAndSysretExchangeRipAndFlags()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.mov(rsi, 1L);
            a.syscall();
            a.@int3();
        });
        guest.SetGate64(3, SystemGuest.Handlers + 3 * 16, TestGuest.Code64, 14, 3);
        guest.Assemble(64, a =>
        {
            a.mov(rdi, rsp);
            a.mov(r8d, ss);
            a.mov(r9d, cs);
            a.pushfq();
            a.pop(r10);
            a.sysretq();
        }, 0x1_1000);
        guest.EnterLongMode(cpl: 3);
        guest.Vmcs[VmcsField.GuestRflags] = 2 | Rflags.If;
        guest.State->Lstar = 0x1_1000;
        guest.State->Star = 0x0023_0008UL << 32;
        guest.State->Fmask = Rflags.If | Rflags.Tf;
        guest.ExpectVector(3);
        Assert.Equal(0x10UL, guest.State->Gpr[8]);
        Assert.Equal(0x08UL, guest.State->Gpr[9]);
        Assert.Equal(0UL, guest.State->Gpr[10] & Rflags.If);
        Assert.Equal(0x33UL, guest.Stack64(1));
        Assert.Equal(0x2BUL, guest.Stack64(4));
        Assert.NotEqual(0UL, guest.Stack64(2) & Rflags.If);
    }

    [Fact]
    public void FaultWhileDeliveringAPageFaultIsADoubleFault()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(Vector.Pf, SystemGuest.Handlers, TestGuest.Code64, 14, 0, present: false);
        guest.Assemble(64, a => a.mov(__byte_ptr[0x7F_FFFF_F000], al));
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Df);
        Assert.Equal(0UL, guest.Stack64(0));
        Assert.Equal(TestGuest.CodeBase, guest.Stack64(1));
    }

    [Fact]
    public void FaultWhileDeliveringADoubleFaultIsATripleFault()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.ud2());
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.GuestIdtrLimit] = 0;
        Assert.Equal(ExitReason.TripleFault, guest.Run());
    }

    [Fact]
    public void ExitDuringDeliveryRecordsTheEventThatWasBeingDelivered()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.SetGate64(Vector.Ud, SystemGuest.Handlers, TestGuest.Code64, 14, 0, present: false);
        guest.Assemble(64, a => a.ud2());
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Np;
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run());
        Assert.Equal(1u << 31 | 1u << 11 | 3 << 8 | Vector.Np, guest.Vmcs.Read32(VmcsField.VmExitInterruptionInformation));
        Assert.Equal(Vector.Ud * 8UL + 3, guest.Vmcs[VmcsField.VmExitInterruptionErrorCode]);
        Assert.Equal(1u << 31 | 3 << 8 | Vector.Ud, guest.Vmcs.Read32(VmcsField.IdtVectoringInformation));
    }

    [Fact]
    public void InjectedExceptionIsNotIntercepted()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a => a.nop());
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ExceptionBitmap] = uint.MaxValue;
        guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | 1u << 11 | 3 << 8 | Vector.Gp;
        guest.Vmcs[VmcsField.VmEntryExceptionErrorCode] = 0x1234;
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0x1234UL, guest.Stack64(0));
    }

    [Fact]
    public void SingleStepTrapsAfterEachInstructionAndInterruptsClearTf()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.pushfq();
            a.or(__qword_ptr[rsp], 0x100);
            a.popfq();
            a.nop();
            a.nop();
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Db);
        Assert.NotEqual(0UL, guest.State->Dr6 & (1 << 14));
        Assert.NotEqual(0UL, guest.Stack64(2) & Rflags.Tf);
        Assert.Equal(0UL, guest.State->SystemFlags & Rflags.Tf);
        // The trap follows the instruction after POPF.
        Assert.Equal(TestGuest.CodeBase + 1 + 8 + 1 + 1, guest.Stack64(0));
    }
}
