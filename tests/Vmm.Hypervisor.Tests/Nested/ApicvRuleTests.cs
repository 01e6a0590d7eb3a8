using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>What must hold for the inhibits of APICv while L2 is active.</summary>
public sealed unsafe class ApicvRuleTests
{
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;
    private const SecondaryControls Modes = SecondaryControls.VirtualizeApicAccesses | SecondaryControls.VirtualizeX2Apic;

    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public void A_refresh_while_l2_is_active_leaves_vmcs02_alone(ApicvPolicy policy)
    {
        foreach (Shape shape in Enum.GetValues<Shape>())
        {
            using NestedMachine l1 = InL2(shape, policy);
            ulong[] before = ControlsAndHost(l1.Vcpu.Nested.Vmcs02);
            for (int k = 0; k < 6; k++)
            {
                Toggle(l1, k);
                Assert.Equal(L1Stop.Running, l1.Continue(1));
                Assert.True(l1.Vcpu.IsGuestMode);
                Assert.Equal(before, ControlsAndHost(l1.Vcpu.Nested.Vmcs02));
            }
        }
    }

    [Fact]
    public void Changes_while_l2_is_active_are_deferred_and_coalesce()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        ulong[] before = ControlsAndHost(l1.Vcpu.Vmcs01);
        for (int k = 0; k < 7; k++)
        {
            Toggle(l1, k);
            Assert.Equal(L1Stop.Running, l1.Continue(5));
            Assert.True(l1.Vcpu.Apicv is { IsDeferred: true, IsPending: true, IsActive: true, AppliedGeneration: 0 });
        }
        Assert.Equal(before, ControlsAndHost(l1.Vcpu.Vmcs01));
        Assert.Equal(7, l1.Events.Count(e => e.Kind == ApicvEventKind.UpdateDeferred));
        l1.Events.Clear();
        Leave(l1);
        ApicvEvent applied = Assert.Single(l1.Events);
        Assert.Equal((ApicvEventKind.UpdateApplied, 7ul, false), (applied.Kind, applied.Generation, applied.Active));
        AssertAgreement(l1);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_vcpu_that_is_restored_with_l2_active_services_an_update_on_its_first_run_and_so_defers_it(bool deferredBefore)
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        if (deferredBefore)
        {
            Assert.Equal(L1Stop.Running, l1.Continue(5));
            l1.Machine.Apicv.Set(ApicvInhibit.HyperV);
        }
        Assert.True(l1.Vcpu.Apicv.IsPending);
        Assert.Equal(deferredBefore, l1.Vcpu.Apicv.IsDeferred);
        ulong[] controls = ControlsAndHost(l1.Vcpu.Vmcs01);
        l1.Move();
        l1.Events.Clear();
        Assert.True(l1.Vcpu is { IsGuestMode: true, Apicv: { IsPending: true, IsActive: true } });

        Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.Equal(ApicvEventKind.UpdateDeferred, Assert.Single(l1.Events).Kind);
        Assert.True(l1.Vcpu.Apicv is { IsDeferred: true, IsActive: true, AppliedGeneration: 0 });
        Assert.Equal(WithoutOwnPages(controls), WithoutOwnPages(ControlsAndHost(l1.Vcpu.Vmcs01)));

        // And once more while it waits for L2 to be left.
        l1.Move();
        l1.Events.Clear();
        Leave(l1);
        ApicvEvent applied = Assert.Single(l1.Events);
        Assert.Equal((ApicvEventKind.UpdateApplied, false), (applied.Kind, applied.Active));
        AssertAgreement(l1);
    }

    // Where L0's own pages are differs between machines.
    private static IEnumerable<ulong> WithoutOwnPages(ulong[] fields) => fields.Where(value => value < PhysicalMemory.PrivateBase || value == ulong.MaxValue);

    [Fact]
    public void What_was_deferred_is_done_before_the_first_instruction_of_l1()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        Assert.Equal(L1Stop.Running, l1.Continue(5));
        (ulong Rip, bool InL2, ulong Instructions) applied = default;
        l1.ApicvChanged += e => applied = (l1.Vcpu.Vmcs01[VmcsField.GuestRip], l1.Vcpu.IsGuestMode, e.Instructions);
        EndL2(l1);
        while (l1.Vcpu.IsGuestMode)
            Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.Equal((NestedMachine.ExitHandler, false), (applied.Rip, applied.InL2));
        Assert.Equal(applied.Instructions + 1, l1.Vcpu.InstructionsRetired);
        AssertAgreement(l1);
    }

    [Theory]
    [InlineData(ApicvPolicy.Deferred, false, 1)]
    [InlineData(ApicvPolicy.Deferred, true, 2)]
    [InlineData(ApicvPolicy.Switch, false, 3)]
    [InlineData(ApicvPolicy.Switch, true, 4)]
    public void Whenever_l1_runs_vmcs01_agrees_with_the_inhibits(ApicvPolicy policy, bool x2, int seed)
    {
        var random = new Random(seed);
        using NestedMachine l1 = InL2(Shape.Plain, policy, x2);
        int inL1 = 0;
        for (int k = 0; k < 3_000; k++)
        {
            if (random.Next(3) == 0)
                Toggle(l1, random.Next(2));
            if (random.Next(20) == 0)
                EndL2(l1);
            L1Stop stop = l1.Continue(random.Next(1, 60));
            if (!l1.Vcpu.IsGuestMode && !l1.Vcpu.Apicv.IsPending)
            {
                AssertAgreement(l1);
                inL1++;
            }
            if (stop == L1Stop.Exit)
                Restart(l1, random.Next(1, 60));
        }
        Assert.True(inL1 > 300, $"{inL1}");
    }

    [Fact]
    public void Activation_on_nested_exit_takes_rvi_and_svi_from_the_registers()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred, inhibited: true);
        l1.Apic.Page.Set(ApicRegister.InService, 0x45);
        l1.Send(0x52);
        l1.Send(0x31);
        l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        Assert.Equal(L1Stop.Running, l1.Continue(5));
        EndL2(l1);
        while (l1.Vcpu.IsGuestMode)
            Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.Equal(0x4552ul, l1.Vcpu.Vmcs01[VmcsField.GuestInterruptStatus]);
    }

    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public void Whatever_vmcs12_enables_vmcs02_passes_the_checks_of_the_hardware(ApicvPolicy policy)
    {
        foreach (Shape shape in Enum.GetValues<Shape>())
        {
            foreach (bool inhibited in new[] { false, true })
            {
                using NestedMachine l1 = InL2(shape, policy, inhibited: inhibited);
                for (int k = 0; k < 4; k++)
                {
                    Toggle(l1, inhibited ? k + 1 : k);
                    Assert.Equal(L1Stop.Running, l1.Continue(7));
                    Assert.True(l1.Vcpu.IsGuestMode);
                    Assert.Null(l1.Vcpu.Nested.Vmcs02.FailedRule);
                }
                Leave(l1);
                Restart(l1, 40);
                Leave(l1);
            }
        }
    }

    [Fact]
    public void A_vcpu_that_begins_in_l2_defers_what_was_pending_since_its_creation()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        // As after a restore: the request of the creation is there, and L2 is active.
        l1.Events.Clear();
        l1.Vcpu.Request(Vcpus.VcpuRequest.ApicvUpdate);
        Assert.Equal(L1Stop.Running, l1.Continue(3));
        Assert.True(l1.Vcpu.Apicv.IsDeferred);
        Leave(l1);
        Assert.Equal([ApicvEventKind.UpdateDeferred, ApicvEventKind.UpdateApplied], l1.Events.Select(e => e.Kind));
    }

    [Fact]
    public void What_is_fixed_at_creation_cannot_be_changed_while_l2_is_active()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        foreach (ApicvInhibit reason in new[] { ApicvInhibit.Absent, ApicvInhibit.Disable, ApicvInhibit.ApicIdModified })
            Assert.Throws<InvalidOperationException>(() => l1.Machine.Apicv.Set(reason));
        Assert.Equal((ApicvInhibit.None, 0ul), (l1.Machine.Apicv.Reasons, l1.Machine.Apicv.Generation));
        Assert.False(l1.Vcpu.Apicv.IsPending);
    }

    [Fact]
    public void What_the_guest_does_to_its_apic_while_l2_is_active_is_deferred_too()
    {
        using NestedMachine l1 = InL2(Shape.Plain, ApicvPolicy.Deferred);
        // L2 shares the local APIC of L1, which has no EPT in between, and gives it another ID.
        l1.Assemble(a =>
        {
            a.mov(ecx, unchecked((int)0xFEE0_0000));
            a.mov(__dword_ptr[rcx + 0x20], 0x0300_0000);
            a.cpuid();
        }, l1.Vcpu.Vmcs[VmcsField.GuestRip]);
        Assert.Equal(L1Stop.Running, l1.Continue(2));
        Assert.Equal(ApicvInhibit.ApicIdModified, l1.Machine.Apicv.Reasons);
        Assert.True(l1.Vcpu is { IsGuestMode: true, Apicv.IsActive: true });
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.False(l1.Vcpu.Apicv.IsActive);
        AssertAgreement(l1);
    }

    /// <summary>What vmcs12 makes of the local APIC.</summary>
    private enum Shape
    {
        Plain, Secondary, TprShadow, ApicAccesses, ApicAccessesWithoutShadow, X2Apic, RegistersOnly, Delivery, X2ApicDelivery, Posted,
    }

    private static void Configure(NestedMachine l1, Shape shape)
    {
        if (shape == Shape.Plain)
            return;
        SecondaryControls secondary = shape switch
        {
            Shape.ApicAccesses or Shape.ApicAccessesWithoutShadow => SecondaryControls.VirtualizeApicAccesses,
            Shape.X2Apic => SecondaryControls.VirtualizeX2Apic,
            Shape.RegistersOnly => SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualizeApicAccesses,
            Shape.Delivery or Shape.Posted => Virtualization | SecondaryControls.VirtualizeApicAccesses,
            Shape.X2ApicDelivery => Virtualization | SecondaryControls.VirtualizeX2Apic,
            _ => 0,
        };
        l1.Secondary = secondary;
        if (shape is not (Shape.Secondary or Shape.ApicAccessesWithoutShadow))
            l1.Proc |= ProcControls.TprShadow | ProcControls.UseMsrBitmaps;
        l1[VmcsField.VirtualApicAddress] = NestedMachine.VirtualApic;
        l1[VmcsField.ApicAccessAddress] = NestedMachine.ApicAccess;
        l1[VmcsField.MsrBitmaps] = NestedMachine.MsrBitmap;
        if (shape >= Shape.Delivery)
        {
            l1.Pin |= PinControls.ExternalInterruptExiting;
            l1.Exit |= VmExitControls.AcknowledgeInterrupt;
        }
        if (shape == Shape.Posted)
        {
            l1.Pin |= PinControls.PostedInterrupts;
            l1[VmcsField.PostedInterruptVector] = 0xF2;
            l1[VmcsField.PostedInterruptDescriptorAddress] = NestedMachine.Scratch + 0x400;
        }
    }

    private static NestedMachine InL2(Shape shape, ApicvPolicy policy, bool x2 = false, bool inhibited = false)
    {
        var l1 = new NestedMachine(new(Policy: policy));
        if (x2)
            Assert.True(l1.Apic.TrySetBase(l1.Apic.BaseMsr | 0x400));
        if (inhibited)
            l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        Configure(l1, shape);
        Restart(l1, 2_000);
        Assert.True(l1.Vcpu.IsGuestMode, $"{shape}: {l1.InstructionError}");
        return l1;
    }

    /// <summary>L2 turns in a circle until RDI is not zero.</summary>
    private static void Restart(NestedMachine l1, long budget)
    {
        l1.SetRegister(Gpr.Rdi, 0);
        l1.LoadL2(a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.inc(ebx);
            a.test(edi, edi);
            a.jz(again);
            a.cpuid();
        });
        Assert.Equal(L1Stop.Running, l1.Enter(budget));
    }

    private static void EndL2(NestedMachine l1)
    {
        if (l1.Vcpu.IsGuestMode)
            l1.Vcpu.State->Gpr[Gpr.Rdi] = 1;
    }

    private static void Leave(NestedMachine l1)
    {
        while (!l1.Vcpu.IsGuestMode)
            Assert.Equal(L1Stop.Running, l1.Continue(10));
        EndL2(l1);
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal(ExitReason.Cpuid, l1.Reason);
    }

    private static void Toggle(NestedMachine l1, int turn)
    {
        if ((turn & 1) == 0)
            l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        else
            l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
    }

    private static ulong[] ControlsAndHost(Vmcs vmcs) =>
        [.. VmcsCatalogue.Fields.Where(f => f.Type is VmcsFieldType.Control or VmcsFieldType.Host).Select(f => vmcs[f.Field])];

    private static void AssertAgreement(NestedMachine l1)
    {
        Vmcs vmcs = l1.Vcpu.Vmcs01;
        bool active = l1.Machine.Apicv.Reasons == ApicvInhibit.None;
        bool x2 = l1.Apic.Mode == ApicMode.X2Apic;
        var primary = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls);
        SecondaryControls secondary = l1.Secondary01;
        Assert.Equal(active, l1.Vcpu.Apicv.IsActive);
        Assert.Equal(l1.Machine.Apicv.Generation, l1.Vcpu.Apicv.AppliedGeneration);
        Assert.Equal(active ? ProcControls.TprShadow | (x2 ? ProcControls.UseMsrBitmaps : 0) : ProcControls.Cr8LoadExiting,
            primary & (ProcControls.TprShadow | ProcControls.UseMsrBitmaps | ProcControls.Cr8LoadExiting));
        Assert.Equal(active ? Virtualization | (x2 ? SecondaryControls.VirtualizeX2Apic : SecondaryControls.VirtualizeApicAccesses) : 0,
            secondary & (Virtualization | Modes));
        if (active)
        {
            Assert.Equal(l1.Apic.Page.HostPhysical, vmcs[VmcsField.VirtualApicAddress]);
            Assert.Equal(LocalApic.DefaultBase, vmcs[VmcsField.ApicAccessAddress]);
        }
    }
}
