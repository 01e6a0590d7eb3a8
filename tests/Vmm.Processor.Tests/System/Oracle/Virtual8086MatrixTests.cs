using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on what instructions do in virtual-8086 mode.</summary>
public sealed class Virtual8086MatrixTests
{
    [Fact]
    public void EveryTrialComesToAnEnd() => Assert.Equal(Virtual8086Matrix.Trials.Count, RunOurs().Length);

    /// <summary>The guest does turn on what it tries: each setting changes the outcome of some trials. Settings vary fastest.</summary>
    [Fact]
    public void EverySettingMatters()
    {
        string[] lines = RunOurs();
        for (int setting = 1; setting < 16; setting <<= 1)
            Assert.Contains(Enumerable.Range(0, lines.Length), k => lines[k] != lines[k ^ setting]);
    }

    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs() => Compare(ReferencePc.RunBochs(Disk(), "corei7_sandy_bridge_2600k", Virtual8086Matrix.Columns), (_, _) => { });

    /// <summary>
    /// QEMU 7.2's translator has neither VME, INT1 nor segment limits: those trials are left out. Its exceptions push EFLAGS with RF
    /// clear (SDM volume 3, section 18.3.1.1: faults set it).
    /// </summary>
    [RequiresPackageFact("qemu-system-x86")]
    public void AgreesWithQemu() => Compare(ReferencePc.RunQemu(Disk(), Virtual8086Matrix.Columns), (trial, columns) =>
    {
        columns[ColumnFlags] &= ~Rflags.Rf;
        if (trial.Vme || Virtual8086Matrix.Name(trial) is "int1" or "read over the limit" or "read over the limit of 16 bits" or "push over the limit")
            Array.Clear(columns);
    });

    private const int ColumnFlags = 4;

    private static byte[] Disk() => ReferencePc.BuildDisk(Virtual8086Matrix.Build(), Virtual8086Matrix.Origin);

    private static void Compare(string[] theirs, Action<Virtual8086Matrix.Trial, ulong[]> reconcile) =>
        ReferencePc.AssertAgreement(Virtual8086Matrix.Trials, RunOurs(), theirs, reconcile);

    private static unsafe string[] RunOurs()
    {
        using var guest = new TestGuest(16 << 20);
        guest.Write(Virtual8086Matrix.Origin, Virtual8086Matrix.Build());
        guest.EnterProtectedMode(Virtual8086Matrix.Origin);
        ExitReason reason = guest.Run(100_000_000);
        string[] lines = ReferencePc.Lines(guest.Bus.Console(), Virtual8086Matrix.Columns);
        Assert.True(reason == ExitReason.Hlt, $"{reason} at {guest.State->Rip:x} after {lines.Length} lines");
        return lines;
    }
}
