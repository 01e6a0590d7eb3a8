using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>What the processor makes of a VMCS that fails the checks of VM entry (SDM volume 3, sections 27.2 and 27.8).</summary>
public sealed class EntryOutcomeTests : IDisposable
{
    private readonly VmxGuest _guest = new();

    [Fact]
    public void AGoodVmcsEnters()
    {
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        Assert.Null(_guest.Vmcs.FailedRule);
    }

    [Theory]
    [InlineData(VmcsField.Cr3TargetCount, 5UL, 7UL)]
    [InlineData(VmcsField.HostCr4, 0UL, 8UL)]
    public void ControlsAndHostStateFailTheInstruction(VmcsField field, ulong value, ulong error)
    {
        _guest.Vmcs[VmcsField.ExitReason] = 0x1234;
        _guest.Vmcs[field] = value;
        Assert.Equal(ExitReason.VmFailValid, _guest.Run(a => a.hlt()));
        Assert.Equal(error, _guest.Vmcs[VmcsField.VmInstructionError]);
        Assert.Equal(0x1234UL, _guest.Vmcs[VmcsField.ExitReason]);
        Assert.Equal(error, _guest.Vmcs.FailedRule!.InstructionError);
    }

    [Theory]
    [InlineData(VmcsField.GuestRflags, 0UL, 0UL)]
    [InlineData(VmcsField.VmcsLinkPointer, 1UL, 4UL)]
    public void GuestStateFailsTheEntryWithAnExit(VmcsField field, ulong value, ulong qualification)
    {
        _guest.Vmcs[field] = value;
        _guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | 3 << 8 | 6;
        Assert.Equal(ExitReason.InvalidGuestState, _guest.Run(a => a.hlt()));
        Assert.Equal(0x8000_0021UL, _guest.Vmcs[VmcsField.ExitReason]);
        Assert.Equal(qualification, _guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(value, _guest.Vmcs[field]);
        Assert.Equal(1u << 31 | 3 << 8 | 6, _guest.Vmcs.Read32(VmcsField.VmEntryInterruptionInformation));
    }

    [Fact]
    public void UnderTheConfigurationPolicyOnlyAChangeIsChecked()
    {
        Vmcs vmcs = _guest.Vmcs;
        vmcs.EntryChecks = EntryCheckPolicy.Configuration;
        vmcs[VmcsField.GuestPat] = 2;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        vmcs[VmcsField.HostCr4] = 0;
        Assert.Equal(ExitReason.VmFailValid, _guest.Run(a => a.hlt()));
        Assert.Equal(ExitReason.VmFailValid, _guest.Run(a => a.hlt()));
        vmcs[VmcsField.HostCr4] = Cr4.Pae | Cr4.Vmxe;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
    }

    [Fact]
    public void TheEventIsCheckedThoughControlsAreUnchanged()
    {
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        _guest.Inject((EventType)1, 0);
        Assert.Equal(ExitReason.VmFailValid, _guest.Resume());
        Assert.Equal(7UL, _guest.Vmcs[VmcsField.VmInstructionError]);
        _guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = 0;
        _guest.Vmcs[VmcsField.GuestRflags] = 0;
        Assert.Equal(ExitReason.InvalidGuestState, _guest.Resume());
    }

    [Theory]
    [InlineData(VmcsField.GuestTrSelector, 0x24UL)]
    [InlineData(VmcsField.GuestCsAccessRights, 0UL)]
    [InlineData(VmcsField.GuestIdtrLimit, 0x10000UL)]
    [InlineData(VmcsField.GuestIdtrBase, 1UL << 60)]
    [InlineData(VmcsField.GuestEsBase, 1UL << 32)]
    [InlineData(VmcsField.GuestRflags, Rflags.Fixed1 | Rflags.Vm)]
    public void AChangeOfSegmentsAfterAGoodEntryIsNoticed(VmcsField field, ulong value)
    {
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        Assert.Equal(ExitReason.Hlt, _guest.Resume());
        _guest.Vmcs[field] = value;
        Assert.Equal(ExitReason.InvalidGuestState, _guest.Resume());
        Assert.Equal(ExitReason.InvalidGuestState, _guest.Resume());
    }

    /// <summary>A rule that is not looked at for every entry must not depend on what changes without a write of controls or host state.</summary>
    [Fact]
    public void RulesThatLookAtEventsOrMemoryAreLookedAtForEveryEntry()
    {
        IEnumerable<string> rules = EntryChecks.Controls.Where(r => r.PerEntry).Select(r => r.Description);
        Assert.Equal(7, rules.Count());
        Assert.Contains("TPR threshold not above VTPR[7:4]", rules);
        Assert.DoesNotContain(EntryChecks.HostState, r => r.PerEntry);
        Assert.All(EntryChecks.GuestState, r => Assert.True(r.PerEntry));
    }

    [Fact]
    public void UnrestrictedNeedsEptOrMemoryThatIsMappedOntoItself()
    {
        _guest.Secondary = SecondaryControls.UnrestrictedGuest;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        using var other = new VmxGuest(identityMapped: false) { Secondary = SecondaryControls.UnrestrictedGuest };
        Assert.Equal(ExitReason.VmFailValid, other.Run(a => a.hlt()));
    }

    public void Dispose() => _guest.Dispose();
}
