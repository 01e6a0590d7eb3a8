using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>The VMX-preemption timer (SDM volume 3, sections 26.5.1 and 27.7.4). The test guest's counter counts instructions.</summary>
public sealed class PreemptionTimerTests : IDisposable
{
    private readonly VmxGuest _guest = new() { Pin = PinControls.PreemptionTimer };

    [Fact]
    public void ItExpiresToTheInstruction()
    {
        _guest[VmcsField.PreemptionTimerValue] = 3;
        Assert.Equal(ExitReason.PreemptionTimer, _guest.Run(Spin));
        Assert.Equal(96UL, _guest.Guest.Cpu.InstructionsRetired);
        Assert.Equal(0UL, _guest[VmcsField.VmExitInterruptionInformation]);
        // It counts as bit 5 of the counter changes, from wherever that stands.
        Assert.Equal(ExitReason.BudgetExhausted, RunWithoutTimer(7));
        _guest.Pin |= PinControls.PreemptionTimer;
        _guest[VmcsField.PreemptionTimerValue] = 1;
        Assert.Equal(ExitReason.PreemptionTimer, _guest.Resume());
        Assert.Equal(128UL, _guest.Guest.Cpu.InstructionsRetired);
    }

    [Fact]
    public void ABudgetThatEndsEarlierIsExactStill()
    {
        _guest[VmcsField.PreemptionTimerValue] = 3;
        Assert.Equal(ExitReason.BudgetExhausted, _guest.Run(Spin, 95));
        Assert.Equal(95UL, _guest.Guest.Cpu.InstructionsRetired);
        Assert.Equal(96UL, _guest.Guest.Cpu.PreemptionTimerDeadline);
    }

    /// <summary>A counter that follows the host's time jumps past the deadline while nobody looks but the guest.</summary>
    [Theory]
    [InlineData("rdtsc", Tier.Interpreter)]
    [InlineData("rdtsc", Tier.Regions)]
    [InlineData("rdtsc", Tier.NativeCode)]
    [InlineData("rdtsc", Tier.NativeRegions)]
    [InlineData("rdtscp", Tier.Interpreter)]
    [InlineData("rdmsr", Tier.Interpreter)]
    public void AGuestThatHasReadTheDeadlineExecutesNothingMore(string instruction, Tier tier)
    {
        using var guest = new VmxGuest(tier: tier) { Pin = PinControls.PreemptionTimer };
        guest.Proc |= ProcControls.UseMsrBitmaps;
        guest.Secondary |= SecondaryControls.EnableRdtscp;
        guest[VmcsField.MsrBitmaps] = 0x3000;
        guest[VmcsField.PreemptionTimerValue] = 3;
        guest.Guest.TimeStamp = retired => retired is >= 500 and < 510 ? 1000UL : 0;
        Assert.Equal(ExitReason.PreemptionTimer, guest.Run(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, 0x10);
            a.Label(ref loop);
            for (int k = 0; k < 503; k++)
                a.nop();
            if (instruction == "rdtsc")
                a.rdtsc();
            else if (instruction == "rdtscp")
                a.rdtscp();
            else
                a.rdmsr();
            a.inc(rbx);
            a.jmp(loop);
        }));
        Assert.Equal(1000UL, guest.Rax);
        Assert.Equal(0UL, guest.Rbx);
        Assert.Equal(505UL, guest.Guest.Cpu.InstructionsRetired);
        Assert.True(tier == Tier.Interpreter || guest.Guest.Translated?.Installed > 0);
    }

    [Fact]
    public void WhatIsLeftIsSavedIfAsked()
    {
        _guest[VmcsField.PreemptionTimerValue] = 3;
        void Program(Assembler a)
        {
            for (int k = 0; k < 40; k++)
                a.nop();
            a.cpuid();
        }
        Assert.Equal(ExitReason.Cpuid, _guest.Run(Program));
        Assert.Equal(3UL, _guest[VmcsField.PreemptionTimerValue]);
        _guest[VmcsField.VmExitControls] |= (ulong)VmExitControls.SavePreemptionTimer;
        _guest[VmcsField.GuestRip] = TestGuest.CodeBase;
        // From 40 to 80 bit 5 changes at 64.
        Assert.Equal(ExitReason.Cpuid, _guest.Run(Program));
        Assert.Equal(2UL, _guest[VmcsField.PreemptionTimerValue]);
    }

    [Fact]
    public void ZeroExitsBeforeTheFirstInstructionButAfterTheInjectedEvent()
    {
        _guest.Guest.WithLongHandlers();
        Assert.Equal(ExitReason.PreemptionTimer, _guest.Run(a => a.hlt()));
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
        _guest.Inject(EventType.HardwareException, Vector.Gp, 0x18);
        Assert.Equal(ExitReason.PreemptionTimer, _guest.Resume());
        Assert.Equal(SystemGuest.Handlers + Vector.Gp * 16, _guest[VmcsField.GuestRip]);
        Assert.Equal(0UL, _guest.Guest.Cpu.InstructionsRetired);
    }

    [Fact]
    public void DebugExceptionsComeFirst()
    {
        _guest.Guest.WithLongHandlers();
        _guest[VmcsField.GuestPendingDebugExceptions] = 0x4000;
        Assert.Equal(ExitReason.PreemptionTimer, _guest.Run(a => a.hlt()));
        Assert.Equal(SystemGuest.Handlers + Vector.Db * 16, _guest[VmcsField.GuestRip]);
    }

    [Theory]
    [InlineData(ActivityState.Hlt, ExitReason.PreemptionTimer)]
    [InlineData(ActivityState.Shutdown, ExitReason.PreemptionTimer)]
    [InlineData(ActivityState.WaitForSipi, ExitReason.BudgetExhausted)]
    public void ItEndsHaltAndShutdownButNotTheWaitForSipi(ActivityState state, ExitReason reason)
    {
        _guest[VmcsField.GuestActivityState] = (ulong)state;
        _guest.Proc |= ProcControls.NmiWindowExiting;
        _guest.Pin |= PinControls.NmiExiting | PinControls.VirtualNmis;
        Assert.Equal(reason, _guest.Resume());
        Assert.Equal((ulong)state, _guest[VmcsField.GuestActivityState]);
    }

    [Fact]
    public void AHaltedGuestLeavesAndTheDeadlineStands()
    {
        _guest.Proc &= ~ProcControls.HltExiting;
        _guest[VmcsField.PreemptionTimerValue] = 5;
        Assert.Equal(ExitReason.BudgetExhausted, _guest.Run(a => a.hlt()));
        Assert.Equal((ulong)ActivityState.Hlt, _guest[VmcsField.GuestActivityState]);
        Assert.Equal(160UL, _guest.Guest.Cpu.PreemptionTimerDeadline);
        _guest.Pin &= ~PinControls.PreemptionTimer;
        _guest.Resume();
        Assert.Equal(ulong.MaxValue, _guest.Guest.Cpu.PreemptionTimerDeadline);
    }

    public void Dispose() => _guest.Dispose();

    private static void Spin(Assembler a)
    {
        Label loop = a.CreateLabel();
        a.Label(ref loop);
        a.nop();
        a.nop();
        a.jmp(loop);
    }

    private ExitReason RunWithoutTimer(long budget)
    {
        _guest.Pin &= ~PinControls.PreemptionTimer;
        return _guest.Resume(budget);
    }
}
