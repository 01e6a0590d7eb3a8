using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>Event injection and pending debug exceptions (SDM volume 3, sections 27.6 and 27.7).</summary>
public sealed class InjectionTests : IDisposable
{
    private readonly VmxGuest _guest = new();

    public InjectionTests() => _guest.Guest.WithLongHandlers();

    private static ulong Handler(uint vector) => SystemGuest.Handlers + vector * 16;

    // What the handler's frame holds, from the error code or RIP on.
    private ulong Stack(int index) => _guest.Guest.Read<ulong>(_guest[VmcsField.GuestRsp] + (ulong)index * 8);

    [Theory]
    [InlineData(EventType.ExternalInterrupt, 0x40u, 0u, 0u)]
    [InlineData(EventType.Nmi, 2u, 0u, 0u)]
    [InlineData(EventType.HardwareException, 6u, 0u, 0u)]
    [InlineData(EventType.SoftwareInterrupt, 0x40u, 2u, 2u)]
    [InlineData(EventType.SoftwareInterrupt, 0x40u, 0u, 0u)]
    [InlineData(EventType.PrivilegedSoftwareException, 1u, 1u, 1u)]
    [InlineData(EventType.SoftwareException, 3u, 1u, 1u)]
    public void TheFrameIsAsInANormalDelivery(EventType type, uint vector, uint length, uint skipped)
    {
        ulong flags = Rflags.Fixed1 | Rflags.If | Rflags.Cf;
        _guest[VmcsField.GuestRflags] = flags;
        _guest.Inject(type, vector, length: length);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(0xE000 + vector, _guest.Rbx);
        Assert.Equal(TestGuest.CodeBase + skipped, Stack(0));
        // RF is not set for an injected fault.
        Assert.Equal(flags, Stack(2));
        Assert.Equal(0UL, _guest[VmcsField.VmEntryInterruptionInformation] >> 31);
        Assert.Equal(0UL, _guest[VmcsField.IdtVectoringInformation]);
    }

    [Fact]
    public unsafe void AnErrorCodeIsPushedAndCr2AndDr6AreLeftAlone()
    {
        _guest.State->Cr2 = 0x1234;
        _guest.Inject(EventType.HardwareException, Vector.Pf, 5);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(5UL, Stack(0));
        Assert.Equal(0x1234UL, _guest.State->Cr2);
        ulong dr6 = _guest.State->Dr6;
        _guest.Inject(EventType.HardwareException, Vector.Db);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(dr6, _guest.State->Dr6);
    }

    [Theory]
    [InlineData(EventType.SoftwareInterrupt, 0x40u, true)]
    [InlineData(EventType.SoftwareException, 3u, true)]
    [InlineData(EventType.PrivilegedSoftwareException, 1u, false)]
    [InlineData(EventType.HardwareException, 3u, false)]
    public void TheGatesPrivilegeLevelCountsForSoftwareEvents(EventType type, uint vector, bool faults)
    {
        _guest.InUserMode();
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        _guest.Inject(type, vector, length: 2);
        ExitReason reason = _guest.Resume();
        Assert.Equal(faults ? ExitReason.ExceptionOrNmi : ExitReason.Hlt, reason);
        if (!faults)
            return;
        Assert.Equal(0x8000_0B0DUL, _guest[VmcsField.VmExitInterruptionInformation]);
        Assert.Equal(vector * 8 + 2, _guest[VmcsField.VmExitInterruptionErrorCode]);
        Assert.Equal(1u << 31 | (uint)type << 8 | vector, _guest.Vmcs.Read32(VmcsField.IdtVectoringInformation));
        Assert.Equal(2UL, _guest[VmcsField.VmExitInstructionLength]);
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
    }

    [Fact]
    public void AnEventThatIsInjectedIsNotIntercepted()
    {
        _guest[VmcsField.ExceptionBitmap] = uint.MaxValue;
        _guest.Pin |= PinControls.NmiExiting;
        _guest.Inject(EventType.HardwareException, Vector.Ud);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        _guest.Inject(EventType.Nmi, Vector.Nmi);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(0xE002UL, _guest.Rbx);
        Assert.Equal(8UL, _guest[VmcsField.GuestInterruptibility]);
    }

    [Fact]
    public void InjectionEndsAHaltAndBlockingBySti()
    {
        _guest[VmcsField.GuestActivityState] = (ulong)ActivityState.Hlt;
        _guest[VmcsField.GuestRflags] |= Rflags.If;
        _guest.Inject(EventType.ExternalInterrupt, 0x40);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal((ulong)ActivityState.Active, _guest[VmcsField.GuestActivityState]);
        Assert.Equal(0xE040UL, _guest.Rbx);
        _guest[VmcsField.GuestRip] = TestGuest.CodeBase;
        _guest[VmcsField.GuestRflags] |= Rflags.If;
        _guest[VmcsField.GuestInterruptibility] = 1;
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Np;
        _guest.Guest.SetGate64(6, 0, TestGuest.Code64, 14, 0, present: false);
        _guest.Inject(EventType.HardwareException, Vector.Ud);
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Resume());
        Assert.Equal(0UL, _guest[VmcsField.GuestInterruptibility]);
    }

    [Fact]
    public void InRealModeTheVectorTableIsUsed()
    {
        _guest.InRealMode();
        _guest.Guest.WithRealHandlers();
        _guest.Inject(EventType.HardwareException, Vector.Gp);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(0xE00DUL, _guest.Rbx & 0xFFFF);
        Assert.Equal(0x7C00, _guest.Guest.Read<ushort>(_guest[VmcsField.GuestRsp]));
    }

    [Fact]
    public void InVirtual8086ModeIoplDoesNotCount()
    {
        _guest.InProtectedMode();
        _guest.Guest.WithProtectedHandlers();
        _guest.Guest.SetGate32(0x40, Handler(0x40), TestGuest.Code32, 14, 3);
        _guest[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.Vm;
        for (int k = Seg.Es; k <= Seg.Gs; k++)
            _guest.Guest.SetSegment(k, 0x1000, 0x1_0000, 0xFFFF, 0xF3);
        _guest[VmcsField.GuestRip] = 0;
        _guest.Inject(EventType.SoftwareInterrupt, 0x40, length: 2);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(0xE040UL, _guest.Rbx);
        Assert.Equal(2u, _guest.Guest.Read<uint>(_guest[VmcsField.GuestRsp]));
    }

    [Theory]
    [InlineData(DebugStatusBits.Enabled | DebugStatusBits.B0, true)]
    [InlineData(DebugStatusBits.SingleStep, true)]
    [InlineData(DebugStatusBits.B0, false)]
    public unsafe void PendingDebugExceptionsComeBeforeTheFirstInstruction(ulong pending, bool delivered)
    {
        _guest[VmcsField.GuestPendingDebugExceptions] = pending;
        _guest[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Db;
        Assert.Equal(delivered ? ExitReason.ExceptionOrNmi : ExitReason.Hlt, _guest.Run(a => a.hlt()));
        Assert.Equal(0UL, _guest[VmcsField.GuestPendingDebugExceptions]);
        if (!delivered)
            return;
        Assert.Equal(pending & ~DebugStatusBits.Enabled, _guest[VmcsField.ExitQualification]);
        // A trap: RF is left as it is.
        Assert.Equal(Rflags.Fixed1, _guest[VmcsField.GuestRflags]);
    }

    [Fact]
    public void BlockingByMovSsHoldsThemForOneInstruction()
    {
        _guest[VmcsField.GuestPendingDebugExceptions] = DebugStatusBits.Enabled | DebugStatusBits.B0;
        _guest[VmcsField.GuestInterruptibility] = 2;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.nop()));
        Assert.Equal(0xE001UL, _guest.Rbx);
        Assert.Equal(TestGuest.CodeBase + 1, Stack(0));
    }

    [Theory]
    [InlineData(EventType.HardwareException, 6u, 0UL, 6u)]
    [InlineData(EventType.SoftwareInterrupt, 0x40u, 0UL, 0x40u)]
    [InlineData(EventType.SoftwareInterrupt, 0x40u, 2UL, 1u)]
    [InlineData(EventType.SoftwareException, 3u, 2UL, 3u)]
    public void AnInjectedEventLosesThemUnlessItIsAnIntBehindAMovSs(EventType type, uint vector, ulong blocking, uint last)
    {
        _guest[VmcsField.GuestPendingDebugExceptions] = DebugStatusBits.Enabled | DebugStatusBits.B0;
        _guest[VmcsField.GuestInterruptibility] = blocking;
        _guest.Inject(type, vector, length: 2);
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        Assert.Equal(0xE000 + last, _guest.Rbx);
        if (last == Vector.Db)
            Assert.Equal(Handler(vector), Stack(0));
    }

    public void Dispose() => _guest.Dispose();
}
