using Iced.Intel;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>VMX instructions of L1: what each reports, by flags, error number and fault (SDM volume 3, chapter 31).</summary>
public sealed unsafe class VmxInstructionTests
{
    private const ulong Status = Rflags.Cf | Rflags.Pf | Rflags.Af | Rflags.Zf | Rflags.Sf | Rflags.Of;
    private const ulong Vmxon = NestedMachine.Scratch, Current = NestedMachine.Scratch + 8, Other = NestedMachine.Scratch + 16, Bad = NestedMachine.Scratch + 24;

    public static TheoryData<string> Errors => [.. ErrorCases.Keys];

    private static readonly Dictionary<string, (VmInstructionError Error, Action<Assembler> Program)> ErrorCases = new()
    {
        ["VMCLEAR of an address that is not aligned"] = (VmInstructionError.VmclearAddress, a => a.vmclear(__qword_ptr[Bad])),
        ["VMCLEAR of the VMXON region"] = (VmInstructionError.VmclearVmxonPointer, a => a.vmclear(__qword_ptr[Vmxon])),
        ["VMRESUME of a VMCS that is clear"] = (VmInstructionError.VmresumeNotLaunched, a => a.vmresume()),
        ["VMLAUNCH with invalid controls"] = (VmInstructionError.InvalidControls, a => a.vmlaunch()),
        ["VMPTRLD of an address that is not aligned"] = (VmInstructionError.VmptrldAddress, a => a.vmptrld(__qword_ptr[Bad])),
        ["VMPTRLD of the VMXON region"] = (VmInstructionError.VmptrldVmxonPointer, a => a.vmptrld(__qword_ptr[Vmxon])),
        ["VMPTRLD of another revision"] = (VmInstructionError.VmptrldRevision, a =>
        {
            a.mov(__dword_ptr[NestedMachine.OtherRegion], 0x1234);
            a.vmptrld(__qword_ptr[Other]);
        }
        ),
        ["VMREAD of no field"] = (VmInstructionError.UnsupportedField, a =>
        {
            a.mov(eax, 0x7FFE);
            a.vmread(rcx, rax);
        }
        ),
        ["VMWRITE of no field"] = (VmInstructionError.UnsupportedField, a =>
        {
            a.mov(eax, 0x0FFE);
            a.vmwrite(rax, rcx);
        }
        ),
        ["VMREAD of the high half of a 32-bit field"] = (VmInstructionError.UnsupportedField, a =>
        {
            a.mov(eax, (int)VmcsField.ExceptionBitmap | 1);
            a.vmread(rcx, rax);
        }
        ),
        ["VMXON in VMX operation"] = (VmInstructionError.VmxonInRoot, a => a.vmxon(__qword_ptr[Vmxon])),
        ["VMLAUNCH under blocking by MOV SS"] = (VmInstructionError.EventsBlockedByMovSs, a =>
        {
            a.mov(ax, ss);
            a.mov(ss, ax);
            a.vmlaunch();
        }
        ),
        ["INVEPT of no type"] = (VmInstructionError.InvalidInvalidation, a =>
        {
            a.mov(eax, 3);
            a.invept(rax, __xmmword_ptr[NestedMachine.Scratch + 0x500]);
        }
        ),
        ["INVVPID of VPID 0"] = (VmInstructionError.InvalidInvalidation, a =>
        {
            a.mov(eax, 1);
            a.invvpid(rax, __xmmword_ptr[NestedMachine.Scratch + 0x500]);
        }
        ),
        ["INVVPID of an address that is not canonical"] = (VmInstructionError.InvalidInvalidation, a =>
        {
            a.mov(__qword_ptr[NestedMachine.Scratch + 0x500], 1);
            a.mov(rax, 1L << 60);
            a.mov(__qword_ptr[NestedMachine.Scratch + 0x508], rax);
            a.xor(eax, eax);
            a.invvpid(rax, __xmmword_ptr[NestedMachine.Scratch + 0x500]);
        }
        ),
    };

    [Theory]
    [MemberData(nameof(Errors))]
    public void A_failure_has_zf_and_its_number(string name)
    {
        (VmInstructionError error, Action<Assembler> program) = ErrorCases[name];
        using var l1 = new NestedMachine();
        l1.Write(Bad, [NestedMachine.VmcsRegion + 8]);
        L1Stop stop = l1.RunL1(a =>
        {
            NestedMachine.StartVmx(a);
            a.mov(ecx, -1);
            a.add(ecx, 1);
            program(a);
            ReadError(a);
        });
        Assert.Equal(L1Stop.Done, stop);
        Assert.Equal((Rflags.Zf, error), (l1.EntryFlags & Status, (VmInstructionError)l1.Vcpu.State->Gpr[Gpr.Rdi]));
    }

    [Theory]
    [InlineData("VMREAD")]
    [InlineData("VMWRITE")]
    [InlineData("VMLAUNCH")]
    [InlineData("VMRESUME")]
    [InlineData("VMPTRLD")]
    public void Without_a_current_vmcs_a_failure_has_cf(string name)
    {
        using var l1 = new NestedMachine();
        l1.Write(Bad, [1]);
        L1Stop stop = l1.RunL1(a =>
        {
            NestedMachine.SetVmxe(a);
            a.vmxon(__qword_ptr[Vmxon]);
            a.xor(eax, eax);
            switch (name)
            {
                case "VMREAD": a.vmread(rcx, rax); break;
                case "VMWRITE": a.vmwrite(rax, rcx); break;
                case "VMLAUNCH": a.vmlaunch(); break;
                case "VMRESUME": a.vmresume(); break;
                default: a.vmptrld(__qword_ptr[Bad]); break;
            }
            NestedMachine.ReportFlags(a);
        });
        Assert.Equal((L1Stop.Done, Rflags.Cf), (stop, l1.EntryFlags & Status));
    }

    [Theory]
    [InlineData("VMXON without CR4.VMXE", Vector.Ud)]
    [InlineData("VMREAD outside VMX operation", Vector.Ud)]
    [InlineData("VMXOFF outside VMX operation", Vector.Ud)]
    [InlineData("VMXON without CR0.NE", Vector.Gp)]
    [InlineData("clearing CR4.VMXE in VMX operation", Vector.Gp)]
    [InlineData("clearing CR0.PG in VMX operation", Vector.Gp)]
    [InlineData("VMPTRLD of an operand that is not canonical", Vector.Gp)]
    public void What_is_not_allowed_faults(string name, uint vector)
    {
        using var l1 = new NestedMachine();
        L1Stop stop = l1.RunL1(a =>
        {
            switch (name)
            {
                case "VMXON without CR4.VMXE":
                    a.vmxon(__qword_ptr[Vmxon]);
                    break;
                case "VMREAD outside VMX operation":
                    NestedMachine.SetVmxe(a);
                    a.vmread(rcx, rax);
                    break;
                case "VMXOFF outside VMX operation":
                    NestedMachine.SetVmxe(a);
                    a.vmxoff();
                    break;
                case "VMXON without CR0.NE":
                    NestedMachine.SetVmxe(a);
                    a.mov(rax, cr0);
                    a.and(eax, ~(int)Cr0.Ne);
                    a.mov(cr0, rax);
                    a.vmxon(__qword_ptr[Vmxon]);
                    break;
                case "clearing CR4.VMXE in VMX operation":
                    NestedMachine.StartVmx(a);
                    a.mov(rax, cr4);
                    a.and(eax, ~(int)Cr4.Vmxe);
                    a.mov(cr4, rax);
                    break;
                case "clearing CR0.PG in VMX operation":
                    NestedMachine.StartVmx(a);
                    a.mov(rax, cr0);
                    a.and(eax, ~unchecked((int)Cr0.Pg));
                    a.mov(cr0, rax);
                    break;
                default:
                    NestedMachine.StartVmx(a);
                    a.mov(rax, 1L << 60);
                    a.vmptrld(__qword_ptr[rax]);
                    break;
            }
            NestedMachine.ReportFlags(a);
        });
        Assert.Equal((L1Stop.Exception, vector), (stop, l1.ExceptionVector));
    }

    /// <summary>Every field that exists takes what it has room for, in one access and in halves, and the cached VMCS reaches its region with VMCLEAR.</summary>
    [Fact]
    public void Fields_are_written_and_read_whole_and_in_halves()
    {
        using var l1 = new NestedMachine();
        VmcsFieldEntry[] fields = [.. VmcsCatalogue.Fields.Where(l1.Capabilities.Supports)];
        ulong table = NestedMachine.Log;
        const ulong Pattern = 0x8765_4321_9ABC_DEF0;
        l1.Write(table, [.. fields.SelectMany((f, k) => new ulong[] { f.Encoding, Pattern + (ulong)k * 0x0101_0101_0101, 0, 0 })]);
        L1Stop stop = l1.RunL1(a =>
        {
            Label next = a.CreateLabel(), half = a.CreateLabel();
            NestedMachine.StartVmx(a);
            a.mov(esi, (int)table);
            a.mov(edi, fields.Length);
            a.Label(ref next);
            a.mov(rax, __qword_ptr[rsi]);
            a.vmwrite(rax, __qword_ptr[rsi + 8]);
            a.vmread(__qword_ptr[rsi + 16], rax);
            // The high half exists for 64-bit fields only: bits 14:13 are 01.
            a.mov(ecx, eax);
            a.and(ecx, 0x6000);
            a.cmp(ecx, 0x2000);
            a.jne(half);
            a.or(eax, 1);
            a.vmread(__qword_ptr[rsi + 24], rax);
            a.Label(ref half);
            a.add(esi, 32);
            a.dec(edi);
            a.jnz(next);
            a.vmclear(__qword_ptr[Current]);
            NestedMachine.ReportFlags(a);
        });
        Assert.Equal(L1Stop.Done, stop);
        Dictionary<VmcsField, Vmcs12Slot> slots = Vmcs12Layout.Slots.ToDictionary(s => s.Field);
        for (int k = 0; k < fields.Length; k++)
        {
            VmcsFieldEntry field = fields[k];
            ulong at = table + (ulong)k * 32;
            ulong expected = (Pattern + (ulong)k * 0x0101_0101_0101) & field.Width switch
            {
                VmcsFieldWidth.Bits16 => 0xFFFF,
                VmcsFieldWidth.Bits32 => 0xFFFF_FFFF,
                _ => ulong.MaxValue,
            };
            Assert.True(expected == l1.Read(at + 16), $"{field.Name}: {l1.Read(at + 16):x} instead of {expected:x}");
            Assert.Equal(field.Width == VmcsFieldWidth.Bits64 ? expected >> 32 : 0, l1.Read(at + 24));
            Vmcs12Slot slot = slots[field.Field];
            ulong stored = l1.Read(NestedMachine.VmcsRegion + (ulong)slot.Offset) & (slot.Size == 8 ? ulong.MaxValue : (1UL << slot.Size * 8) - 1);
            Assert.True(expected == stored, $"{field.Name} in memory: {stored:x} instead of {expected:x}");
        }
    }

    /// <summary>VMLAUNCH needs a clear VMCS, VMRESUME a launched one, and VMCLEAR makes it clear again (SDM volume 3, section 25.1).</summary>
    [Fact]
    public void The_launch_state_follows_entries_and_vmclear()
    {
        using var l1 = new NestedMachine();
        l1.ExpectExit(ExitReason.Cpuid, a => a.cpuid());
        L1Stop stop = l1.RunL1(a =>
        {
            a.vmlaunch();
            ReadError(a);
        });
        Assert.Equal((L1Stop.Done, VmInstructionError.VmlaunchNotClear), (stop, (VmInstructionError)l1.Vcpu.State->Gpr[Gpr.Rdi]));
        stop = l1.RunL1(a =>
        {
            a.vmclear(__qword_ptr[Current]);
            a.vmptrld(__qword_ptr[Current]);
            a.vmresume();
            ReadError(a);
        });
        Assert.Equal((L1Stop.Done, VmInstructionError.VmresumeNotLaunched), (stop, (VmInstructionError)l1.Vcpu.State->Gpr[Gpr.Rdi]));
    }

    /// <summary>Reports the flags, with the error number in RDI.</summary>
    private static void ReadError(Assembler a)
    {
        a.pushfq();
        a.mov(eax, (int)VmcsField.VmInstructionError);
        a.vmread(rdi, rax);
        a.popfq();
        NestedMachine.ReportFlags(a);
    }
}
