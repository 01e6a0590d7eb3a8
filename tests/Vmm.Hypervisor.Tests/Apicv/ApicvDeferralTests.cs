using Vmm.Hypervisor.Apicv;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Apicv;

/// <summary>Changes while L2 is active, by policy, as vmcs01 sees them.</summary>
public sealed class ApicvDeferralTests
{
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;

    [Fact]
    public void Changes_are_deferred_and_coalesce_into_the_last_one()
    {
        using ApicvMachine machine = InGuestMode(ApicvPolicy.Deferred);
        ApicvInhibits inhibits = machine.Machine.Apicv;
        foreach (ApicvInhibit reason in new[] { ApicvInhibit.BlockIrq, ApicvInhibit.HyperV })
        {
            inhibits.Set(reason);
            machine.Vcpu.Apicv.Service();
        }
        inhibits.Clear(ApicvInhibit.BlockIrq);
        machine.Vcpu.Apicv.Service();
        Assert.True(machine.Vcpu.Apicv is { IsDeferred: true, IsPending: true, IsActive: true, AppliedGeneration: 0 });
        Assert.Equal(Virtualization, machine.Secondary & Virtualization);
        machine.Events.Clear();
        machine.Vcpu.IsGuestMode = false;
        machine.Vcpu.Apicv.ServiceDeferred();
        machine.Vcpu.Apicv.ServiceDeferred();
        Assert.True(machine.Vcpu.Apicv is { IsDeferred: false, IsActive: false, AppliedGeneration: 3 });
        Assert.Equal((SecondaryControls)0, machine.Secondary & Virtualization);
        ApicvEvent applied = Assert.Single(machine.Events);
        Assert.Equal((ApicvEventKind.UpdateApplied, ApicvInhibit.HyperV, false), (applied.Kind, applied.Reasons, applied.Active));
    }

    [Fact]
    public void With_the_switching_policy_vmcs01_follows_at_once()
    {
        using ApicvMachine machine = InGuestMode(ApicvPolicy.Switch);
        machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        machine.Vcpu.Apicv.Service();
        Assert.True(machine.Vcpu.Apicv is { IsDeferred: false, IsActive: false, AppliedGeneration: 1 });
        Assert.Equal((SecondaryControls)0, machine.Secondary & Virtualization);
    }

    [Fact]
    public void What_was_pending_since_creation_is_deferred_where_l2_is_restored_first()
    {
        using var machine = new ApicvMachine();
        machine.Vcpu.IsGuestMode = true;
        Assert.True(machine.Vcpu.Apicv.IsPending);
        machine.Vcpu.Apicv.Service();
        Assert.True(machine.Vcpu.Apicv is { IsDeferred: true, IsActive: false });
        Assert.Equal((SecondaryControls)0, machine.Secondary & Virtualization);
        machine.Vcpu.IsGuestMode = false;
        machine.Vcpu.Apicv.ServiceDeferred();
        Assert.True(machine.Vcpu.Apicv.IsActive);
        Assert.Equal(Virtualization, machine.Secondary & Virtualization);
    }

    private static ApicvMachine InGuestMode(ApicvPolicy policy)
    {
        var machine = new ApicvMachine(options: new(Policy: policy));
        machine.Run(a => a.nop(), 1);
        machine.Vcpu.IsGuestMode = true;
        return machine;
    }
}
