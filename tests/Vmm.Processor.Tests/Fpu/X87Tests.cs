using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.Sse;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Fpu;

/// <summary>The x87 stack, its exceptions and its images in memory (SDM volume 1, chapter 8).</summary>
public sealed unsafe class X87Tests
{
    private const ulong Scratch = SseGuest.Scratch;
    private const ushort Summary = 0x8080, C1 = 0x200;

    [Fact]
    public void FninitSetsTheDefaults()
    {
        using var guest = new SseGuest();
        guest.State->Fcw = 0;
        guest.State->Fsw = 0xFF;
        guest.State->FpuTop = 3;
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fnstcw(__word_ptr[(long)Scratch]);
            a.fnstsw(ax);
        }));
        Assert.Equal(0x37F, guest.Guest.Read<ushort>(Scratch));
        Assert.Equal(0, (ushort)guest.State->Gpr[0]);
        Assert.Equal(0, guest.State->Ftw);
    }

    [Fact]
    public void AnUnmaskedExceptionFaultsAtTheNextWaitingInstruction()
    {
        using var guest = new SseGuest();
        guest.Guest.Write(Scratch, [0x037BUL]);
        Assert.Equal(Vector.Mf, guest.Run(a =>
        {
            a.fninit();
            a.fldcw(__word_ptr[(long)Scratch]);
            a.fld1();
            a.fldz();
            // 1 / 0 with ZM clear: the operands stay, nothing faults yet.
            a.fdiv(st1, st0);
            a.fnstsw(ax);
            a.mov(ebx, 1);
            a.wait();
            a.mov(ebx, 2);
        }));
        Assert.Equal(1UL, guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(Summary | 4UL, guest.State->Gpr[Gpr.Rax] & (Summary | 4UL));
        Assert.Equal(0x8000_0000_0000_0000UL, *(ulong*)St(guest, 1));
        Assert.Equal(0x3FFF, *(ushort*)(St(guest, 1) + 8));
    }

    [Fact]
    public void TheNinthPushOverflowsTheStack()
    {
        using var guest = new SseGuest();
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            for (int n = 0; n < 9; n++)
                a.fld1();
            a.fnstsw(ax);
        }));
        Assert.Equal(0x41 | C1, (int)guest.State->Gpr[0] & (0xFF | C1));
        Assert.Equal(0xFFFF, *(ushort*)(St(guest, 0) + 8));
        Assert.Equal(0xC000_0000_0000_0000UL, *(ulong*)St(guest, 0));
    }

    [Theory]
    [InlineData(0x007F, 0xAAAA_AB00_0000_0000UL)]
    [InlineData(0x027F, 0xAAAA_AAAA_AAAA_A800UL)]
    [InlineData(0x037F, 0xAAAA_AAAA_AAAA_AAABUL)]
    [InlineData(0x0F7F, 0xAAAA_AAAA_AAAA_AAAAUL)]
    [InlineData(0x0B7F, 0xAAAA_AAAA_AAAA_AAABUL)]
    public void PrecisionAndRoundingControlHold(ushort control, ulong significand)
    {
        using var guest = new SseGuest();
        guest.Guest.Write(Scratch, [control | 3UL << 32]);
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fldcw(__word_ptr[(long)Scratch]);
            a.fld1();
            a.fidiv(__dword_ptr[(long)Scratch + 4]);
        }));
        Assert.Equal(significand, *(ulong*)St(guest, 0));
        Assert.Equal(0x3FFD, *(ushort*)(St(guest, 0) + 8));
        Assert.Equal(0x20, guest.State->Fsw & 0x3F);
    }

    [Fact]
    public void FnstenvHasTheProtectedModeLayoutAndMasksEverything()
    {
        using var guest = new SseGuest();
        guest.Guest.Write(Scratch + 64, [BitConverter.DoubleToUInt64Bits(2.0)]);
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fldz();
            a.fld(__qword_ptr[(long)Scratch + 64]);
            a.fnstenv(__[(long)Scratch]);
        }));
        Assert.Equal(0xFFFF_037Fu, guest.Guest.Read<uint>(Scratch));
        Assert.Equal(0xFFFF_0000u | 6 << 11, guest.Guest.Read<uint>(Scratch + 4));
        // ST(0) in R6 is valid, ST(1) in R7 is zero, all others are empty.
        Assert.Equal(0xFFFF_4FFFu, guest.Guest.Read<uint>(Scratch + 8));
        // FNINIT and FLDZ have two bytes each.
        Assert.Equal((uint)TestGuest.CodeBase + 4, guest.Guest.Read<uint>(Scratch + 12));
        Assert.Equal((uint)Scratch + 64, guest.Guest.Read<uint>(Scratch + 20));
        Assert.Equal(0x37F, guest.State->Fcw);
    }

    [Fact]
    public void FsaveAndFrstorKeepEverything()
    {
        using var guest = new SseGuest();
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fldpi();
            a.fldl2e();
            a.fnsave(__[(long)Scratch]);
            a.fnstsw(ax);
            a.frstor(__[(long)Scratch]);
            a.fmulp(st1, st0);
        }));
        Assert.Equal(0, (ushort)guest.State->Gpr[0]);
        Assert.Equal(7, guest.State->FpuTop);
        // pi * log2(e) = 4.5323601418271938...
        Assert.Equal(0x4001, *(ushort*)(St(guest, 0) + 8));
        Assert.Equal(0x9109_1822_DAEF_5CE2UL >> 8, *(ulong*)St(guest, 0) >> 8);
    }

    [Fact]
    public void PackedDecimalsGoBothWays()
    {
        using var guest = new SseGuest();
        guest.Guest.Write(Scratch, [0x3456_7890_1234_5678UL, 0x8012]);
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fbld(__tbyte_ptr[(long)Scratch]);
            a.fld(st0);
            a.fbstp(__tbyte_ptr[(long)Scratch + 32]);
            a.fistp(__qword_ptr[(long)Scratch + 64]);
        }));
        Assert.Equal(-123456789012345678L, guest.Guest.Read<long>(Scratch + 64));
        Assert.Equal(0x3456_7890_1234_5678UL, guest.Guest.Read<ulong>(Scratch + 32));
        Assert.Equal(0x8012, guest.Guest.Read<ushort>(Scratch + 40));
    }

    [Fact]
    public void MmxMakesTheRegistersValidAndEmmsEmpty()
    {
        using var guest = new SseGuest();
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fld1();
            a.pcmpeqb(mm3, mm3);
            a.fnstsw(ax);
        }));
        Assert.Equal(0, (ushort)guest.State->Gpr[0]);
        Assert.Equal(0xFF, guest.State->Ftw);
        Assert.Equal(ulong.MaxValue, guest.State->Fpu[6]);
        Assert.Equal(0xFFFFUL, guest.State->Fpu[7]);
        Assert.Null(guest.Run(a => a.emms()));
        Assert.Equal(0, guest.State->Ftw);
    }

    private static byte* St(SseGuest guest, int n) => (byte*)guest.State + CpuState.FpuOffset + ((guest.State->FpuTop + n) & 7) * 16;
}
