using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Tests.Nested;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.SystemManagement;

/// <summary>The default treatment of SMIs in VMX operation (SDM volume 3, section 32.14).</summary>
public sealed unsafe class NestedSmiTests
{
    private const uint Valid = 1u << 31;

    /// <summary>What L2 has, and what VM entry asks for.</summary>
    public enum Shape
    {
        Plain,
        Ept,
        VirtualApic,
        Shadowing,
    }

    [Theory]
    [InlineData(Shape.Plain)]
    [InlineData(Shape.Ept)]
    [InlineData(Shape.VirtualApic)]
    [InlineData(Shape.Shadowing)]
    public void L2_is_left_and_entered_again_without_l1_knowing(Shape shape)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, shape, a => Walk(a));
        guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        Assert.True(l1.Vcpu.IsGuestMode);
        ulong rip = l1.Vcpu.Vmcs[VmcsField.GuestRip];
        guest.SendSmi();
        Assert.Equal(L1Stop.Running, l1.Continue(10));
        Assert.Equal((false, true, true, false, true), (l1.Vcpu.IsGuestMode, l1.Vcpu.SystemManagement.IsActive, l1.Vcpu.Nested.IsGuestModeBeforeSmi, l1.Vcpu.Nested.IsOn, l1.Vcpu.Nested.IsOnBeforeSmi));
        // Section 32.14.1 and table 32-3: L2's own registers, CR4 without VMXE, and its EPT pointer.
        Assert.Equal((rip, NestedMachine.DefaultCr4 & ~Cr4.Vmxe), (guest.Read(0x7FD8), guest.Read(0x7E40)));
        Assert.Equal((shape == Shape.Ept ? 1u : 0, shape == Shape.Ept ? l1.Vcpu.Nested.Vmcs12[VmcsField.EptPointer] : 0), (guest.Read32(0x7EE0), guest.Read(0x7ED8)));
        guest.Handler(a => a.rsm());
        Assert.Equal(L1Stop.Running, l1.Continue(2));
        Assert.Equal((true, false, rip), (l1.Vcpu.IsGuestMode, l1.Vcpu.SystemManagement.IsActive, rip));
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal(ExitReason.Cpuid, l1.Reason);
    }

    /// <summary>An SMI between any two instructions of L1 and L2, entries with injected events and exits among them: everything is as without.</summary>
    [Theory]
    [InlineData(Shape.Plain, 1, 0)]
    [InlineData(Shape.Ept, 1, 0)]
    [InlineData(Shape.VirtualApic, 3, 0)]
    [InlineData(Shape.Shadowing, 2, 0)]
    [InlineData(Shape.Plain, 1, 5)]
    [InlineData(Shape.Ept, 1, 7)]
    [InlineData(Shape.Shadowing, 1, 11)]
    public void A_storm_of_smis_changes_nothing_that_l1_or_l2_see(Shape shape, int every, int move)
    {
        List<string> straight = Tour(shape, 0, 0, out _), stormy = Tour(shape, every, move, out ulong smis);
        Assert.Equal(straight, stormy);
        Assert.True(smis > 500, $"{smis}");
    }

    /// <summary>Section 32.14.2: what has come while the handler ran exits from L2 right behind RSM.</summary>
    [Theory]
    [InlineData(ExitReason.ExceptionOrNmi)]
    [InlineData(ExitReason.ExternalInterrupt)]
    [InlineData(ExitReason.Init)]
    [InlineData(ExitReason.PreemptionTimer)]
    [InlineData(ExitReason.InterruptWindow)]
    public void What_arrives_in_the_handler_is_an_exit_of_l2_behind_it(ExitReason reason)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, Shape.Plain, a => a.jmp(NestedMachine.L2Code));
        l1.Pin |= PinControls.NmiExiting | PinControls.ExternalInterruptExiting;
        if (reason == ExitReason.PreemptionTimer)
        {
            l1.Pin |= PinControls.PreemptionTimer;
            l1[VmcsField.PreemptionTimerValue] = 100_000;
        }
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            a.jmp(SmiGuest.Entry & 0xFFFF);
        });
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        guest.SendSmi();
        l1.Continue(10);
        switch (reason)
        {
            case ExitReason.ExceptionOrNmi:
                l1.SendNmi();
                break;
            case ExitReason.ExternalInterrupt:
                l1.Send(0x61);
                break;
            case ExitReason.Init:
                Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.Init, 0, false)));
                break;
            case ExitReason.PreemptionTimer:
                l1.Clock.Advance(10_000_000_000);
                break;
            case ExitReason.InterruptWindow:
                // The handler opens it in the flags that are in the map; L1 had asked for it.
                l1.Vcpu.Nested.Vmcs12[VmcsField.ProcessorBasedControls] |= (uint)ProcControls.InterruptWindowExiting;
                l1.Write(SmiGuest.Map(0x7FE8), [Rflags.Fixed1 | Rflags.If]);
                break;
        }
        l1.Continue(200);
        Assert.True(l1.Vcpu.SystemManagement.IsActive);
        ulong rip = guest.Read(0x7FD8);
        guest.Handler(a => a.rsm());
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal((reason, rip), (l1.Reason, l1[VmcsField.GuestRip]));
        if (reason == ExitReason.ExceptionOrNmi)
            Assert.Equal(Valid | 2u << 8 | 2, l1[VmcsField.VmExitInterruptionInformation]);
    }

    /// <summary>L2 in the HLT activity state halts again, or goes on behind HLT, as the handler says.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void L2_in_hlt_halts_again_if_the_handler_leaves_it(bool restart)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, Shape.Plain, a =>
        {
            a.hlt();
            a.vmcall();
        });
        l1.Proc &= ~ProcControls.HltExiting;
        guest.Handler(a =>
        {
            SmiGuest.Count(a);
            if (!restart)
                SmiGuest.Store(a, 0x7F00, 0);
            a.rsm();
        });
        Assert.Equal(L1Stop.Waiting, l1.Enter());
        guest.SendSmi();
        Assert.True(l1.Vcpu.IsRunnable);
        Assert.Equal(restart ? L1Stop.Waiting : L1Stop.Exit, l1.Continue());
        Assert.Equal(1ul, guest.Mark());
        if (restart)
            Assert.Equal((ulong)ActivityState.Hlt, l1.Vcpu.Vmcs[VmcsField.GuestActivityState]);
        else
            Assert.Equal(ExitReason.Vmcall, l1.Reason);
    }

    /// <summary>Rule 3 of APICv holds for the handler as for L1: what was deferred for L2 is done before it runs.</summary>
    [Fact]
    public void A_deferred_apicv_update_is_done_before_the_handler_runs()
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, Shape.Plain, a => a.jmp(NestedMachine.L2Code));
        guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        Assert.Equal(L1Stop.Running, l1.Continue(10));
        Assert.True(l1.Vcpu.Apicv.IsDeferred && l1.Vcpu.Apicv.IsActive);
        guest.SendSmi();
        Assert.Equal(L1Stop.Running, l1.Continue(10));
        Assert.False(l1.Vcpu.Apicv.IsDeferred || l1.Vcpu.Apicv.IsActive);
        l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        guest.Handler(a => a.rsm());
        Assert.Equal(L1Stop.Running, l1.Continue(10));
        Assert.True(l1.Vcpu.IsGuestMode && l1.Vcpu.Apicv.IsActive);
    }

    /// <summary>Linux's flags KVM_STATE_NESTED_SMM_GUEST_MODE and _VMXON, and its rules for them.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Nested_state_tells_what_the_smi_has_interrupted_and_takes_it_back(bool inL2)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, Shape.Ept, a => Walk(a));
        Assert.Equal(L1Stop.Running, l1.Enter(inL2 ? 2_000 : 20));
        Assert.Equal(inL2, l1.Vcpu.IsGuestMode);
        byte[] outside = LinuxNestedState.Take(l1.Vcpu).ToArray();
        Assert.Equal(0, outside[24]);
        guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
        guest.SendSmi();
        l1.Continue(10);
        byte[] inside = LinuxNestedState.Take(l1.Vcpu).ToArray();
        Assert.Equal(((byte)0, (byte)(inL2 ? 3 : 2)), (inside[0], inside[24]));
        Assert.NotNull(Put(l1, outside));
        Assert.Null(Put(l1, new NestedStateImage().ToArray()));
        Assert.False(l1.Vcpu.Nested.IsOnAnywhere);
        Assert.Null(Put(l1, inside));
        Assert.Equal(inside, LinuxNestedState.Take(l1.Vcpu).ToArray());
        guest.Handler(a => a.rsm());
        Assert.Equal(inL2 ? L1Stop.Running : L1Stop.Exit, l1.Continue(inL2 ? 2 : 100_000));
        Assert.Equal(inL2, l1.Vcpu.IsGuestMode);
        string? refusal = Put(l1, inside);
        Assert.Contains("system-management", refusal, StringComparison.Ordinal);
        if (inL2)
            Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal(ExitReason.Cpuid, l1.Reason);
    }

    /// <summary>Sections 32.3.2 and 32.14.2, for L1 and for L2: an image that no processor can have ends in shutdown.</summary>
    [Theory]
    [InlineData(0x7E40u, Cr4.Vmxe)]
    [InlineData(0x7E40u, 1ul << 31)]
    [InlineData(0x7FF8u, Cr0.Nw)]
    [InlineData(0x7FE0u, 1ul << 40)]
    [InlineData(0x7FE0u, Efer.Lma)]
    [InlineData(0x7FF0u, 1ul << 60)]
    [InlineData(0x7FE8u, Rflags.Vm)]
    public void A_bad_image_is_a_shutdown(uint offset, ulong bits)
    {
        foreach (int level in (int[])[0, 1, 2])
        {
            using var guest = new SmiGuest();
            NestedMachine l1 = guest.L1;
            if (level == 0)
            {
                Assert.Equal(L1Stop.Running, l1.RunL1(a => a.jmp(NestedMachine.Code), 100));
            }
            else
            {
                Start(l1, Shape.Plain, a => a.jmp(NestedMachine.L2Code));
                Assert.Equal(L1Stop.Running, l1.Enter(level == 1 ? 20 : 2_000));
            }
            guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
            guest.SendSmi();
            Assert.Equal(L1Stop.Running, l1.Continue(10));
            l1.Write(SmiGuest.Map(offset), [guest.Read(offset) ^ bits]);
            guest.Handler(a => a.rsm());
            // In VMX operation RFLAGS.VM does not come from the image.
            if (offset == 0x7FE8 && level > 0)
                Assert.NotEqual(L1Stop.Shutdown, l1.Continue(10));
            else
                Assert.Equal(L1Stop.Shutdown, l1.Continue(10));
        }
    }

    /// <summary>Whatever the image: the machine shuts down or goes on, and no vmcs02 fails the hardware's checks.</summary>
    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(3, 2)]
    public void Random_images_do_no_harm(int seed, int level)
    {
        var random = new Random(seed);
        int shutdowns = 0, others = 0;
        for (int k = 0; k < 150; k++)
        {
            using var guest = new SmiGuest();
            NestedMachine l1 = guest.L1;
            Start(l1, (Shape)random.Next(3), a => Walk(a));
            Assert.Equal(L1Stop.Running, l1.Enter(level == 1 ? random.Next(1, 60) : random.Next(1_500, 2_500)));
            guest.Handler(a => a.jmp(SmiGuest.Entry & 0xFFFF));
            guest.SendSmi();
            Assert.Equal(L1Stop.Running, l1.Continue(10));
            byte[] map = new byte[0x400];
            Assert.True(l1.Memory.TryRead(SmiGuest.Map(0x7C00), map));
            for (int n = random.Next(1, 6); n > 0; n--)
            {
                int at = random.Next(3) == 0 ? random.Next(0x90) : random.Next(0x240, 0x400);
                map[at] = random.Next(3) == 0 ? (byte)random.Next(256) : (byte)(map[at] ^ 1 << random.Next(8));
            }
            l1.WriteBytes(SmiGuest.Map(0x7C00), map);
            guest.Handler(a => a.rsm());
            L1Stop stop = l1.Continue(3_000);
            shutdowns += stop == L1Stop.Shutdown ? 1 : 0;
            others += stop != L1Stop.Shutdown ? 1 : 0;
        }
        Assert.True(shutdowns > 10 && others > 10, $"{shutdowns} {others}");
    }

    private static string? Put(NestedMachine l1, byte[] bytes) =>
        NestedStateImage.TryParse(bytes, out NestedStateImage? image, out string? error) ? LinuxNestedState.Put(l1.Vcpu, image) : error;

    /// <summary>A tour through entries and exits, with an SMI every so many instructions; what L1 and L2 have seen of it.</summary>
    private static List<string> Tour(Shape shape, int every, int move, out ulong smis)
    {
        using var guest = new SmiGuest();
        NestedMachine l1 = guest.L1;
        Start(l1, shape, a => Walk(a));
        l1[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.If;
        l1.Assemble(a =>
        {
            a.inc(__qword_ptr[SmiGuest.Marks + 16UL]);
            a.iretq();
        }, NestedMachine.Scratch + 0x800);
        l1.SetGate(NestedMachine.L2Idt, 0x45, NestedMachine.Scratch + 0x800);
        guest.Handler(a =>
        {
            // Of the registers EDI is the map's again behind it.
            SmiGuest.Count(a);
            a.rsm();
        });
        // Where the state moves it does so in the handler too.
        l1.MoveEvery = move;
        var random = new Random(1);
        var seen = new List<string>();
        for (int round = 0; round < 4; round++)
        {
            if (round > 0)
                l1.Skip();
            if (round == 2)
                l1[VmcsField.VmEntryInterruptionInformation] = Valid | 0x45;
            if (round == 3)
                l1[VmcsField.GuestRflags] = l1[VmcsField.GuestRflags] | Rflags.Tf;
            L1Stop stop = l1.Enter(1);
            while (stop == L1Stop.Running)
            {
                if (every > 0 && (move == 0 || (!l1.Vcpu.SystemManagement.IsActive && random.Next(3) == 0)))
                    guest.SendSmi();
                stop = l1.Continue(every == 0 ? 100_000 : move == 0 ? every + 3 : random.Next(1, 3));
            }
            Assert.Equal(L1Stop.Exit, stop);
            seen.Add($"{round}: {l1.Reason} {l1.Qualification:x} {string.Join(' ', Enumerable.Range(0, 16).Where(k => k != Gpr.Rsp).Select(k => $"{l1.Register(k):x}"))} {guest.Mark(2)}");
            seen.AddRange(VmcsCatalogue.Fields.Where(l1.Capabilities.Supports).Select(f => $"{f.Name}={l1[f.Field]:x}"));
        }
        smis = guest.Mark();
        return seen;
    }

    // L2 works for a while and executes CPUID, and so on. A single step is an exit.
    private static void Walk(Assembler a)
    {
        Label again = a.CreateLabel();
        a.mov(r8d, 1);
        a.Label(ref again);
        for (int k = 0; k < 40; k++)
        {
            a.imul(r8d, r8d, 1_103_515_245);
            a.add(r8d, 12_345);
            a.push(r8);
            a.pop(r9);
            a.add(__dword_ptr[SmiGuest.Marks + 24UL], r8d);
        }
        a.inc(r10d);
        a.test(r10d, 15);
        a.jnz(again);
        a.cpuid();
        a.jmp(again);
    }

    private static void Start(NestedMachine l1, Shape shape, Action<Assembler> program)
    {
        l1[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Db;
        switch (shape)
        {
            case Shape.Ept:
                l1.Secondary = SecondaryControls.EnableEpt | SecondaryControls.EnableVpid;
                l1[VmcsField.VirtualProcessorId] = 7;
                l1[VmcsField.EptPointer] = NestedMachine.Ept | EptPointer.AccessedDirty | 3 << 3 | 6;
                l1.Write(NestedMachine.Ept, [(NestedMachine.Ept + 0x1000) | 7]);
                l1.Write(NestedMachine.Ept + 0x1000, [6 << 3 | 0x87]);
                break;
            case Shape.VirtualApic:
                l1.Proc |= ProcControls.TprShadow | ProcControls.ActivateSecondary;
                l1.Pin |= PinControls.ExternalInterruptExiting;
                l1.Secondary |= SecondaryControls.VirtualInterruptDelivery | SecondaryControls.ApicRegisterVirtualization;
                l1[VmcsField.VirtualApicAddress] = NestedMachine.VirtualApic;
                break;
            case Shape.Shadowing:
                l1.Secondary = SecondaryControls.VmcsShadowing;
                l1[VmcsField.VmcsLinkPointer] = NestedMachine.OtherRegion;
                l1[VmcsField.VmreadBitmap] = l1[VmcsField.VmwriteBitmap] = NestedMachine.MsrBitmap;
                l1.Write(NestedMachine.OtherRegion, [l1.Capabilities.RevisionId | 1u << 31]);
                break;
        }
        l1.LoadL2(program);
    }
}
