using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// Our processor and Debian's Bochs agree on what exceptions push in every mode, and on the changes of mode. QEMU 7.2's translator
/// is no reference here: it does without segment limits, INT1, and the checks of canonical jumps and of WRMSR, and differs in 115
/// of 249 lines.
/// </summary>
public sealed class ModeTourTests
{
    [Fact]
    public void TheTourEndsInRealMode() => Assert.StartsWith("7 ", RunOurs()[^1]);

    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs()
    {
        string[] ours = RunOurs();
        string[] theirs = ReferencePc.RunBochs(ReferencePc.BuildDisk(ModeTour.Build(), ModeTour.Origin), "corei7_sandy_bridge_2600k", ModeTour.Columns);
        Assert.Equal(ours.Length, theirs.Length);
        ReferencePc.AssertAgreement(ours, ours, theirs, (_, _) => { });
    }

    private static unsafe string[] RunOurs()
    {
        using var guest = new TestGuest(16 << 20);
        guest.Write(ModeTour.Origin, ModeTour.Build());
        guest.EnterProtectedMode(ModeTour.Origin);
        // A bitmap of zeros, in memory that the guest leaves alone: no MSR access exits.
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = 0x50_0000;
        ExitReason reason;
        do
            reason = guest.Run(1_000_000);
        while (reason == ExitReason.BudgetExhausted);
        string[] lines = ReferencePc.Lines(guest.Bus.Console(), ModeTour.Columns);
        Assert.True(reason == ExitReason.Hlt, $"{reason} at {guest.State->Rip:x} after {lines.Length} lines");
        return lines;
    }
}
