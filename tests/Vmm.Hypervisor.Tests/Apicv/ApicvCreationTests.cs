using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Tests.Apicv;

/// <summary>
/// vCPUs that are created while the machine runs, and inhibits that change meanwhile: a vCPU that is being created is not among those
/// that a change asks, and must not miss it.
/// </summary>
public sealed unsafe class ApicvCreationTests
{
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;
    private const byte StartPage = 0x30;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_inhibit_that_changes_in_the_middle_of_a_creation_is_applied_by_the_new_vcpu(bool set)
    {
        using ApicvMachine machine = Running();
        if (!set)
            machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(1);
        int there = 0;
        // The local APIC of the new vCPU makes its timer.
        machine.Clock.TimerCreated = () =>
        {
            machine.Clock.TimerCreated = null;
            there = machine.Machine.Vcpus.Count;
            if (set)
                machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
            else
                machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        };
        Vcpu added = machine.Machine.AddVcpu();
        Assert.Equal(1, there);
        Assert.Equal(machine.Machine.Vcpus[1], added);
        // Nobody has asked it, and it knows all the same.
        Assert.True(added.Apicv.IsPending);
        AssertApplies(machine, added, active: !set);
        machine.Vcpu.Run(1);
        AssertAgrees(machine.Vcpu, active: !set, machine.Machine.Apicv.Generation);
    }

    [Fact]
    public void An_inhibit_that_the_creation_itself_brings_about_is_applied_by_the_new_vcpu()
    {
        using ApicvMachine machine = Running();
        // The ID that the next vCPU comes with.
        machine.Apic.WriteMemory(ApicRegister.Id, 4, 1 << 24);
        machine.Vcpu.Run(1);
        Assert.Equal(ApicvInhibit.ApicIdModified, machine.Machine.Apicv.Reasons);
        int there = 0;
        machine.Machine.Apicv.Changed += change => there = change.Kind == ApicvEventKind.InhibitSet ? machine.Machine.Vcpus.Count : there;
        Vcpu added = machine.Machine.AddVcpu();
        Assert.Equal(ApicvInhibit.ApicIdModified | ApicvInhibit.PhysicalIdAliased, machine.Machine.Apicv.Reasons);
        Assert.Equal(1, there);
        AssertApplies(machine, added, active: false);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_added_vcpu_waits_to_be_started_and_then_runs_with_its_local_apic_virtualized(bool settled)
    {
        using ApicvMachine machine = Running(maxVcpus: 3);
        Vcpu added = machine.Machine.AddVcpu();
        Assert.Equal((1, VcpuActivity.WaitForSipi, 1u, false), (added.Index, added.Activity, added.Apic.Id, added.IsRunnable));
        if (settled)
            added.SettleApicv();
        Assert.True(machine.Memory.TryWrite((ulong)StartPage << 12, [0x40, 0xEB, 0xFD])); // inc ax; jmp $-1
        Assert.True(machine.Bus.Deliver(new(1, false, DeliveryMode.Init, 0, false)));
        added.Run(1);
        Assert.True(machine.Bus.Deliver(new(1, false, DeliveryMode.StartUp, StartPage, false)));
        Assert.Equal(VcpuOutcome.BudgetUsed, added.Run(10));
        Assert.Equal(5ul, added.State->Gpr[Gpr.Rax]);
        AssertAgrees(added, active: true, 0);
        machine.Machine.AddVcpu();
        Assert.Throws<InvalidOperationException>(machine.Machine.AddVcpu);
        Assert.Equal(3, machine.Machine.Vcpus.Count);
    }

    [Fact]
    public void A_list_of_vcpus_that_was_taken_before_stays_as_it_was()
    {
        using ApicvMachine machine = Running();
        IReadOnlyList<Vcpu> before = machine.Machine.Vcpus;
        machine.Machine.AddVcpu();
        Assert.Equal((1, 2), (before.Count, machine.Machine.Vcpus.Count));
    }

    private static ApicvMachine Running(int maxVcpus = 2)
    {
        var machine = new ApicvMachine(maxVcpus: maxVcpus);
        machine.Run(a => a.jmp(ApicvMachine.Code), 1);
        return machine;
    }

    private static void AssertApplies(ApicvMachine machine, Vcpu added, bool active)
    {
        machine.Events.Clear();
        added.Run(1);
        ulong generation = machine.Machine.Apicv.Generation;
        Assert.Equal(new ApicvEvent(ApicvEventKind.UpdateApplied, added.Index, ApicvInhibit.None, machine.Machine.Apicv.Reasons, generation, active, 0), Assert.Single(machine.Events));
        AssertAgrees(added, active, generation);
    }

    private static void AssertAgrees(Vcpu vcpu, bool active, ulong generation)
    {
        Assert.True(vcpu.Apicv is { IsPending: false, IsDeferred: false });
        Assert.Equal((active, generation), (vcpu.Apicv.IsActive, vcpu.Apicv.AppliedGeneration));
        Assert.Equal(active ? Virtualization : 0, (SecondaryControls)vcpu.Vmcs01.Read32(VmcsField.SecondaryControls) & Virtualization);
    }
}
