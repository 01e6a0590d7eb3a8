using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on which access every kind of page-table entry allows.</summary>
public sealed class PageWalkMatrixTests
{
    [Fact]
    public void EveryTrialComesToAnEnd() => Assert.Equal(PageWalkMatrix.Trials.Count, RunOurs().Length);

    /// <summary>The guest does turn on what it tries: each setting changes the outcome of some trials. Settings vary fastest.</summary>
    [Fact]
    public void EverySettingMatters()
    {
        string[] lines = RunOurs();
        for (int setting = 1; setting < 32; setting <<= 1)
            Assert.Contains(Enumerable.Range(0, lines.Length), k => lines[k] != lines[k ^ setting]);
    }

    /// <summary>
    /// Bochs 2.7 differs in one: a walk that ends in a page fault leaves the accessed flags of the entries on its way alone. Ours,
    /// like QEMU's, sets them as each is used (SDM volume 3, section 4.8).
    /// </summary>
    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs() => Compare(ReferencePc.RunBochs(Disk(), "broadwell_ult", PageWalkMatrix.Columns), (trial, columns) =>
    {
        if (columns[ColumnVector] == 14 && (trial.Pde & PageWalkMatrix.Ps) == 0)
            columns[ColumnPde] &= ~PageWalkMatrix.A;
    });

    /// <summary>
    /// QEMU 7.2 differs in one: its error code for a reserved bit has the P flag clear (SDM volume 3, section 4.7: RSVD can be set
    /// only if P is also set).
    /// </summary>
    [RequiresPackageTheory("qemu-system-x86")]
    [InlineData(false)]
    [InlineData(true)]
    public void AgreesWithQemu(bool fiveLevels) => Compare(ReferencePc.RunQemu(Disk(fiveLevels), PageWalkMatrix.Columns), (_, columns) =>
    {
        if (columns[ColumnVector] == 14 && (columns[ColumnError] & 8) != 0)
            columns[ColumnError] |= 1;
    }, fiveLevels);

    private const int ColumnVector = 0, ColumnError = 1, ColumnPde = 4;

    private static byte[] Disk(bool fiveLevels = false) => ReferencePc.BuildDisk(PageWalkMatrix.Build(fiveLevels), PageWalkMatrix.Origin);

    private static void Compare(string[] theirs, Action<PageWalkMatrix.Trial, ulong[]> reconcile, bool fiveLevels = false) =>
        ReferencePc.AssertAgreement(PageWalkMatrix.Trials, RunOurs(fiveLevels), theirs, reconcile);

    private static string[] RunOurs(bool fiveLevels = false)
    {
        using var guest = new TestGuest();
        guest.Write(PageWalkMatrix.Origin, PageWalkMatrix.Build(fiveLevels));
        guest.EnterProtectedMode(PageWalkMatrix.Origin);
        // A bitmap of zeros: no MSR access exits.
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = PageWalkMatrix.Zeros;
        Assert.Equal(ExitReason.Hlt, guest.Run(1_000_000_000));
        return ReferencePc.Lines(guest.Bus.Console(), PageWalkMatrix.Columns);
    }
}
