using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>VMX instructions leave non-root operation with everything that is needed to execute them (SDM volume 3, section 28.2.5).</summary>
public sealed class VmxInstructionExitTests
{
    // Address size in bits 9:7, segment in 17:15, index in 21:18 (22: none), base in 26:23 (27: none).
    private const uint Size32 = 1 << 7, Size64 = 2 << 7, Register = 1 << 10, NoIndex = 1 << 22, NoBase = 1 << 27;

    private static uint At(int @base, int index = -1, int scale = 0, int segment = Seg.Ds) =>
        (uint)scale | (uint)segment << 15 | (index < 0 ? NoIndex : (uint)index << 18) | (@base < 0 ? NoBase : (uint)@base << 23);

    public static TheoryData<string, ExitReason, int, uint, ulong> Forms => new()
    {
        { "vmcall", ExitReason.Vmcall, 3, 0, 0 },
        { "vmlaunch", ExitReason.Vmlaunch, 3, 0, 0 },
        { "vmresume", ExitReason.Vmresume, 3, 0, 0 },
        { "vmxoff", ExitReason.Vmxoff, 3, 0, 0 },
        { "vmxon", ExitReason.Vmxon, 5, Size64 | At(Gpr.Rax), 8 },
        { "vmclear", ExitReason.Vmclear, 11, Size64 | At(9, Gpr.Rbx, 2, Seg.Fs), unchecked((ulong)-0x12345L) },
        { "vmptrld", ExitReason.Vmptrld, 4, Size64 | At(Gpr.Rsp, segment: Seg.Ss), 0 },
        { "vmptrst", ExitReason.Vmptrst, 4, Size32 | At(Gpr.Rax), 0 },
        { "vmread r", ExitReason.Vmread, 3, Register | Gpr.Rdx << 3 | (uint)Gpr.Rcx << 28, 0 },
        { "vmread m", ExitReason.Vmread, 5, Size64 | At(12) | 13u << 28, 0 },
        { "vmwrite r", ExitReason.Vmwrite, 3, Register | Gpr.Rdx << 3 | (uint)Gpr.Rcx << 28, 0 },
        { "vmwrite m", ExitReason.Vmwrite, 8, Size64 | At(-1) | (uint)Gpr.Rsi << 28, 0x4000 },
        { "invept", ExitReason.Invept, 6, Size64 | At(Gpr.Rax) | 8u << 28, 0 },
        { "invvpid", ExitReason.Invvpid, 5, Size64 | At(Gpr.Rdi) | (uint)Gpr.Rbx << 28, 0 },
    };

    private static void Emit(Assembler a, string form)
    {
        switch (form)
        {
            case "vmcall": a.vmcall(); break;
            case "vmlaunch": a.vmlaunch(); break;
            case "vmresume": a.vmresume(); break;
            case "vmxoff": a.vmxoff(); break;
            case "vmxon": a.vmxon(__[rax + 8]); break;
            case "vmclear": a.vmclear(__.fs[r9 + rbx * 4 - 0x12345]); break;
            case "vmptrld": a.vmptrld(__[rsp]); break;
            case "vmptrst": a.vmptrst(__[eax]); break;
            case "vmread r": a.vmread(rdx, rcx); break;
            case "vmread m": a.vmread(__qword_ptr[r12], r13); break;
            case "vmwrite r": a.vmwrite(rcx, rdx); break;
            case "vmwrite m": a.vmwrite(rsi, __qword_ptr[0x4000]); break;
            case "invept": a.invept(r8, __[rax]); break;
            default: a.invvpid(rbx, __[rdi]); break;
        }
    }

    [Theory]
    [MemberData(nameof(Forms))]
    public void TheOperandsAreInTheExitInformation(string form, ExitReason reason, int length, uint information, ulong qualification)
    {
        using VmxGuest guest = new VmxGuest().InUserMode();
        guest[VmcsField.IdtVectoringInformation] = 1UL << 31;
        guest[VmcsField.VmExitInterruptionInformation] = 1UL << 31;
        Assert.Equal(reason, guest.Run(a =>
        {
            a.nop();
            Emit(a, form);
        }));
        // An operand without base and index may be encoded with a SIB byte or without.
        if (form != "vmwrite m")
            Assert.Equal((ulong)length, guest[VmcsField.VmExitInstructionLength]);
        Assert.Equal(TestGuest.CodeBase + 1, guest[VmcsField.GuestRip]);
        Assert.Equal((ulong)reason, guest[VmcsField.ExitReason]);
        Assert.Equal(qualification, guest[VmcsField.ExitQualification]);
        if (information != 0)
            Assert.Equal(information, guest.Vmcs.Read32(VmcsField.VmExitInstructionInformation));
        Assert.Equal(0UL, guest[VmcsField.IdtVectoringInformation] >> 31);
        Assert.Equal(0UL, guest[VmcsField.VmExitInterruptionInformation] >> 31);
    }

    [Fact]
    public void ARipRelativeOperandGivesItsAddress()
    {
        using var guest = new VmxGuest();
        Assert.Equal(ExitReason.Vmptrld, guest.Run(a =>
        {
            Label here = a.CreateLabel();
            a.nop();
            a.vmptrld(__[here]);
            a.Label(ref here);
            a.nop();
        }));
        Assert.Equal(guest[VmcsField.GuestRip] + guest[VmcsField.VmExitInstructionLength], guest[VmcsField.ExitQualification]);
        Assert.Equal(Size64 | At(-1), guest.Vmcs.Read32(VmcsField.VmExitInstructionInformation));
    }

    [Theory]
    [InlineData("real")]
    [InlineData("virtual-8086")]
    [InlineData("compatibility")]
    public void OutsideProtectedAnd64BitModeOnlyVmcallExits(string mode)
    {
        using var guest = new VmxGuest();
        guest[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Ud;
        switch (mode)
        {
            case "real":
                guest.InRealMode();
                break;
            case "virtual-8086":
                guest.InProtectedMode();
                guest[VmcsField.GuestRflags] |= Rflags.Vm;
                for (int k = Seg.Es; k <= Seg.Gs; k++)
                    guest.Guest.SetSegment(k, 0x1000, 0x1_0000, 0xFFFF, 0xF3);
                guest[VmcsField.GuestRip] = 0;
                break;
            default:
                guest[VmcsField.GuestCsAccessRights] = 0xC09B;
                break;
        }
        guest.Guest.Write(mode == "real" ? 0x7C00UL : TestGuest.CodeBase, [0x0F, 0x78, 0xC0, 0x0F, 0x01, 0xC1]);
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Resume());
        Assert.Equal(0x8000_0306UL, guest[VmcsField.VmExitInterruptionInformation]);
        guest[VmcsField.GuestRip] += 3;
        Assert.Equal(ExitReason.Vmcall, guest.Resume());
    }

    [Fact]
    public void AMemoryOperandIsNeeded()
    {
        using var guest = new VmxGuest();
        guest[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Ud;
        // VMPTRLD RAX does not exist: the opcode with a register is another instruction's, RDRAND.
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run(a => a.db(0xF3, 0x0F, 0xC7, 0xF0)));
        Assert.Equal(ExitReason.ExceptionOrNmi, guest.Run(a => a.db(0x66, 0x0F, 0x38, 0x80, 0xC0)));
    }
}
