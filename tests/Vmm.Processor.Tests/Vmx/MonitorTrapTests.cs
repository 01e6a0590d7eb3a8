using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>The monitor trap flag (SDM volume 3, section 26.5.2).</summary>
public sealed class MonitorTrapTests : IDisposable
{
    private readonly VmxGuest _guest = new() { Proc = ProcControls.MonitorTrapFlag | ProcControls.HltExiting };

    public MonitorTrapTests() => _guest.Guest.WithLongHandlers();

    [Fact]
    public void ItFollowsOneInstruction()
    {
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a =>
        {
            a.nop();
            a.inc(rax);
            a.hlt();
        }));
        Assert.Equal(TestGuest.CodeBase + 1, _guest[VmcsField.GuestRip]);
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Resume(1));
        Assert.Equal(TestGuest.CodeBase + 4, _guest[VmcsField.GuestRip]);
        // An instruction that exits has no trap behind it.
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
    }

    [Fact]
    public unsafe void ItFollowsOneIteration()
    {
        _guest.State->Gpr[Gpr.Rcx] = 5;
        _guest.State->Gpr[Gpr.Rdi] = 0x8_0000;
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a =>
        {
            a.rep.stosb();
            a.hlt();
        }));
        Assert.Equal(4UL, _guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
        for (int k = 0; k < 4; k++)
            Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Resume());
        Assert.Equal(TestGuest.CodeBase + 2, _guest[VmcsField.GuestRip]);
    }

    [Fact]
    public void ItFollowsTheDeliveryOfAnEvent()
    {
        _guest.Inject(EventType.HardwareException, Vector.Ud);
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a => a.ud2()));
        Assert.Equal(SystemGuest.Handlers + Vector.Ud * 16, _guest[VmcsField.GuestRip]);
        Assert.Equal(0UL, _guest.Guest.Cpu.InstructionsRetired);
        // So it does where the instruction faults.
        _guest[VmcsField.GuestRip] = TestGuest.CodeBase;
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a => a.ud2()));
        Assert.Equal(SystemGuest.Handlers + Vector.Ud * 16, _guest[VmcsField.GuestRip]);
    }

    [Fact]
    public void APendingOneNeedsNoControl()
    {
        _guest.Proc &= ~ProcControls.MonitorTrapFlag;
        _guest.Inject(EventType.Other, 0);
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a => a.hlt()));
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
        Assert.Equal(0UL, _guest[VmcsField.VmEntryInterruptionInformation] >> 31);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
    }

    [Fact]
    public void ItComesBeforeASingleStepWhichStaysPending()
    {
        _guest[VmcsField.GuestRflags] |= Rflags.Tf;
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a => a.nop()));
        Assert.Equal(DebugStatusBits.SingleStep, _guest[VmcsField.GuestPendingDebugExceptions]);
        // The exception is delivered before another instruction, and the trap follows that.
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Resume());
        Assert.Equal(SystemGuest.Handlers + Vector.Db * 16, _guest[VmcsField.GuestRip]);
    }

    [Fact]
    public void ItFollowsAHaltWithTheProcessorHalted()
    {
        _guest.Proc &= ~ProcControls.HltExiting;
        Assert.Equal(ExitReason.MonitorTrapFlag, _guest.Run(a => a.hlt()));
        Assert.Equal((ulong)ActivityState.Hlt, _guest[VmcsField.GuestActivityState]);
    }

    public void Dispose() => _guest.Dispose();
}

/// <summary>The pending-debug-exception field's bits (SDM volume 3, table 25-4).</summary>
internal static class DebugStatusBits
{
    public const ulong B0 = 1, Enabled = 1 << 12, SingleStep = 1 << 14;
}
