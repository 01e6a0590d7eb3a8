using Iced.Intel;
using Vmm.Processor.State;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Sse;

/// <summary>MXCSR as the manual describes it: rounding, flags, masks, denormals (SDM volume 1, sections 10.2.3 and 11.5).</summary>
public sealed unsafe class FloatingPointTests
{
    private const uint Default = 0x1F80, Invalid = 1, Denormal = 2, ZeroDivide = 4, Overflow = 8, Underflow = 16, Inexact = 32;

    [Theory]
    [InlineData(0, 0x3FD5555555555555UL)]
    [InlineData(1, 0x3FD5555555555555UL)]
    [InlineData(2, 0x3FD5555555555556UL)]
    [InlineData(3, 0x3FD5555555555555UL)]
    public void AThirdIsRoundedAsAsked(uint mode, ulong expected)
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, 1);
        guest.SetDouble(1, 3);
        guest.State->Mxcsr = Default | mode << 13;
        Assert.Null(guest.Run(a => a.divsd(xmm0, xmm1)));
        Assert.Equal(expected, (ulong)guest[0]);
        Assert.Equal(Default | mode << 13 | Inexact, guest.State->Mxcsr);
    }

    [Theory]
    [InlineData(1.5, 2.25, 0u)]
    [InlineData(0.1, 0.2, Inexact)]
    [InlineData(double.MaxValue, double.MaxValue, Overflow | Inexact)]
    [InlineData(double.PositiveInfinity, double.NegativeInfinity, Invalid)]
    [InlineData(5e-324, 1.0, Denormal | Inexact)]
    [InlineData(0.0, -0.0, 0u)]
    public void ASumRaisesWhatItMust(double a, double b, uint flags)
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, a);
        guest.SetDouble(1, b);
        guest.State->Mxcsr = Default;
        Assert.Null(guest.Run(x => x.addsd(xmm0, xmm1)));
        Assert.Equal(Default | flags, guest.State->Mxcsr);
    }

    [Fact]
    public void ATinyProductUnderflowsOrIsFlushed()
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, 3e-200);
        guest.SetDouble(1, 1e-120);
        guest.State->Mxcsr = Default;
        Assert.Null(guest.Run(a => a.mulsd(xmm0, xmm1)));
        Assert.Equal(3e-200 * 1e-120, guest.Double(0));
        Assert.Equal(Default | Underflow | Inexact, guest.State->Mxcsr);

        guest.SetDouble(0, -3e-200);
        guest.State->Mxcsr = Default | 1 << 15;
        Assert.Null(guest.Run(a => a.mulsd(xmm0, xmm1)));
        Assert.Equal(0x8000_0000_0000_0000UL, (ulong)guest[0]);
        Assert.Equal(Default | 1 << 15 | Underflow | Inexact, guest.State->Mxcsr);
    }

    [Fact]
    public void ADenormalCountsAsZeroIfAsked()
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, 5e-324);
        guest.SetDouble(1, 1e300);
        guest.State->Mxcsr = Default | 1 << 6;
        Assert.Null(guest.Run(a => a.mulsd(xmm0, xmm1)));
        Assert.Equal(0UL, (ulong)guest[0]);
        Assert.Equal(Default | 1u << 6, guest.State->Mxcsr);
    }

    [Fact]
    public void AnUnmaskedExceptionWritesFlagsAndNothingElse()
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, 1);
        guest.SetDouble(1, 0);
        guest.State->Mxcsr = Default & ~(ZeroDivide << 7);
        Assert.Equal(Vector.Xm, guest.Run(a => a.divsd(xmm0, xmm1)));
        Assert.Equal(1.0, guest.Double(0));
        Assert.Equal((Default & ~(ZeroDivide << 7)) | ZeroDivide, guest.State->Mxcsr);

        // Without CR4.OSXMMEXCPT it is an undefined opcode.
        guest.Cr4 &= ~Cr4.Osxmmexcpt;
        guest.State->Mxcsr = Default & ~(ZeroDivide << 7);
        Assert.Equal(Vector.Ud, guest.Run(a => a.divsd(xmm0, xmm1)));
    }

    [Fact]
    public void NansKeepTheirPayloadAndTheFirstOperandsComesFirst()
    {
        using var guest = new SseGuest();
        guest[0] = 0x7FF0_0000_0000_1234;
        guest[1] = 0xFFF8_0000_0000_5678;
        guest.State->Mxcsr = Default;
        Assert.Null(guest.Run(a => a.addsd(xmm0, xmm1)));
        Assert.Equal(0x7FF8_0000_0000_1234UL, (ulong)guest[0]);
        Assert.Equal(Default | Invalid, guest.State->Mxcsr);

        guest.SetDouble(0, 0);
        guest.SetDouble(1, double.PositiveInfinity);
        Assert.Null(guest.Run(a => a.mulsd(xmm0, xmm1)));
        Assert.Equal(0xFFF8_0000_0000_0000UL, (ulong)guest[0]);
    }

    [Theory]
    [InlineData(2147483648.0, int.MinValue, Invalid)]
    [InlineData(-2147483648.0, int.MinValue, 0u)]
    [InlineData(double.NaN, int.MinValue, Invalid)]
    [InlineData(2.5, 2, Inexact)]
    [InlineData(-3.5, -4, Inexact)]
    public void ConversionsToIntegersRoundToEvenAndHaveAnIndefinite(double value, int expected, uint flags)
    {
        using var guest = new SseGuest();
        guest.SetDouble(0, value);
        guest.State->Mxcsr = Default;
        Assert.Null(guest.Run(a => a.cvtsd2si(eax, xmm0)));
        Assert.Equal(expected, (int)guest.State->Gpr[0]);
        Assert.Equal(Default | flags, guest.State->Mxcsr);
    }

    [Fact]
    public void LdmxcsrRefusesReservedBits()
    {
        using var guest = new SseGuest();
        guest.Guest.Write(SseGuest.Scratch, [0x1_1F80UL]);
        guest.State->Mxcsr = Default;
        Assert.Equal(Vector.Gp, guest.Run(a => a.ldmxcsr(__dword_ptr[(long)SseGuest.Scratch])));
        Assert.Equal(Default, guest.State->Mxcsr);
        guest.Guest.Write(SseGuest.Scratch, [0xFFC0UL]);
        Assert.Null(guest.Run(a => a.ldmxcsr(__dword_ptr[(long)SseGuest.Scratch])));
        Assert.Equal(0xFFC0u, guest.State->Mxcsr);
    }

    [Fact]
    public void ReciprocalsAreWithinTheirBound()
    {
        const double Bound = 1.5 / 4096;
        using var guest = new SseGuest();
        var random = new Random(1);
        for (int n = 0; n < 2000; n++)
        {
            float x = BitConverter.UInt32BitsToSingle((uint)random.Next(0x0080_0000, 0x7E80_0000));
            guest.SetSingle(0, x);
            guest.State->Mxcsr = Default & ~0x1F80u;
            Assert.Null(guest.Run(a =>
            {
                a.rcpss(xmm1, xmm0);
                a.rsqrtss(xmm2, xmm0);
            }));
            Assert.InRange(BitConverter.UInt32BitsToSingle((uint)guest[1]) * (double)x, 1 - Bound, 1 + Bound);
            Assert.InRange(BitConverter.UInt32BitsToSingle((uint)guest[2]) * Math.Sqrt(x), 1 - Bound, 1 + Bound);
            Assert.Equal(0u, guest.State->Mxcsr);
        }
    }

    [Theory]
    [InlineData(0x0000_0001u, 0x7F80_0000u, 0x7F80_0000u)]
    [InlineData(0x8000_0000u, 0xFF80_0000u, 0xFF80_0000u)]
    [InlineData(0x7F80_0000u, 0x0000_0000u, 0x0000_0000u)]
    [InlineData(0xFF80_0000u, 0x8000_0000u, 0xFFC0_0000u)]
    [InlineData(0x7F80_0001u, 0x7FC0_0001u, 0x7FC0_0001u)]
    [InlineData(0xBF80_0000u, 0xBF80_0000u, 0xFFC0_0000u)]
    public void ReciprocalsOfSpecialValues(uint value, uint reciprocal, uint root)
    {
        using var guest = new SseGuest();
        guest[0] = value;
        Assert.Null(guest.Run(a =>
        {
            a.rcpss(xmm1, xmm0);
            a.rsqrtss(xmm2, xmm0);
        }));
        Assert.Equal(reciprocal, (uint)guest[1]);
        Assert.Equal(root, (uint)guest[2]);
    }
}
