using System.Buffers.Binary;
using Iced.Intel;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>Nested state taken out of a vCPU and put into it, or into another one.</summary>
public sealed unsafe class LinuxNestedStateTests
{
    // Long enough for all that the program of L2 does, and for L1's part before and behind it.
    private const int Instructions = 1500;

    private static byte[] Take(NestedMachine m) => LinuxNestedState.Take(m.Vcpu).ToArray();

    private static string? Put(NestedMachine m, byte[] bytes) =>
        NestedStateImage.TryParse(bytes, out NestedStateImage? image, out string? error) ? LinuxNestedState.Put(m.Vcpu, image) : error;

    /// <summary>An L2 that changes about everything that vmcs12 has of it, is injected an interrupt, and leaves by VMCALL.</summary>
    private static NestedMachine Prepare()
    {
        var m = new NestedMachine();
        m.Pin |= PinControls.PreemptionTimer;
        m.Exit |= VmExitControls.SavePat | VmExitControls.LoadPat;
        m[VmcsField.PreemptionTimerValue] = 1_000_000;
        m.Proc |= ProcControls.TscOffsetting | ProcControls.UseMsrBitmaps;
        m[VmcsField.MsrBitmaps] = NestedMachine.MsrBitmap;
        m[VmcsField.TscOffset] = 12_345;
        m[VmcsField.Cr0Mask] = Cr0.Ts;
        m[VmcsField.Cr0Shadow] = 0;
        m[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.If;
        m[VmcsField.VmEntryInterruptionInformation] = 0x8000_0031;
        m.Assemble(a =>
        {
            a.inc(r15);
            a.iretq();
        }, NestedMachine.Handlers + 0x1800);
        m.SetGate(NestedMachine.L2Idt, 0x31, NestedMachine.Handlers + 0x1800);
        m.LoadL2(a =>
        {
            Label again = a.CreateLabel();
            a.mov(ebx, 20);
            a.Label(ref again);
            a.mov(ecx, 0xC000_0080);
            a.rdmsr();
            a.xor(eax, 1);
            a.wrmsr();
            a.mov(ecx, 0x277);
            a.mov(eax, 0x0007_0406);
            a.mov(edx, ebx);
            a.and(edx, 1);
            a.wrmsr();
            a.mov(rax, cr8);
            a.inc(eax);
            a.and(eax, 15);
            a.mov(cr8, rax);
            a.mov(rax, 0x400);
            a.mov(dr7, rax);
            a.push(rbx);
            a.pop(r14);
            a.sti();
            a.nop();
            a.cli();
            a.rdtsc();
            a.dec(ebx);
            a.jnz(again);
            a.vmcall();
        });
        return m;
    }

    private static L1Stop ToEnd(NestedMachine m)
    {
        L1Stop stop = L1Stop.Running;
        while (stop == L1Stop.Running)
            stop = m.Continue();
        return stop;
    }

    private static string Outcome(NestedMachine m, L1Stop stop)
    {
        var text = new System.Text.StringBuilder($"{stop} {m.Vcpu.Apic.TaskPriority}");
        foreach (VmcsFieldEntry field in VmcsCatalogue.Fields.Where(m.Capabilities.Supports))
            text.Append($"\n{field.Field} {m[field.Field]:x}");
        for (int register = 0; register < 16; register++)
            text.Append($"\n{register} {(register == Gpr.Rsp ? 0 : m.Register(register)):x}");
        return text.ToString();
    }

    [Fact]
    public void Taken_and_put_back_at_any_instruction_the_guest_goes_on_as_if_nothing_had_happened()
    {
        string expected;
        int entry = 1;
        using (NestedMachine m = Prepare())
        {
            m.Enter(1);
            for (; !m.Vcpu.IsGuestMode; entry++)
                m.Continue(1);
            expected = Outcome(m, ToEnd(m));
            Assert.Equal(ExitReason.Vmcall, m.Reason);
            Assert.Equal(1UL, m.Register(15));
        }
        bool inL2 = false, pending = false;
        foreach (int count in Enumerable.Range(0, Instructions / 7).Select(n => n * 7 + 1).Concat(Enumerable.Range(entry - 5, 60)))
        {
            using NestedMachine m = Prepare();
            m.Enter(count);
            byte[] bytes = Take(m);
            inL2 |= (bytes[0] & 1) != 0;
            pending |= (bytes[0] & 2) != 0;
            Assert.Null(Put(m, bytes));
            Assert.Equal(bytes, Take(m));
            Assert.Equal(expected, Outcome(m, ToEnd(m)));
        }
        Assert.True(inL2);
        Assert.True(pending);
    }

    [Fact]
    public void Another_machine_with_the_memory_and_registers_goes_on_in_L2()
    {
        string expected;
        using (NestedMachine m = Prepare())
        {
            m.Enter(1);
            expected = Outcome(m, ToEnd(m));
        }
        int moved = 0;
        for (int count = 1; count <= Instructions; count += 7)
        {
            using NestedMachine m = Prepare();
            m.Enter(count);
            byte[] bytes = Take(m);
            // The rest of L1's state is not in the image.
            if (!m.Vcpu.IsGuestMode)
                continue;
            using var other = new NestedMachine();
            CopyAllButNestedState(m, other);
            Assert.Null(Put(other, bytes));
            Assert.Equal(bytes, Take(other));
            Assert.Equal(expected, Outcome(other, ToEnd(other)));
            moved++;
        }
        Assert.True(moved > 20);
    }

    [Fact]
    public void Vmx_operation_is_left_and_entered_by_an_image()
    {
        using var m = new NestedMachine();
        byte[] off = Take(m);
        Assert.Equal(128, off.Length);
        m.ExpectExit(ExitReason.Cpuid, a => a.cpuid());
        byte[] on = Take(m);
        Assert.Equal((NestedMachine.VmxonRegion, NestedMachine.VmcsRegion), (Quad(on, 8), Quad(on, 16)));
        Assert.Equal((0x11E5_7ED0u, 1u), (BinaryPrimitives.ReadUInt32LittleEndian(on.AsSpan(128)), BinaryPrimitives.ReadUInt32LittleEndian(on.AsSpan(128 + 8))));
        Assert.Equal(10u, BinaryPrimitives.ReadUInt32LittleEndian(on.AsSpan(128 + SlotOf(VmcsField.ExitReason))));
        Assert.Null(Put(m, off));
        Assert.Equal((false, false), (m.Vcpu.Nested.IsOn, m.Vcpu.Nested.HasCurrent));
        Assert.Equal(L1Stop.Exception, m.RunL1(a => a.vmxoff()));
        Assert.Equal(6U, m.ExceptionVector);
        Assert.Null(Put(m, on));
        Assert.Equal(on, Take(m));
        // VMXON without a current VMCS.
        Assert.Equal(L1Stop.Done, m.RunL1(a =>
        {
            a.vmclear(__qword_ptr[NestedMachine.Scratch + 8]);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        byte[] none = Take(m);
        Assert.Equal((128, ulong.MaxValue), (none.Length, Quad(none, 16)));
        Assert.Null(Put(m, none));
        Assert.Equal(none, Take(m));
    }

    [Fact]
    public void An_image_without_L2_takes_the_vcpu_to_L1_as_an_exit_would()
    {
        using NestedMachine m = Prepare();
        m.Enter(1);
        ToL2(m);
        Assert.Null(Put(m, new NestedStateImage().ToArray()));
        Assert.False(m.Vcpu.IsGuestMode);
        Assert.Equal(NestedMachine.ExitHandler, m.Vcpu.Vmcs[VmcsField.GuestRip]);
        Assert.Equal(NestedMachine.Stack, m.Vcpu.Vmcs[VmcsField.GuestRsp]);
    }

    [Fact]
    public void What_waits_in_HLT_waits_on_and_wakes()
    {
        using var m = new NestedMachine();
        m.Proc &= ~ProcControls.HltExiting;
        m[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.If;
        m.Pin |= PinControls.ExternalInterruptExiting;
        m.LoadL2(a => a.hlt());
        Assert.Equal(L1Stop.Waiting, m.Enter());
        byte[] bytes = Take(m);
        Assert.Null(Put(m, bytes));
        Assert.Equal(VcpuActivity.Halted, m.Vcpu.Activity);
        Assert.Equal(L1Stop.Waiting, m.Continue());
        m.Send(0x55);
        Assert.Equal(L1Stop.Exit, m.Continue());
        Assert.Equal((ExitReason.ExternalInterrupt, 1UL), (m.Reason, m[VmcsField.GuestActivityState]));
    }

    [Fact]
    public void A_shadow_vmcs_goes_with_the_image_and_not_with_memory()
    {
        using var m = new NestedMachine();
        const ulong Shadow = NestedMachine.OtherRegion, Bitmaps = NestedMachine.IoBitmapA;
        m.Write(Shadow, [m.Capabilities.RevisionId | 1UL << 31]);
        m.Secondary |= SecondaryControls.VmcsShadowing;
        m[VmcsField.VmcsLinkPointer] = Shadow;
        m[VmcsField.VmreadBitmap] = m[VmcsField.VmwriteBitmap] = Bitmaps;
        m.LoadL2(a =>
        {
            Label spin = a.CreateLabel();
            a.mov(eax, (int)VmcsField.GuestRip);
            a.mov(ecx, 0x7777);
            a.vmwrite(rax, rcx);
            a.Label(ref spin);
            a.vmread(rdx, rax);
            a.jmp(spin);
        });
        m.Enter(1);
        ToL2(m);
        m.Continue(10);
        byte[] bytes = Take(m);
        Assert.Equal(128 + 8192, bytes.Length);
        Assert.Equal(0x7777UL, Quad(bytes, 128 + 4096 + SlotOf(VmcsField.GuestRip)));
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(128 + 4096 + SlotOf(VmcsField.GuestRip)), 0x8888);
        Assert.Null(Put(m, bytes));
        m.Continue(4);
        Assert.Equal(0x8888UL, m.Vcpu.State->Gpr[Gpr.Rdx]);
        // Its contents, and nothing in their place, must be there.
        Assert.Contains("contents are missing", Put(m, [.. Header(bytes, 128 + 4096)]), StringComparison.Ordinal);
        // Whatever becomes of the region while L2 runs is L1's business.
        m.Write(Shadow, [0]);
        m.Continue(100);
        Assert.True(m.Vcpu.IsGuestMode);
    }

    [Fact]
    public void Every_image_that_would_not_pass_VM_entry_is_refused_and_changes_nothing()
    {
        using NestedMachine m = Prepare();
        m.Enter(1);
        ToL2(m);
        m.Continue(50);
        byte[] good = Take(m);
        var random = new Random(17);
        int refused = 0;
        for (int i = 0; i < 3000; i++)
        {
            byte[] bytes = [.. good];
            bytes[128 + 40 + random.Next(960)] ^= (byte)(1 << random.Next(8));
            if (Put(m, bytes) is { } error)
            {
                Assert.NotEmpty(error);
                Assert.Equal(good, Take(m));
                refused++;
            }
            else
            {
                // What is taken runs: the hardware has no complaint that L0 did not have.
                m.Vcpu.Run(20);
                Assert.Null(Put(m, good));
            }
        }
        Assert.InRange(refused, 500, 2900);
    }

    [Fact]
    public void Capability_msrs_with_less_are_what_L1_reads_and_what_its_entries_are_judged_by()
    {
        ulong value = (ulong)(SecondaryControls.EnableEpt | SecondaryControls.EnableRdtscp) << 32;
        using var m = new NestedMachine(capabilities: new() { [VmxMsr.ProcBased2] = value });
        m.Secondary = SecondaryControls.EnableVpid;
        m[VmcsField.VirtualProcessorId] = 1;
        m.LoadL2(a => a.cpuid());
        // Its field does not exist without the control.
        Assert.Equal(L1Stop.NoEntry, m.Enter());
        using var other = new NestedMachine(capabilities: new() { [VmxMsr.ProcBased2] = value });
        other.Secondary = SecondaryControls.WbinvdExiting;
        other.LoadL2(a => a.cpuid());
        Assert.Equal((L1Stop.NoEntry, 7U), (other.Enter(), other.InstructionError));
        other.Secondary = SecondaryControls.EnableRdtscp;
        Assert.Equal(L1Stop.Exit, other.Enter());
        Assert.Equal(L1Stop.Done, other.RunL1(a =>
        {
            a.mov(ecx, (int)VmxMsr.ProcBased2);
            a.rdmsr();
            a.mov(__dword_ptr[NestedMachine.Log], eax);
            a.mov(__dword_ptr[NestedMachine.Log + 4], edx);
            NestedMachine.Report(a, L1Stop.Done);
        }));
        Assert.Equal(value, other.Read(NestedMachine.Log));
        Assert.Throws<ArgumentException>(() => new NestedMachine(capabilities: new() { [VmxMsr.ProcBased2] = ulong.MaxValue }));
    }

    [Theory]
    [InlineData(8, 1UL << 50, "VMXON pointer")]
    [InlineData(16, 1UL << 50, "current-VMCS pointer")]
    [InlineData(16, 0x4000_0000UL, "current-VMCS pointer")]
    [InlineData(128 + 8, 2UL, "launch state")]
    public void Pointers_to_nowhere_are_refused(int offset, ulong value, string what)
    {
        using var m = new NestedMachine();
        m.ExpectExit(ExitReason.Cpuid, a => a.cpuid());
        byte[] bytes = Take(m), good = [.. bytes];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(offset), value);
        Assert.Contains(what, Put(m, bytes), StringComparison.Ordinal);
        Assert.Equal(good, Take(m));
    }

    private static void ToL2(NestedMachine m)
    {
        while (!m.Vcpu.IsGuestMode || m.Vcpu.Nested.RunPending)
            m.Continue(1);
    }

    private static ulong Quad(byte[] bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(offset));

    private static int SlotOf(VmcsField field) => Vmcs12Layout.Slots.Single(slot => slot.Field == field).Offset;

    private static byte[] Header(byte[] bytes, int size)
    {
        byte[] cut = bytes[..size];
        BinaryPrimitives.WriteUInt32LittleEndian(cut.AsSpan(4), (uint)size);
        return cut;
    }

    // Memory, the registers that a VMCS does not have, and the local APIC's task priority.
    private static void CopyAllButNestedState(NestedMachine from, NestedMachine to)
    {
        byte[] memory = new byte[0xA_0000];
        Assert.True(from.Memory.TryRead(0, memory));
        to.WriteBytes(0, memory);
        new ReadOnlySpan<ulong>(from.Vcpu.State->Gpr, 16).CopyTo(new Span<ulong>(to.Vcpu.State->Gpr, 16));
        new ReadOnlySpan<ulong>(from.Vcpu.State->Dr, 4).CopyTo(new Span<ulong>(to.Vcpu.State->Dr, 4));
        to.Vcpu.State->Cr2 = from.Vcpu.State->Cr2;
        to.Vcpu.State->Dr6 = from.Vcpu.State->Dr6;
        to.Vcpu.Apic.WriteMemory(0x80, 4, from.Vcpu.Apic.TaskPriority);
        to.Vcpu.State->Cr8 = from.Vcpu.State->Cr8;
    }
}
