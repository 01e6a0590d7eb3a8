using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>Instructions that exit where a control says so, and what is saved with the exit (SDM volume 3, sections 26.1, 26.3 and 28.3).</summary>
public sealed unsafe class ControlTests : IDisposable
{
    private readonly VmxGuest _guest = new();

    [Theory]
    [InlineData(0, ExitReason.ExceptionOrNmi, true)]
    [InlineData(1, ExitReason.Cpuid, false)]
    [InlineData(2, ExitReason.ExceptionOrNmi, false)]
    public void RfIsSavedForFaultsOnly(int what, ExitReason reason, bool resume)
    {
        _guest[VmcsField.ExceptionBitmap] = uint.MaxValue;
        _guest[VmcsField.GuestRflags] |= Rflags.Rf;
        Assert.Equal(reason, _guest.Run(a =>
        {
            if (what == 0)
                a.ud2();
            else if (what == 1)
                a.cpuid();
            else
                a.int3();
        }));
        Assert.Equal(resume, (_guest[VmcsField.GuestRflags] & Rflags.Rf) != 0);
    }

    [Fact]
    public void ADataBreakpointBehindAMovSsIsSavedAsPending()
    {
        _guest.State->Dr[0] = 0x8_0000;
        _guest[VmcsField.GuestDr7] = 0x400 | 1 | 3 << 16;
        _guest.Guest.Write(0x8_0000, [(ulong)TestGuest.Data]);
        Assert.Equal(ExitReason.Cpuid, _guest.Run(a =>
        {
            a.mov(ss, __word_ptr[0x8_0000]);
            a.cpuid();
        }));
        Assert.Equal(DebugStatusBits.Enabled | DebugStatusBits.B0, _guest[VmcsField.GuestPendingDebugExceptions]);
        Assert.Equal(2UL, _guest[VmcsField.GuestInterruptibility]);
    }

    [Fact]
    public void TheSingleStepOfAMovSsIsSavedAsPending()
    {
        _guest[VmcsField.GuestRflags] |= Rflags.Tf;
        _guest.Rax = TestGuest.Data;
        Assert.Equal(ExitReason.Cpuid, _guest.Run(a =>
        {
            a.mov(ss, eax);
            a.cpuid();
        }));
        Assert.Equal(DebugStatusBits.SingleStep, _guest[VmcsField.GuestPendingDebugExceptions]);
        Assert.Equal(2UL, _guest[VmcsField.GuestInterruptibility]);
        Assert.Equal(ExitReason.Cpuid, _guest.Resume());
    }

    [Fact]
    public void WithBtfAStepGoesToTheNextTakenBranch()
    {
        _guest[VmcsField.GuestRflags] |= Rflags.Tf;
        _guest[VmcsField.GuestDebugCtl] = 2;
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Db;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a =>
        {
            Label target = a.CreateLabel(), over = a.CreateLabel();
            a.xor(eax, eax);
            a.jne(over);
            a.jmp(target);
            a.Label(ref over);
            a.hlt();
            a.Label(ref target);
            a.hlt();
        }));
        Assert.Equal(TestGuest.CodeBase + 7, _guest[VmcsField.GuestRip]);
        Assert.Equal(DebugStatusBits.SingleStep, _guest[VmcsField.ExitQualification]);
        // The exit leaves IA32_DEBUGCTL alone.
        Assert.Equal(2UL, _guest[VmcsField.GuestDebugCtl]);
    }

    [Fact]
    public void MovDrExitsBeforeItFaults()
    {
        _guest.InUserMode();
        _guest.Proc |= ProcControls.MovDrExiting;
        _guest[VmcsField.GuestCr4] |= Cr4.De;
        // MOV DR4, RBX: neither the privilege level nor CR4.DE comes first.
        Assert.Equal(ExitReason.MovDr, _guest.Run(a => a.db(0x0F, 0x23, 0xE3)));
        Assert.Equal(0x304UL, _guest[VmcsField.ExitQualification]);
    }

    [Fact]
    public void TheFixedBitsOfCr0Stay()
    {
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        _guest.Rax = Cr0.Pe | Cr0.Pg | Cr0.Et;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a => a.mov(cr0, rax)));
        Assert.Equal(0x8000_0B0DUL, _guest[VmcsField.VmExitInterruptionInformation]);
        // A bit that the host owns is not looked at.
        _guest[VmcsField.Cr0Mask] = Cr0.Ne;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.mov(cr0, rax);
            a.hlt();
        }));
        Assert.NotEqual(0UL, _guest[VmcsField.GuestCr0] & Cr0.Ne);
    }

    [Theory]
    [InlineData(10u, 100u, 0, true)]
    [InlineData(1u, 100u, 0, false)]
    [InlineData(10u, 100u, 3, false)]
    [InlineData(10u, 1_000_000u, 0, false)]
    public void APauseLoopExitsOnceItLastsLongerThanTheWindow(uint gap, uint window, int cpl, bool exits)
    {
        if (cpl == 3)
            _guest.InUserMode();
        _guest.Secondary = SecondaryControls.PauseLoopExiting;
        _guest[VmcsField.PleGap] = gap;
        _guest[VmcsField.PleWindow] = window;
        ExitReason reason = _guest.Run(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.pause();
            a.nop();
            a.jmp(loop);
        }, 10_000);
        Assert.Equal(exits ? ExitReason.Pause : ExitReason.BudgetExhausted, reason);
        // The first PAUSE after more than 100 instructions from the first one: that of the 35th round.
        if (exits)
            Assert.Equal(102UL, _guest.Guest.Cpu.InstructionsRetired);
    }

    [Fact]
    public void MonitorAndMwaitExitOrPass()
    {
        static void Program(Assembler a)
        {
            a.mov(eax, 0x8_0000);
            a.xor(ecx, ecx);
            a.monitor();
            a.mwait();
            a.hlt();
        }
        Assert.Equal(ExitReason.Hlt, _guest.Run(Program));
        _guest.Proc |= ProcControls.MwaitExiting;
        _guest[VmcsField.GuestRip] = TestGuest.CodeBase;
        Assert.Equal(ExitReason.Mwait, _guest.Run(Program));
        Assert.Equal(1UL, _guest[VmcsField.ExitQualification]);
        _guest.Proc |= ProcControls.MonitorExiting;
        _guest[VmcsField.GuestRip] = TestGuest.CodeBase;
        Assert.Equal(ExitReason.Monitor, _guest.Run(Program));
        Assert.Equal(ExitReason.Mwait, _guest.Skip());
        Assert.Equal(0UL, _guest[VmcsField.ExitQualification]);
    }

    [Theory]
    [InlineData(true, (int)Vector.Ud)]
    [InlineData(false, (int)Vector.Gp)]
    public void MonitorFaults(bool user, int vector)
    {
        if (user)
            _guest.InUserMode();
        _guest.Proc |= user ? ProcControls.MonitorExiting : 0;
        _guest[VmcsField.ExceptionBitmap] = 1u << vector;
        _guest.State->Gpr[Gpr.Rcx] = 1;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a => a.monitor()));
    }

    [Fact]
    public void UserWaitsNeedTheirControlAndExitWithRdtsc()
    {
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Ud;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a => a.tpause(ebx)));
        _guest.Secondary = SecondaryControls.UserWaitPause;
        _guest[VmcsField.GuestRflags] |= Rflags.Cf;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.mov(eax, 0x8_0000);
            a.umonitor(rax);
            a.umwait(ebx);
            a.tpause(ebx);
            a.hlt();
        }));
        Assert.Equal(Rflags.Fixed1, _guest[VmcsField.GuestRflags] & Rflags.Arithmetic | Rflags.Fixed1);
        _guest.Proc |= ProcControls.RdtscExiting;
        Assert.Equal(ExitReason.Umwait, _guest.Run(a => a.umwait(edi)));
        Assert.Equal((ulong)Gpr.Rdi << 3, _guest[VmcsField.VmExitInstructionInformation]);
        Assert.Equal(ExitReason.Tpause, _guest.Run(a => a.tpause(edi)));
    }

    [Fact]
    public void RdmsrOfTheTimeStampCounterIsOffsetAndScaled()
    {
        _guest.Proc |= ProcControls.UseMsrBitmaps | ProcControls.TscOffsetting;
        _guest.Secondary = SecondaryControls.TscScaling;
        _guest[VmcsField.MsrBitmaps] = 0x9_0000;
        _guest[VmcsField.TscOffset] = 1000;
        _guest[VmcsField.TscMultiplier] = 3UL << 48;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.mov(ecx, 0x10);
            a.rdmsr();
            a.hlt();
        }));
        Assert.Equal(1003UL, _guest.Rax);
    }

    public void Dispose() => _guest.Dispose();
}
