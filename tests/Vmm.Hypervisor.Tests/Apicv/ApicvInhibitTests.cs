using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Apicv;

/// <summary>The inhibits and vmcs01, while L1 runs.</summary>
public sealed unsafe class ApicvInhibitTests
{
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;
    private const SecondaryControls All = Virtualization | SecondaryControls.VirtualizeApicAccesses | SecondaryControls.VirtualizeX2Apic;

    [Fact]
    public void A_new_vcpu_has_its_first_refresh_before_it_and_makes_it_with_its_first_entry()
    {
        using var machine = new ApicvMachine();
        Assert.True(machine.Vcpu.Apicv.IsPending);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        Assert.Equal((SecondaryControls)0, machine.Secondary & All);
        machine.Run(a => a.nop(), 1);
        Assert.True(machine.Vcpu.Apicv.IsActive);
        Assert.False(machine.Vcpu.Apicv.IsPending);
        Assert.Equal(Virtualization | SecondaryControls.VirtualizeApicAccesses, machine.Secondary & All);
        Assert.Equal(ProcControls.TprShadow, machine.Primary & (ProcControls.TprShadow | ProcControls.Cr8LoadExiting | ProcControls.UseMsrBitmaps));
        Assert.Equal(machine.Apic.Page.HostPhysical, machine.Vmcs01[VmcsField.VirtualApicAddress]);
        Assert.True(machine.Apic.Page.HostPhysical >= PhysicalMemory.PrivateBase);
        Assert.Equal(LocalApic.DefaultBase, machine.Vmcs01[VmcsField.ApicAccessAddress]);
    }

    [Fact]
    public void In_x2apic_mode_msrs_take_the_place_of_the_access_page()
    {
        using var machine = new ApicvMachine(x2: true);
        machine.Run(a => a.nop(), 1);
        Assert.Equal(Virtualization | SecondaryControls.VirtualizeX2Apic, machine.Secondary & All);
        Assert.Equal(ProcControls.TprShadow | ProcControls.UseMsrBitmaps, machine.Primary & (ProcControls.TprShadow | ProcControls.UseMsrBitmaps));
    }

    [Fact]
    public void A_change_of_mode_by_the_guest_takes_effect_before_its_next_instruction()
    {
        using var machine = new ApicvMachine();
        machine.Run(a =>
        {
            a.mov(ecx, 0x1B);
            a.mov(eax, 0xFEE0_0D00);
            a.xor(edx, edx);
            a.wrmsr();
            a.nop();
        }, 5);
        Assert.Equal(Virtualization | SecondaryControls.VirtualizeX2Apic, machine.Secondary & All);
    }

    [Fact]
    public void A_change_is_applied_with_the_next_entry_and_reported_with_its_generation()
    {
        using var machine = new ApicvMachine(vcpus: 2);
        machine.Run(a => a.jmp(ApicvMachine.Code), 1);
        machine.Events.Clear();
        machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        Assert.True(machine.Vcpu.Apicv.IsPending);
        Assert.True(machine.Machine.Vcpus[1].Apicv.IsPending);
        Assert.True(machine.Vcpu.Apicv.IsActive);
        machine.Vcpu.Run(1);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        Assert.Equal(1ul, machine.Vcpu.Apicv.AppliedGeneration);
        Assert.Equal((SecondaryControls)0, machine.Secondary & All);
        Assert.Equal(ProcControls.Cr8LoadExiting, machine.Primary & (ProcControls.TprShadow | ProcControls.Cr8LoadExiting | ProcControls.UseMsrBitmaps));
        machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        machine.Machine.Apicv.Set(ApicvInhibit.HyperV);
        machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(1);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        machine.Machine.Apicv.Clear(ApicvInhibit.HyperV);
        machine.Vcpu.Run(1);
        Assert.True(machine.Vcpu.Apicv.IsActive);
        Assert.Equal(
            [
                (ApicvEventKind.InhibitSet, -1, ApicvInhibit.BlockIrq, 1, false, 1),
                (ApicvEventKind.UpdateApplied, 0, ApicvInhibit.None, 1, false, 1),
                (ApicvEventKind.InhibitSet, -1, ApicvInhibit.HyperV, 2, false, 2),
                (ApicvEventKind.InhibitCleared, -1, ApicvInhibit.BlockIrq, 3, false, 2),
                (ApicvEventKind.UpdateApplied, 0, ApicvInhibit.None, 3, false, 2),
                (ApicvEventKind.InhibitCleared, -1, ApicvInhibit.HyperV, 4, true, 3),
                (ApicvEventKind.UpdateApplied, 0, ApicvInhibit.None, 4, true, 3),
            ],
            machine.Events.Select(e => (e.Kind, e.Vcpu, e.Changed, e.Generation, e.Active, e.Instructions)));
    }

    [Fact]
    public void Activation_takes_rvi_and_svi_from_the_registers()
    {
        using var machine = new ApicvMachine() { EndsInterrupts = false, InterruptsEnabled = true };
        machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        machine.Send(0x45);
        machine.Run(a => a.jmp(ApicvMachine.Code), 10);
        Assert.Equal([0x45], machine.Taken);
        machine.InterruptsEnabled = false;
        machine.Send(0x31);
        machine.Send(0x52);
        machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(1);
        Assert.Equal(0x4552ul, machine.Vmcs01[VmcsField.GuestInterruptStatus]);
        machine.InterruptsEnabled = true;
        machine.Vcpu.Run(10);
        Assert.Equal([0x45, 0x52], machine.Taken);
    }

    [Theory]
    [InlineData(ApicvInhibit.Absent)]
    [InlineData(ApicvInhibit.Disable)]
    [InlineData(ApicvInhibit.Absent | ApicvInhibit.Disable)]
    public void What_is_fixed_at_creation_stays(ApicvInhibit reasons)
    {
        using var machine = new ApicvMachine(options: new(reasons));
        machine.Run(a => a.nop(), 1);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        Assert.Throws<InvalidOperationException>(() => machine.Machine.Apicv.Clear(reasons));
        Assert.Equal(reasons, machine.Machine.Apicv.Reasons);
        Assert.Equal(0ul, machine.Machine.Apicv.Generation);
    }

    [Fact]
    public void Only_what_is_not_fixed_and_not_the_guests_can_be_changed()
    {
        using var machine = new ApicvMachine();
        foreach (ApicvInhibit reason in Enum.GetValues<ApicvInhibit>())
        {
            bool changeable = reason is ApicvInhibit.BlockIrq or ApicvInhibit.HyperV;
            Assert.Equal(changeable, ApicvInhibits.IsChangeable(reason));
            if (!changeable)
                Assert.Throws<InvalidOperationException>(() => machine.Machine.Apicv.Set(reason));
        }
        Assert.Throws<ArgumentException>(() => new ApicvMachine(options: new(ApicvInhibit.BlockIrq)));
    }

    [Fact]
    public void A_change_of_an_id_inhibits_until_it_is_taken_back()
    {
        using var machine = new ApicvMachine(vcpus: 2);
        machine.Run(a =>
        {
            a.mov(ebx, ApicvMachine.ApicBase);
            a.mov(__dword_ptr[rbx + 0x20], 0x0300_0000);
            a.mov(ecx, __dword_ptr[rbx + 0x20]);
            a.mov(__dword_ptr[rbx + 0x20], 0x0100_0000);
            a.nop();
            a.mov(__dword_ptr[rbx + 0x20], 0);
            a.nop();
        }, 3);
        Assert.Equal(ApicvInhibit.ApicIdModified, machine.Machine.Apicv.Reasons);
        Assert.Equal(0x0300_0000ul, machine.Vcpu.State->Gpr[Gpr.Rcx]);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        machine.Vcpu.Run(2);
        Assert.Equal(ApicvInhibit.ApicIdModified | ApicvInhibit.PhysicalIdAliased, machine.Machine.Apicv.Reasons);
        machine.Vcpu.Run(2);
        Assert.Equal(ApicvInhibit.None, machine.Machine.Apicv.Reasons);
        Assert.True(machine.Vcpu.Apicv.IsActive);
    }

    [Theory]
    [InlineData(0x0100_0000u, 0x0200_0000u, uint.MaxValue, false)]
    [InlineData(0x0100_0000u, 0x0100_0000u, uint.MaxValue, true)]
    [InlineData(0x0300_0000u, 0u, uint.MaxValue, true)]
    [InlineData(0x1100_0000u, 0x2100_0000u, 0x0FFF_FFFFu, false)]
    [InlineData(0x1100_0000u, 0x1100_0000u, 0x0FFF_FFFFu, true)]
    [InlineData(0x1100_0000u, 0x1200_0000u, 0x0FFF_FFFFu, false)]
    [InlineData(0x1300_0000u, 0u, 0x0FFF_FFFFu, true)]
    public void Logical_ids_are_to_name_one_apic_each(uint first, uint second, uint format, bool aliased)
    {
        using var machine = new ApicvMachine(vcpus: 2);
        LocalApic other = machine.Machine.Vcpus[1].Apic;
        other.EnterVirtualWireMode();
        foreach ((LocalApic apic, uint id) in new[] { (machine.Apic, first), (other, second) })
        {
            apic.WriteMemory(ApicRegister.DestinationFormat, 4, format);
            apic.WriteMemory(ApicRegister.LogicalDestination, 4, id);
        }
        Assert.Equal(aliased ? ApicvInhibit.LogicalIdAliased : ApicvInhibit.None, machine.Machine.Apicv.Reasons);
        other.WriteMemory(ApicRegister.SpuriousVector, 4, 0xFF);
        machine.Apic.WriteMemory(ApicRegister.SpuriousVector, 4, 0xFF);
        Assert.Equal(ApicvInhibit.None, machine.Machine.Apicv.Reasons);
    }

    [Fact]
    public void A_moved_base_inhibits_and_a_disabled_apic_is_not_virtualized()
    {
        using var machine = new ApicvMachine();
        Assert.True(machine.Apic.TrySetBase(0xFEC1_0900));
        machine.Run(a => a.jmp(ApicvMachine.Code), 1);
        Assert.Equal(ApicvInhibit.ApicBaseModified, machine.Machine.Apicv.Reasons);
        Assert.False(machine.Vcpu.Apicv.IsActive);
        Assert.True(machine.Apic.TrySetBase(0xFEE0_0900));
        machine.Vcpu.Run(1);
        Assert.True(machine.Vcpu.Apicv.IsActive);
        Assert.True(machine.Apic.TrySetBase(0xFEE0_0100));
        machine.Vcpu.Run(1);
        Assert.Equal(ApicvInhibit.None, machine.Machine.Apicv.Reasons);
        Assert.False(machine.Vcpu.Apicv.IsActive);
    }

    [Fact]
    public void After_init_it_is_active_again_before_the_first_instruction()
    {
        using var machine = new ApicvMachine();
        machine.Run(a => a.jmp(ApicvMachine.Code), 1);
        machine.Vcpu.Request(VcpuRequest.Init);
        machine.Vcpu.Run(1);
        Assert.True(machine.Vcpu.Apicv.IsActive);
        Assert.Equal(Virtualization | SecondaryControls.VirtualizeApicAccesses, machine.Secondary & All);
    }
}
