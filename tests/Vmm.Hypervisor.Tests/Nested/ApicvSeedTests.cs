using Vmm.Hypervisor.Apicv;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// L1 enters L2 without TPR shadow while APICv is inhibited, and the inhibit goes while L2 is active: the case in which a hypervisor
/// that takes the current VMCS for vmcs01 fails an entry and blames L1.
/// </summary>
public sealed unsafe class ApicvSeedTests
{
    private const int Turns = 5_000;
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;

    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public void L2_runs_to_its_end_and_then_l1_has_apicv(ApicvPolicy policy)
    {
        using NestedMachine l1 = InhibitedUntilL2Runs(policy, earlyCheck: false);
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal(ExitReason.Cpuid, l1.Reason);
        Assert.Equal((ulong)Turns, l1.Register(Gpr.Rbx));
        Assert.True(l1.Vcpu.Apicv is { IsActive: true, IsDeferred: false, AppliedGeneration: 2 });
        Assert.Equal(Virtualization, l1.Secondary01 & Virtualization);
        Assert.Equal(policy == ApicvPolicy.Deferred ? 1 : 0, l1.Events.Count(e => e.Kind == ApicvEventKind.UpdateDeferred));
        Assert.DoesNotContain(l1.Events, e => e.Kind == ApicvEventKind.CurrentVmcsOverwritten);
    }

    [Fact]
    public void With_the_unsafe_policy_l1_sees_its_entry_fail_for_controls_that_are_valid()
    {
        using NestedMachine l1 = InhibitedUntilL2Runs(ApicvPolicy.UnsafeImmediate, earlyCheck: false);
        Assert.Equal(L1Stop.NoEntry, l1.Continue());
        Assert.Equal(Rflags.Zf, l1.EntryFlags & (Rflags.Zf | Rflags.Cf));
        Assert.Equal(7u, l1.InstructionError);
        // What L1 chose is innocent: it had neither of the controls that have failed, and L2 was long running.
        Assert.Equal(0u, (uint)l1.Secondary);
        Assert.Contains("TPR shadow", l1.Vcpu.Nested.Vmcs02.FailedRule!.Description, StringComparison.Ordinal);
        Assert.Contains(l1.Events, e => e.Kind == ApicvEventKind.CurrentVmcsOverwritten);
        // And vmcs01, which was meant, has not been brought up to date.
        Assert.Equal((SecondaryControls)0, l1.Secondary01 & Virtualization);
    }

    [Fact]
    public void With_the_early_check_the_unsafe_policy_is_reported_as_an_error_of_l0()
    {
        using NestedMachine l1 = InhibitedUntilL2Runs(ApicvPolicy.UnsafeImmediate, earlyCheck: true);
        InvalidOperationException error = Assert.Throws<InvalidOperationException>(() => l1.Continue());
        Assert.Contains("hardware refused vmcs02", error.Message, StringComparison.Ordinal);
        Assert.Contains("TPR shadow", error.Message, StringComparison.Ordinal);
        Assert.True(l1.Vcpu.IsGuestMode);
    }

    private static NestedMachine InhibitedUntilL2Runs(ApicvPolicy policy, bool earlyCheck)
    {
        var l1 = new NestedMachine(new(Policy: policy), earlyCheck);
        l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        l1.LoadL2(a =>
        {
            Iced.Intel.Label again = a.CreateLabel();
            a.xor(ebx, ebx);
            a.Label(ref again);
            a.inc(ebx);
            a.cmp(ebx, Turns);
            a.jb(again);
            a.cpuid();
        });
        Assert.Equal(L1Stop.Running, l1.Enter(3_000));
        Assert.True(l1.Vcpu.IsGuestMode && l1.Vcpu.State->Gpr[Gpr.Rbx] > 10);
        l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        return l1;
    }
}
