using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>Interrupt-window and NMI-window exiting, and virtual NMIs (SDM volume 3, sections 26.2 and 27.7.5 to 27.7.6).</summary>
public sealed class WindowTests : IDisposable
{
    private readonly VmxGuest _guest = new() { Pin = PinControls.NmiExiting | PinControls.VirtualNmis };

    public WindowTests() => _guest.Guest.WithLongHandlers();

    [Fact]
    public void TheInterruptWindowOpensBehindTheShadowOfSti()
    {
        _guest.Proc |= ProcControls.InterruptWindowExiting;
        Assert.Equal(ExitReason.InterruptWindow, _guest.Run(a =>
        {
            a.sti();
            a.nop();
            a.hlt();
        }));
        Assert.Equal(TestGuest.CodeBase + 2, _guest[VmcsField.GuestRip]);
        Assert.Equal(0UL, _guest[VmcsField.GuestInterruptibility]);
        Assert.Equal(ExitReason.InterruptWindow, _guest.Resume());
        Assert.Equal(TestGuest.CodeBase + 2, _guest[VmcsField.GuestRip]);
    }

    [Theory]
    [InlineData(ActivityState.Hlt, ProcControls.InterruptWindowExiting, ExitReason.InterruptWindow)]
    [InlineData(ActivityState.Shutdown, ProcControls.InterruptWindowExiting, ExitReason.BudgetExhausted)]
    [InlineData(ActivityState.WaitForSipi, ProcControls.InterruptWindowExiting, ExitReason.BudgetExhausted)]
    [InlineData(ActivityState.Hlt, ProcControls.NmiWindowExiting, ExitReason.NmiWindow)]
    [InlineData(ActivityState.Shutdown, ProcControls.NmiWindowExiting, ExitReason.NmiWindow)]
    [InlineData(ActivityState.WaitForSipi, ProcControls.NmiWindowExiting, ExitReason.BudgetExhausted)]
    [InlineData(ActivityState.Active, ProcControls.NmiWindowExiting | ProcControls.InterruptWindowExiting, ExitReason.NmiWindow)]
    public void WindowsEndInactiveStates(ActivityState state, ProcControls windows, ExitReason reason)
    {
        _guest.Proc |= windows;
        _guest[VmcsField.GuestRflags] |= Rflags.If;
        _guest[VmcsField.GuestActivityState] = (ulong)state;
        Assert.Equal(reason, _guest.Resume());
        Assert.Equal((ulong)state, _guest[VmcsField.GuestActivityState]);
        Assert.Equal(0UL, _guest.Guest.Cpu.InstructionsRetired);
    }

    [Fact]
    public void TheNmiWindowOpensWithIret()
    {
        _guest.Proc |= ProcControls.NmiWindowExiting;
        _guest.Guest.Assemble(64, a => a.iretq(), 0x3_0000);
        _guest.Guest.SetGate64(Vector.Nmi, 0x3_0000, TestGuest.Code64, 14, 0);
        _guest.Inject(EventType.Nmi, Vector.Nmi);
        Assert.Equal(ExitReason.NmiWindow, _guest.Run(a => a.hlt()));
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
        Assert.Equal(1UL, _guest.Guest.Cpu.InstructionsRetired);
        Assert.Equal(0UL, _guest[VmcsField.GuestInterruptibility]);
    }

    [Theory]
    [InlineData(PinControls.NmiExiting | PinControls.VirtualNmis, 0UL)]
    [InlineData(PinControls.NmiExiting, 8UL)]
    [InlineData((PinControls)0, 0UL)]
    public void IretUnblocksNmisUnlessTheyExitAndAreNotVirtual(PinControls pin, ulong blocking)
    {
        _guest.Pin = pin;
        _guest[VmcsField.GuestInterruptibility] = 8;
        _guest.Guest.Write(TestGuest.StackTop, [TestGuest.CodeBase + 2, TestGuest.Code64, 2, TestGuest.StackTop, TestGuest.Data]);
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.iretq();
            a.hlt();
        }));
        Assert.Equal(blocking, _guest[VmcsField.GuestInterruptibility]);
    }

    [Fact]
    public void AFaultOfIretTellsThatNmisAreUnblocked()
    {
        _guest[VmcsField.GuestInterruptibility] = 8;
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        _guest.Guest.Write(TestGuest.StackTop, [TestGuest.CodeBase, 0, 2, TestGuest.StackTop, TestGuest.Data]);
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a => a.iretq()));
        Assert.Equal(0x8000_1B0DUL, _guest[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal(0UL, _guest[VmcsField.GuestInterruptibility]);
        // Without blocking before there is nothing to tell.
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Resume());
        Assert.Equal(0x8000_0B0DUL, _guest[VmcsField.VmExitInterruptionInformation]);
    }

    public void Dispose() => _guest.Dispose();
}
