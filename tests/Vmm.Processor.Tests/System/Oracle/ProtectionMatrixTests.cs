using Vmm.Processor.Events;
using Vmm.Processor.Segmentation;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on what every instruction does with every kind of descriptor.</summary>
public sealed class ProtectionMatrixTests
{
    [Fact]
    public void EveryTrialComesToAnEnd()
    {
        string[] lines = RunOurs();
        Assert.Equal(ProtectionMatrix.Trials.Count, lines.Length);
    }

    /// <summary>
    /// Bochs 2.7 differs in one column: LAR of a segment descriptor also returns bits 19:16 of the limit, which the manual leaves
    /// undefined (SDM volume 2, LAR: the mask is 00F?FF00h).
    /// </summary>
    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs() => Compare(ReferencePc.RunBochs(ProtectionMatrix.BuildDisk(), "corei7_sandy_bridge_2600k", ColumnCount), (trial, columns) =>
    {
        if (ProtectionMatrix.Operations[trial.Operation] == "lar" && trial.Type >= 16)
            columns[ColumnEax] &= ~0xF_0000UL;
    });

    /// <summary>
    /// QEMU 7.2 differs in two: its exceptions push RFLAGS with RF clear (SDM volume 3, section 18.3.1.1: faults set it), and its
    /// far transfers leave the accessed bit of a code descriptor alone (section 3.4.5.1: a load sets it).
    /// </summary>
    [RequiresPackageFact("qemu-system-x86")]
    public void AgreesWithQemu() => Compare(ReferencePc.RunQemu(ProtectionMatrix.BuildDisk(), ColumnCount), (trial, columns) =>
    {
        columns[ColumnFlags] &= ~Rflags.Rf;
        if (trial.Type >= 24 && ProtectionMatrix.Operations[trial.Operation] is ("jmp far" or "call far" or "retf" or "iret"))
            columns[ColumnDescriptor] &= ~0x100UL;
    });

    private const int ColumnFlags = 4, ColumnEax = 5, ColumnDescriptor = 11, ColumnCount = 17;

    private static void Compare(string[] theirs, Action<ProtectionMatrix.Trial, ulong[]> reconcile) =>
        ReferencePc.AssertAgreement(ProtectionMatrix.Trials, RunOurs(), theirs, reconcile);

    private static unsafe string[] RunOurs()
    {
        using var guest = new TestGuest();
        guest.Write(ProtectionMatrix.Origin, ProtectionMatrix.Build());
        guest.EnterProtectedMode(ProtectionMatrix.Origin);
        while (true)
        {
            ExitReason reason = guest.Run(1_000_000);
            if (reason == ExitReason.Hlt)
                break;
            if (reason == ExitReason.BudgetExhausted)
                continue;
            Assert.True(reason == ExitReason.TaskSwitch, $"{reason} at {guest.State->Rip:x} after {guest.Bus.PortWrites.Count} bytes");
            Assert.Equal(TaskSwitchResult.Done, TaskSwitch.Perform(guest.Cpu, guest.Vmcs, out GuestEvent? inject));
            if (inject is not { } e)
                continue;
            guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = e.Information;
            guest.Vmcs[VmcsField.VmEntryExceptionErrorCode] = e.Error;
        }
        return ReferencePc.Lines(guest.Bus.Console(), ColumnCount);
    }
}
