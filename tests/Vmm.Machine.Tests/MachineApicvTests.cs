using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Tests.Guests;

namespace Vmm.Machine.Tests;

/// <summary>APICv inhibits as inputs of a machine.</summary>
public sealed class MachineApicvTests
{
    [Theory]
    [InlineData(ApicvInhibit.Absent)]
    [InlineData(ApicvInhibit.Disable)]
    [InlineData(ApicvInhibit.ApicBaseModified)]
    [InlineData(ApicvInhibit.HyperV | ApicvInhibit.Absent)]
    [InlineData(ApicvInhibit.None)]
    public void Only_what_may_be_changed_from_outside_is(ApicvInhibit reason)
    {
        using var bench = new MachineBench(a => a.Exit(0));
        Assert.Throws<ArgumentException>(() => bench.Machine.SetApicvInhibit(reason));
        Assert.Throws<ArgumentException>(() => bench.Machine.ClearApicvInhibit(reason));
        Assert.Equal(0UL, bench.Machine.GetApicv().Generation);
    }

    [Theory]
    [InlineData(ApicvInhibit.HyperV, ApicvPolicy.Deferred)]
    [InlineData(ApicvInhibit.None, (ApicvPolicy)7)]
    public void A_spec_that_fixes_something_else_is_refused(ApicvInhibit reason, ApicvPolicy policy)
    {
        var refused = Assert.Throws<InvalidMachineException>(() => new MachineBench(a => a.Exit(0), change: spec => spec with { Apicv = new(reason, policy) }));
        Assert.Equal(nameof(MachineSpec.Apicv), refused.Field);
    }

    [Fact]
    public void Vcpus_that_have_not_run_or_wait_apply_a_change_at_once_and_in_order()
    {
        using var bench = new MachineBench(a => a.hlt(), cpus: 3);
        var events = new List<ApicvEvent>();
        bench.Machine.ApicvChanged += events.Add;
        ApicvView set = bench.Machine.SetApicvInhibit(ApicvInhibit.BlockIrq);
        Assert.Equal((ApicvInhibit.BlockIrq, 1UL), (set.Reasons, set.Generation));
        Assert.All(set.Vcpus, vcpu => Assert.True(vcpu is { Update: ApicvUpdateState.Applied, AppliedGeneration: 1, IsActive: false }));
        bench.Machine.SetApicvInhibit(ApicvInhibit.BlockIrq);
        ApicvView cleared = bench.Machine.ClearApicvInhibit(ApicvInhibit.BlockIrq);
        Assert.Equal((ApicvInhibit.None, 2UL), (cleared.Reasons, cleared.Generation));
        Assert.All(cleared.Vcpus, vcpu => Assert.Contains("Virtual-interrupt delivery", vcpu.Controls.SelectMany(field => field.Decode)));
        Assert.Equal(
            [(ApicvEventKind.InhibitSet, -1), (ApicvEventKind.UpdateApplied, 0), (ApicvEventKind.UpdateApplied, 1), (ApicvEventKind.UpdateApplied, 2),
                (ApicvEventKind.InhibitCleared, -1), (ApicvEventKind.UpdateApplied, 0), (ApicvEventKind.UpdateApplied, 1), (ApicvEventKind.UpdateApplied, 2)],
            events.Select(item => (item.Kind, item.Vcpu)));
        bench.Machine.Stop();
        Assert.Equal(2UL, bench.Machine.SetApicvInhibit(ApicvInhibit.HyperV).Generation);
    }
}
