using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>The enlightened VMCS, version 1, and what of the Hyper-V interface leads to it (Hypervisor Top-Level Functional Specification).</summary>
public sealed unsafe class EnlightenedVmcsTests
{
    [Fact]
    public void Every_field_is_where_the_specification_has_it()
    {
        (VmcsField, int)[] ours = [.. EnlightenedVmcsLayout.Slots.ToArray().Select(slot => (slot.Field, slot.Offset)).OrderBy(pair => pair.Offset)];
        Assert.Equal(EnlightenedVmcsOffsets.All.Select(entry => (entry.Field, entry.Offset)).OrderBy(pair => pair.Offset), ours);
        Assert.Equal(EnlightenedVmcsLayout.InstructionError, EnlightenedVmcsOffsets.Of(VmcsField.VmInstructionError));
    }

    /// <summary>Whatever L1 is offered has its fields: there is no other way for it to fill them in.</summary>
    [Fact]
    public void What_is_offered_has_its_fields()
    {
        using var l1 = new NestedMachine(enlightened: true);
        // Of the dual-monitor treatment, which no processor here has.
        VmcsField[] unused = [VmcsField.ExecutiveVmcsPointer, VmcsField.GuestSmbase];
        VmcsField[] offered = [.. VmcsCatalogue.Fields.Where(l1.Capabilities.Supports).Select(field => field.Field)];
        Assert.Empty(offered.Except(EnlightenedVmcsOffsets.All.Select(entry => entry.Field)).Except(unused));
        Assert.False(l1.Capabilities.Allows(SecondaryControls.VmcsShadowing) || l1.Capabilities.Allows(PinControls.PostedInterrupts));
        Assert.True(l1.Capabilities.Allows(SecondaryControls.EnableEpt) && l1.Capabilities.Allows(SecondaryControls.UnrestrictedGuest));
        // Restricted further, and the other way round.
        Assert.NotNull(new ProcessorModel(1) { EnlightenedVmcs = true }.RestrictVmx(new Dictionary<uint, ulong> { [VmxMsr.ProcBased2] = (ulong)SecondaryControls.EnableEpt << 32 }, out _));
    }

    [Fact]
    public void Cpuid_has_the_interface_only_where_it_is_asked_for()
    {
        CpuidResult Query(bool enlightened, uint leaf) => CpuidModel.Query(new ProcessorModel(2) { EnlightenedVmcs = enlightened }, default, leaf, 0);
        CpuidResult vendor = Query(true, 0x4000_0000);
        Assert.Equal(0x4000_000Au, vendor.Eax);
        Assert.Equal("Microsoft Hv", System.Text.Encoding.ASCII.GetString([.. BitConverter.GetBytes(vendor.Ebx), .. BitConverter.GetBytes(vendor.Ecx), .. BitConverter.GetBytes(vendor.Edx)]));
        Assert.Equal("Hv#1", System.Text.Encoding.ASCII.GetString(BitConverter.GetBytes(Query(true, 0x4000_0001).Eax)));
        Assert.Equal((1u << 14, 0x101u), (Query(true, 0x4000_0004).Eax & 1 << 14, Query(true, 0x4000_000A).Eax));
        Assert.Equal(0x4000_0000u, Query(false, 0x4000_0000).Eax);
        Assert.Equal(Query(false, 0x16), Query(false, 0x4000_000A));
    }

    [Fact]
    public void The_registers_of_the_interface()
    {
        using var guest = new EnlightenedGuest();
        NestedMachine l1 = guest.L1;
        const ulong page = 0x10_4000;
        Assert.Equal(L1Stop.Done, l1.RunL1(a =>
        {
            // Without an identity there is no hypercall page.
            EnlightenedGuest.WriteMsr(a, EnlightenedGuest.Hypercall, page | 1);
            a.rdmsr();
            a.mov(ebx, eax);
            EnlightenedGuest.WriteMsr(a, EnlightenedGuest.GuestOsId, 0x1234);
            EnlightenedGuest.WriteMsr(a, EnlightenedGuest.Hypercall, page | 1);
            a.mov(ecx, (int)EnlightenedGuest.VpIndex);
            a.rdmsr();
            a.mov(esi, eax);
            a.mov(rax, page);
            a.call(rax);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        CpuState* s = l1.Vcpu.State;
        // RAX has the report's number now; the call came back, which the code behind it shows.
        Assert.Equal((0ul, 0ul), (s->Gpr[Gpr.Rbx], s->Gpr[Gpr.Rsi]));
        Assert.Equal(0xC3C1_010Fu, (uint)l1.Read(page));
        foreach ((uint msr, ulong value) in new[] { (EnlightenedGuest.VpIndex, 1ul), (EnlightenedGuest.VpAssistPage, 0x7F00_0000_0001ul), (0x4000_0020u, 0ul) })
        {
            Assert.Equal(L1Stop.Exception, l1.RunL1(a => EnlightenedGuest.WriteMsr(a, msr, value)));
            Assert.Equal(Vector.Gp, l1.ExceptionVector);
        }
        using var plain = new NestedMachine();
        Assert.Equal(L1Stop.Exception, plain.RunL1(a => EnlightenedGuest.WriteMsr(a, EnlightenedGuest.GuestOsId, 1)));
    }

    [Fact]
    public void A_hypercall_that_there_is_not_says_so()
    {
        using var guest = new EnlightenedGuest();
        Assert.Equal(L1Stop.Done, guest.L1.RunL1(a =>
        {
            EnlightenedGuest.WriteMsr(a, EnlightenedGuest.GuestOsId, 1);
            a.vmcall();
            a.mov(rbx, rax);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        Assert.Equal(2ul, guest.L1.Vcpu.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void L1_enters_and_resumes_l2_by_the_structure_alone()
    {
        using var guest = new EnlightenedGuest();
        Assert.Equal(L1Stop.Exit, guest.Start(Counts));
        Assert.Equal((10u, NestedMachine.L2Code + 5, 2ul, NestedMachine.L2Stack), (guest.Reason, guest[VmcsField.GuestRip], guest[VmcsField.VmExitInstructionLength], guest[VmcsField.GuestRsp]));
        Assert.Equal((1ul, EnlightenedGuest.Structure, false), (guest.L2Rax, guest.L1.Vcpu.Nested.EnlightenedPointer, guest.L1.Vcpu.Nested.HasCurrent));
        guest.Resumes = true;
        for (ulong round = 2; round < 6; round++)
        {
            // RIP counts also where everything is clean.
            guest.Clean = 0xFFFF;
            guest[VmcsField.GuestRip] += 2;
            Assert.Equal(L1Stop.Exit, guest.Continue());
            Assert.Equal((10u, round), (guest.Reason, guest.L2Rax));
        }
    }

    [Theory]
    [InlineData(0, VmcsField.IoBitmapA, 0x5000)]
    [InlineData(1, VmcsField.MsrBitmaps, 0x5000)]
    [InlineData(2, VmcsField.TscOffset, 77)]
    [InlineData(3, VmcsField.SecondaryControls, (ulong)SecondaryControls.EnableEpt)]
    [InlineData(4, VmcsField.ProcessorBasedControls, 0)]
    [InlineData(5, VmcsField.VmEntryInstructionLength, 3)]
    [InlineData(6, VmcsField.VmEntryControls, 0)]
    [InlineData(7, VmcsField.ExceptionBitmap, 0x40)]
    [InlineData(8, VmcsField.Cr0Shadow, 0x55)]
    [InlineData(9, VmcsField.VirtualProcessorId, 9)]
    [InlineData(10, VmcsField.GuestRsp, 0x7777)]
    [InlineData(11, VmcsField.GuestSysenterEsp, 0x77)]
    [InlineData(12, VmcsField.GuestFsBase, 0x77)]
    [InlineData(13, VmcsField.HostFsBase, 0x77)]
    [InlineData(14, VmcsField.HostSysenterCs, 0x77)]
    [InlineData(-1, VmcsField.TprThreshold, 5)]
    [InlineData(-1, VmcsField.PageFaultErrorCodeMask, 5)]
    public void What_is_clean_is_not_read_again(int group, VmcsField field, ulong value)
    {
        using var guest = new EnlightenedGuest();
        Assert.Equal(L1Stop.Exit, guest.Start(Counts));
        Vmcs vmcs12 = guest.L1.Vcpu.Nested.Vmcs12;
        if (value == 0)
            value = guest[field] ^ (field == VmcsField.VmEntryControls ? (ulong)VmEntryControls.LoadPat : (ulong)ProcControls.RdtscExiting);
        ulong before = guest[field];
        Assert.NotEqual(value, before);
        Assert.Equal(before, vmcs12[field]);
        guest.Resumes = true;
        void Resume(uint clean, bool taken)
        {
            guest.Clean = clean;
            guest[field] = value;
            guest[VmcsField.GuestRip] += 2;
            Assert.Equal(L1Stop.Exit, guest.Continue());
            Assert.Equal(10u, guest.Reason);
            Assert.Equal(taken ? value : before, vmcs12[field]);
        }

        Resume(0xFFFF, taken: group < 0);
        Resume(group < 0 ? 0 : 0xFFFFu & ~(1u << group), taken: true);
        // VMLAUNCH does not look at what is clean.
        value = before;
        guest.Resumes = false;
        before = vmcs12[field];
        Resume(0xFFFF, taken: true);
    }

    [Fact]
    public void Another_structure_is_read_whole_and_vmclear_forgets()
    {
        using var guest = new EnlightenedGuest();
        guest.Fill(EnlightenedGuest.OtherStructure);
        guest.Write(EnlightenedGuest.OtherStructure, VmcsField.ExceptionBitmap, 0x1234_0000);
        Assert.Equal(L1Stop.Exit, guest.Start(Counts));
        NestedMachine l1 = guest.L1;
        l1.WriteBytes(EnlightenedGuest.OtherStructure + 824, [0xFF, 0xFF]);
        l1.Write(EnlightenedGuest.AssistPage + 48, [EnlightenedGuest.OtherStructure]);
        guest.Resumes = true;
        Assert.Equal(L1Stop.Exit, guest.Continue());
        Assert.Equal((EnlightenedGuest.OtherStructure, 0x1234_0000ul), (l1.Vcpu.Nested.EnlightenedPointer, l1.Vcpu.Nested.Vmcs12[VmcsField.ExceptionBitmap]));
        Assert.Equal(10ul, guest.Read(EnlightenedGuest.OtherStructure, VmcsField.ExitReason));
        byte[] before = new byte[4096], after = new byte[4096];
        Assert.True(l1.Memory.TryRead(EnlightenedGuest.OtherStructure, before));
        l1.Write(NestedMachine.Scratch + 0x100, [EnlightenedGuest.OtherStructure]);
        Assert.Equal(L1Stop.Done, l1.RunL1(a =>
        {
            a.vmclear(__qword_ptr[NestedMachine.Scratch + 0x100]);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        Assert.True(l1.Memory.TryRead(EnlightenedGuest.OtherStructure, after));
        Assert.Equal(before, after);
        Assert.False(l1.Vcpu.Nested.IsEnlightened);
    }

    [Fact]
    public void Vmread_reads_the_structure_and_vmwrite_fails()
    {
        using var guest = new EnlightenedGuest();
        Assert.Equal(L1Stop.Exit, guest.Start(Counts));
        guest[VmcsField.GuestFsBase] = 0x4321;
        NestedMachine l1 = guest.L1;
        Assert.Equal(L1Stop.Done, l1.RunL1(a =>
        {
            a.mov(eax, (int)VmcsField.GuestFsBase);
            a.vmread(rbx, rax);
            a.mov(eax, (int)VmcsField.ExitReason);
            a.vmread(rsi, rax);
            a.mov(eax, (int)VmcsField.GuestFsBase);
            a.vmwrite(rax, rbx);
            NestedMachine.ReportFlags(a);
        }));
        CpuState* s = l1.Vcpu.State;
        Assert.Equal((0x4321ul, 10ul, Rflags.Cf), (s->Gpr[Gpr.Rbx], s->Gpr[Gpr.Rsi], l1.EntryFlags & (Rflags.Cf | Rflags.Zf)));
    }

    /// <summary>VMfailValid, a failed entry, and what is no enlightened VMCS.</summary>
    [Fact]
    public void Entries_that_fail_say_so_in_the_structure()
    {
        using var guest = new EnlightenedGuest();
        ulong pin = guest[VmcsField.PinBasedControls];
        guest[VmcsField.PinBasedControls] = 0xFFFF_FFFF;
        Assert.Equal(L1Stop.NoEntry, guest.Start(Counts));
        Assert.Equal((Rflags.Zf, 7ul), (guest.EntryFlags & (Rflags.Cf | Rflags.Zf), guest[VmcsField.VmInstructionError]));
        guest[VmcsField.PinBasedControls] = pin;
        guest[VmcsField.GuestRflags] = 0;
        Assert.Equal(L1Stop.Exit, guest.Continue());
        Assert.Equal((0x8000_0021u, 0ul), (guest.Reason, guest[VmcsField.GuestRflags]));
        guest[VmcsField.GuestRflags] = Rflags.Fixed1;
        Assert.Equal(L1Stop.Exit, guest.Continue());
        Assert.Equal(10u, guest.Reason);
    }

    [Theory]
    [InlineData(0x10_5000ul, false)]
    [InlineData(0x7000_0000ul, true)]
    [InlineData(0x10_0008ul, true)]
    public void What_is_no_structure_is_refused(ulong pointer, bool undefined)
    {
        using var guest = new EnlightenedGuest();
        guest.L1.Write(EnlightenedGuest.AssistPage + 48, [pointer]);
        Assert.Equal(undefined ? L1Stop.Exception : L1Stop.NoEntry, guest.Start(Counts));
        if (undefined)
            Assert.Equal(Vector.Ud, guest.L1.ExceptionVector);
        else
            Assert.Equal(Rflags.Cf, guest.EntryFlags & (Rflags.Cf | Rflags.Zf));
    }

    [Fact]
    public void Without_an_assist_page_a_current_vmcs_is_needed()
    {
        using var guest = new EnlightenedGuest();
        Assert.Equal(L1Stop.NoEntry, guest.Start(Counts, assist: false));
        Assert.Equal(Rflags.Cf, guest.EntryFlags & (Rflags.Cf | Rflags.Zf));
        // And that works as without the interface.
        using var l1 = new NestedMachine(enlightened: true);
        l1.ExpectExit(ExitReason.Cpuid, a => a.cpuid());
    }

    /// <summary>Saved and loaded at every step, taken out and put back in Linux's form, and interrupted by SMIs.</summary>
    [Theory]
    [InlineData(1, false)]
    [InlineData(0, true)]
    public void Its_state_goes_with_the_machine(int moveEvery, bool image)
    {
        using var guest = new EnlightenedGuest();
        NestedMachine l1 = guest.L1;
        Assert.Equal(L1Stop.Exit, guest.Start(Counts));
        l1.MoveEvery = moveEvery;
        guest.Resumes = true;
        for (ulong round = 2; round < 8; round++)
        {
            guest.Clean = 0xFFFF;
            guest[VmcsField.GuestRip] += 2;
            L1Stop stop;
            bool inL2 = false;
            do
            {
                if (image)
                {
                    byte[] bytes = LinuxNestedState.Take(l1.Vcpu).ToArray();
                    Assert.Equal(4, bytes[0] & 4);
                    Assert.Equal(ulong.MaxValue, BitConverter.ToUInt64(bytes, 16));
                    Assert.True(NestedStateImage.TryParse(bytes, out NestedStateImage? parsed, out string? error), error);
                    Assert.Null(LinuxNestedState.Put(l1.Vcpu, parsed));
                    Assert.Equal(bytes, LinuxNestedState.Take(l1.Vcpu).ToArray());
                }
                stop = l1.Continue(1);
                inL2 |= l1.Vcpu.IsGuestMode;
            }
            while (stop == L1Stop.Running);
            Assert.Equal((L1Stop.Exit, 10u, round, true), (stop, guest.Reason, guest.L2Rax, inL2));
        }
    }

    [Fact]
    public void An_smi_leaves_it_active()
    {
        using var guest = new EnlightenedGuest();
        NestedMachine l1 = guest.L1;
        Assert.Equal(L1Stop.Running, StartSpinning(guest));
        // RSM at the power-up entry point.
        l1.WriteBytes(0x3_8000, [0x0F, 0xAA]);
        Assert.True(l1.Bus.Deliver(new(0, false, DeliveryMode.Smi, 0, false)));
        Assert.Equal(L1Stop.Running, l1.Continue(50));
        Assert.Equal((true, EnlightenedGuest.Structure), (l1.Vcpu.IsGuestMode, l1.Vcpu.Nested.EnlightenedPointer));
        l1.SendNmi();
        Assert.Equal(L1Stop.Exit, l1.Continue());
        Assert.Equal(0u, guest.Reason);
    }

    /// <summary>Whatever is in the structure: the entry fails or L2 runs, and no vmcs02 fails the hardware's checks.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Random_structures_do_no_harm(int seed)
    {
        var random = new Random(seed);
        var stops = new HashSet<L1Stop>();
        for (int k = 0; k < 200; k++)
        {
            using var guest = new EnlightenedGuest();
            for (int n = random.Next(1, 8); n > 0; n--)
            {
                (VmcsField field, _, _) = EnlightenedVmcsOffsets.All[random.Next(EnlightenedVmcsOffsets.All.Length)];
                guest[field] = random.Next(3) == 0 ? (ulong)random.NextInt64() : guest[field] ^ 1ul << random.Next(64);
            }
            L1Stop stop = guest.Start(Counts);
            stops.Add(stop);
            guest.Resumes = true;
            guest.Clean = (uint)random.Next(0x1_0000);
            if (stop is L1Stop.Exit or L1Stop.NoEntry)
                stops.Add(guest.Continue());
        }
        Assert.Contains(L1Stop.Exit, stops);
        Assert.Contains(L1Stop.NoEntry, stops);
    }

    [Fact]
    public void A_vmx_abort_has_its_indicator_in_the_structure()
    {
        using var guest = new EnlightenedGuest();
        guest.L1.Write(NestedMachine.MsrAreas, [0x800, 0]);
        guest[VmcsField.VmExitMsrStoreAddress] = NestedMachine.MsrAreas;
        guest[VmcsField.VmExitMsrStoreCount] = 1;
        Assert.Equal(L1Stop.Shutdown, guest.Start(Counts));
        Assert.Equal(1u, (uint)(guest.L1.Read(EnlightenedGuest.Structure) >> 32));
    }

    private static L1Stop StartSpinning(EnlightenedGuest guest)
    {
        guest[VmcsField.PinBasedControls] |= (uint)PinControls.NmiExiting;
        return guest.Start(a => a.jmp(NestedMachine.L2Code));
    }

    private static void Counts(Assembler a)
    {
        Label again = a.CreateLabel();
        a.xor(eax, eax);
        a.Label(ref again);
        a.inc(eax);
        a.nop();
        a.cpuid();
        a.jmp(again);
    }
}
