using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>The rule list of VM entry (SDM volume 3, sections 27.2.1 to 27.3.1).</summary>
public sealed class EntryCheckTests
{
    private static IEnumerable<EntryRule> Rules => [.. EntryChecks.Controls, .. EntryChecks.HostState, .. EntryChecks.GuestState];

    public static TheoryData<string> RuleNames => [.. Rules.Select(r => r.ToString())];

    [Theory]
    [MemberData(nameof(RuleNames))]
    public void AVmcsThatViolatesOneRuleIsRefusedByThatRuleAlone(string name)
    {
        (Func<EntryCase> valid, Action<EntryCase> spoil) = EntryViolations.All[name];
        using EntryCase c = valid();
        Assert.Null(EntryChecks.FirstViolation(c.Subject));
        spoil(c);
        EntrySubject subject = c.Subject;
        Assert.Equal([name], Rules.Where(r => !r.Holds(subject)).Select(r => r.ToString()));
        Assert.Equal(name, EntryChecks.FirstViolation(subject)!.ToString());
    }

    [Fact]
    public void NoViolationIsForARuleThatDoesNotExist() =>
        Assert.Equal(Rules.Select(r => r.ToString()).Order(), EntryViolations.All.Keys.Order());

    [Fact]
    public void OutcomesAreTheManuals()
    {
        Assert.All(EntryChecks.Controls, r => Assert.Equal((7u, 0u), (r.InstructionError, r.FailureExitReason)));
        Assert.All(EntryChecks.HostState, r => Assert.Equal((8u, 0u), (r.InstructionError, r.FailureExitReason)));
        Assert.All(EntryChecks.GuestState, r => Assert.Equal((0u, 0x8000_0021u), (r.InstructionError, r.FailureExitReason)));
        Assert.Equal(["27.3.1.5", "27.3.1.5", "27.3.1.5", "27.3.1.5", "27.3.1.6", "27.3.1.6", "27.3.1.6", "27.3.1.6"],
            Rules.Where(r => r.Qualification != 0).Select(r => r.Section));
        Assert.Equal([3u, 4u, 4u, 4u, 2u, 2u, 2u, 2u], Rules.Where(r => r.Qualification != 0).Select(r => r.Qualification));
    }

    [Fact]
    public void ControlsComeBeforeHostStateAndHostStateBeforeGuestState()
    {
        using EntryCase c = EntryCase.Long();
        c[VmcsField.GuestRflags] = 0;
        Assert.Equal(EntryCheckGroup.GuestState, EntryChecks.FirstViolation(c.Subject)!.Group);
        c[VmcsField.HostCr0] = 0;
        Assert.Equal(EntryCheckGroup.HostState, EntryChecks.FirstViolation(c.Subject)!.Group);
        c[VmcsField.VirtualProcessorId] = 0;
        Assert.Equal(EntryCheckGroup.Controls, EntryChecks.FirstViolation(c.Subject)!.Group);
    }

    [Fact]
    public void WhatOneCapabilitySetAllowsARestrictedOneRefuses()
    {
        using EntryCase c = EntryCase.Real();
        Assert.Null(EntryChecks.FirstViolation(c.Subject));
        Assert.True(c.Capabilities.TryRead(VmxMsr.ProcBased2, out ulong value));
        c.Restrict(VmxMsr.ProcBased2, value & ~((ulong)SecondaryControls.UnrestrictedGuest << 32));
        Assert.Equal("27.2.1.1: secondary processor-based controls as IA32_VMX_PROCBASED_CTLS2 allows", EntryChecks.FirstViolation(c.Subject)!.ToString());
    }

    [Theory]
    [InlineData(0x1E1UL | 1UL << 2, 2u)]
    [InlineData(0x1000UL | 1, 0u)]
    [InlineData(0x1E0UL, 0u)]
    public void WithoutEptThePdptesAreReadFromMemory(ulong entry, uint qualification)
    {
        using EntryCase c = EntryCase.Pae();
        c.Secondary &= ~SecondaryControls.EnableEpt;
        c[VmcsField.GuestCr3] = 0x2_0020;
        c.Write(0x2_0038, entry);
        Assert.Equal(qualification, EntryChecks.FirstViolation(c.Subject)?.Qualification ?? 0);
    }

    [Theory]
    [InlineData(false, 13u, true, true)]
    [InlineData(false, 13u, false, false)]
    [InlineData(false, 6u, true, false)]
    [InlineData(true, 13u, false, true)]
    [InlineData(true, 6u, true, true)]
    public void Bit56OfBasicFreesTheErrorCodeFromTheVector(bool free, uint vector, bool delivered, bool good)
    {
        using EntryCase c = EntryCase.Long();
        if (!free)
        {
            Assert.True(c.Capabilities.TryRead(VmxMsr.Basic, out ulong basic));
            c.Restrict(VmxMsr.Basic, basic & ~(1UL << 56));
        }
        c.Inject(EventType.HardwareException, vector, delivered ? 1u << 11 : 0);
        Assert.Equal(good, EntryChecks.FirstViolation(c.Subject) is null);
    }

    [Fact]
    public void PassingAllocatesNothing()
    {
        using EntryCase c = EntryCase.Long();
        EntrySubject subject = c.Subject;
        Assert.Null(EntryChecks.FirstViolation(subject));
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int k = 0; k < 100; k++)
            EntryChecks.FirstViolation(subject);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }
}
