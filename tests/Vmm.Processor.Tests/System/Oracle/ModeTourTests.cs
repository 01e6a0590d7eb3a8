using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on what exceptions push in every mode, and on the changes of mode.</summary>
public sealed class ModeTourTests
{
    [Fact]
    public void TheTourEndsInRealMode() => Assert.StartsWith("7 ", RunOurs(ModeTour.Rules.None)[^1]);

    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs() =>
        Compare(ModeTour.Rules.None, disk => ReferencePc.RunBochs(disk, "corei7_sandy_bridge_2600k", ModeTour.Columns), _ => { });

    /// <summary>
    /// QEMU 7.2's translator knows neither segment limits and null segments, INT1, all canonical checks, the order of mode changes,
    /// nor two checks of reserved bits: that much is left out. Of the rest it differs in three: RFLAGS is pushed with RF clear (SDM volume 3, section
    /// 18.3.1.1: faults set it); in IA-32e mode the error code for a gate has the vector times two (section 6.13: the index of the
    /// gate); and a switch to an IST stack without a change of level loads SS with null (section 6.14.4: only a change does).
    /// </summary>
    [RequiresPackageFact("qemu-system-x86")]
    public void AgreesWithQemu()
    {
        const ModeTour.Rules unknown = ModeTour.Rules.SegmentLimits | ModeTour.Rules.Int1 | ModeTour.Rules.CanonicalAddresses
            | ModeTour.Rules.ModeChanges | ModeTour.Rules.ReservedBits;
        Compare(unknown, disk => ReferencePc.RunQemu(disk, ModeTour.Columns), columns =>
        {
            if (columns[ColumnMode] > 7)
                return;
            columns[ColumnFlags] &= ~Rflags.Rf;
            if (columns[ColumnMode] is < 3 or > 5)
                return;
            if (columns[ColumnVector] is 11 or 13 && (columns[ColumnError] & 2) != 0)
                columns[ColumnError] &= 7;
            if (columns[ColumnVector] is 0 or 3 or 12 && (columns[ColumnCs] & 3) == 0)
                columns[ColumnStackSegment] = 0;
        });
    }

    private const int ColumnMode = 0, ColumnVector = 1, ColumnError = 2, ColumnCs = 4, ColumnFlags = 5, ColumnStackSegment = 9;

    private static void Compare(ModeTour.Rules omitted, Func<byte[], string[]> judge, Action<ulong[]> reconcile)
    {
        string[] ours = RunOurs(omitted), theirs = judge(ReferencePc.BuildDisk(new ModeTour(omitted).Build(), ModeTour.Origin));
        Assert.Equal(ours.Length, theirs.Length);
        ReferencePc.AssertAgreement(ours, ours, theirs, (_, columns) => reconcile(columns));
    }

    private static unsafe string[] RunOurs(ModeTour.Rules omitted)
    {
        using var guest = new TestGuest(16 << 20);
        guest.Write(ModeTour.Origin, new ModeTour(omitted).Build());
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
