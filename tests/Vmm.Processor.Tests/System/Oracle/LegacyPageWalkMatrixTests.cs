using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on 32-bit paging and PAE paging.</summary>
public sealed class LegacyPageWalkMatrixTests
{
    private static readonly LegacyPageWalkMatrix s_plain = new(pae: false), s_pae = new(pae: true);

    /// <summary>The guest does turn on what it tries: each setting changes the outcome of some trials, and every trial comes to an end.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void EverySettingMatters(bool pae)
    {
        string[] lines = RunOurs(Guest(pae));
        Assert.Equal(Guest(pae).Trials.Count, lines.Length);
        for (int setting = 1; setting < LegacyPageWalkMatrix.Settings; setting <<= 1)
            Assert.Contains(Enumerable.Range(0, Guest(pae).EntryTrials), k => lines[k] != lines[k ^ setting]);
    }

    /// <summary>
    /// Bochs 2.7 differs in two: a walk that ends in a page fault leaves the accessed flag of the page-directory entry on its way alone
    /// (SDM volume 3, section 4.8: it is set where the entry was used), and a change of CR0.WP loads the page-directory-pointer-table
    /// entries as well (section 4.4.1 names CD, NW and PG).
    /// </summary>
    [RequiresPackageTheory("bochs")]
    [InlineData(false)]
    [InlineData(true)]
    public void AgreesWithBochs(bool pae) => Compare(Guest(pae), disk => ReferencePc.RunBochs(disk, "broadwell_ult", LegacyPageWalkMatrix.Columns), (trial, columns) =>
    {
        bool large = (trial.Pde & LegacyPageWalkMatrix.Ps) != 0 && (pae || trial.Pse);
        if (columns[ColumnVector] == 14 && !large)
            columns[ColumnPde] &= ~LegacyPageWalkMatrix.A;
        if (LegacyPageWalkMatrix.Loads[trial.Load].Name == "CR0.WP" && (trial.PdpteIsReserved || !trial.PdpteIsPresent))
            Array.Clear(columns);
    });

    /// <summary>
    /// QEMU 7.2 differs in these: its error code for a reserved bit has the P flag clear (SDM volume 3, section 4.7); it has no
    /// page-directory-pointer-table registers but walks from memory, so that a load is never refused, what was not loaded counts all the
    /// same, and the entry gets an accessed flag (section 4.4.1). Where nothing answers it reads zeros, ours all ones.
    /// </summary>
    [RequiresPackageTheory("qemu-system-x86")]
    [InlineData(false)]
    [InlineData(true)]
    public void AgreesWithQemu(bool pae) => Compare(Guest(pae), disk => ReferencePc.RunQemu(disk, LegacyPageWalkMatrix.Columns), (trial, columns) =>
    {
        if (columns[ColumnVector] == 14 && (columns[ColumnError] & 8) != 0)
            columns[ColumnError] |= 1;
        columns[ColumnPdpte] &= ~LegacyPageWalkMatrix.A;
        // Of the reserved bits a walk sees the high ones.
        bool seen = !trial.PdpteIsPresent || trial.Pdpte >> 51 != 0;
        if (LegacyPageWalkMatrix.Loads[trial.Load].Loads ? trial.PdpteIsReserved : seen)
            Array.Clear(columns);
        if (trial.IsHigh && columns[ColumnEax] == uint.MaxValue)
            columns[ColumnEax] = 0;
    });

    private const int ColumnVector = 0, ColumnError = 1, ColumnEax = 4, ColumnPdpte = 5, ColumnPde = 6;

    private static LegacyPageWalkMatrix Guest(bool pae) => pae ? s_pae : s_plain;

    private static void Compare(LegacyPageWalkMatrix guest, Func<byte[], string[]> run, Action<LegacyPageWalkMatrix.Trial, ulong[]> reconcile) =>
        ReferencePc.AssertAgreement(guest.Trials, RunOurs(guest), run(ReferencePc.BuildDisk(guest.Build(), LegacyPageWalkMatrix.Origin)), reconcile);

    private static unsafe string[] RunOurs(LegacyPageWalkMatrix matrix)
    {
        using var guest = new TestGuest(16 << 20);
        guest.Write(LegacyPageWalkMatrix.Origin, matrix.Build());
        guest.EnterProtectedMode(LegacyPageWalkMatrix.Origin);
        // A bitmap of zeros: no MSR access exits.
        guest.Vmcs[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.UseMsrBitmaps;
        guest.Vmcs[VmcsField.MsrBitmaps] = LegacyPageWalkMatrix.Zeros;
        ExitReason reason = guest.Run(1_000_000_000);
        string[] lines = ReferencePc.Lines(guest.Bus.Console(), LegacyPageWalkMatrix.Columns);
        Assert.True(reason == ExitReason.Hlt, $"{reason} at {guest.State->Rip:x} after {lines.Length} lines");
        return lines;
    }
}
