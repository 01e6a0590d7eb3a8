using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.Sse;
using Xunit;

namespace Vmm.Processor.Tests.Sse;

/// <summary>What hosts without the instructions use: AES by table, against FIPS 197; the fast path of floating point, against the software.</summary>
public sealed class PortablePathTests
{
    [Fact]
    public void AesEncryptsTheExampleOfFips197()
    {
        // Appendix B: the input, the first round key and the state after round 1.
        Vector128<byte> state = Parse("3243f6a8885a308d313198a2e0370734") ^ Parse("2b7e151628aed2a6abf7158809cf4f3c");
        Assert.Equal(Parse("046681e5e0cb199a48f8d37a2806264c"), AesCipher.MixColumns(AesCipher.SubShift(state)));
    }

    [Fact]
    public void AesStepsInvertEachOther()
    {
        var random = new Random(2);
        byte[] bytes = new byte[16];
        for (int n = 0; n < 200; n++)
        {
            random.NextBytes(bytes);
            Vector128<byte> state = Vector128.Create<byte>(bytes);
            Assert.Equal(state, AesCipher.InverseSubShift(AesCipher.SubShift(state)));
            Assert.Equal(state, AesCipher.InverseMixColumns(AesCipher.MixColumns(state)));
            if (Aes.IsSupported)
                Assert.Equal(Aes.Encrypt(state, default), AesCipher.MixColumns(AesCipher.SubShift(state)));
        }
    }

    [Theory]
    [InlineData(0x1F80u)]
    [InlineData(0x1FA0u)]
    public void TheFastPathIsTheSoftwaresResult(uint mxcsr)
    {
        var random = new Random(3);
        int taken = 0;
        for (int n = 0; n < 200_000; n++)
        {
            double a = Draw(random), b = Draw(random);
            taken += Check<FloatAdd>(mxcsr, a, b) + Check<FloatSubtract>(mxcsr, a, b) + Check<FloatMultiply>(mxcsr, a, b)
                + Check<FloatDivide>(mxcsr, a, b) + Check<FloatSquareRoot>(mxcsr, a, b);
        }
        Assert.True(taken > 50_000, $"The fast path was taken {taken} times only.");
    }

    /// <summary>Values near limits, short values (exact results) and any.</summary>
    private static double Draw(Random random) => random.Next(6) switch
    {
        0 => random.Next(-100, 100),
        1 => BitConverter.UInt64BitsToDouble((ulong)random.NextInt64()),
        2 => Math.ScaleB(random.Next(1, 64), random.Next(-1074, 1017)),
        3 => BitConverter.UInt64BitsToDouble((ulong)random.NextInt64() & 0x001F_FFFF_FFFF_FFFF),
        4 => BitConverter.UInt64BitsToDouble((ulong)random.NextInt64() | 0x7FC0_0000_0000_0000),
        _ => random.NextDouble() - 0.5,
    };

    private static int Check<TOp>(uint mxcsr, double a, double b) where TOp : struct, IFloatOp
    {
        int taken = 0;
        if (typeof(TOp) == typeof(FloatSquareRoot))
            a = b;
        if (FastFloat.Try<TOp>(mxcsr, a, b, out double fast))
        {
            FloatContext c = FloatContext.FromMxcsr(mxcsr);
            ulong soft = TOp.Soft(ref c, Real.FromDouble(BitConverter.DoubleToUInt64Bits(a)), Real.FromDouble(BitConverter.DoubleToUInt64Bits(b)), RealFormat.Double).ToDouble();
            Assert.Equal(soft, BitConverter.DoubleToUInt64Bits(fast));
            Assert.Equal(mxcsr, mxcsr | c.Flags);
            taken++;
        }
        float x = (float)a, y = (float)b;
        if (FastFloat.Try<TOp>(mxcsr, x, y, out float fastSingle))
        {
            FloatContext c = FloatContext.FromMxcsr(mxcsr);
            uint soft = TOp.Soft(ref c, Real.FromSingle(BitConverter.SingleToUInt32Bits(x)), Real.FromSingle(BitConverter.SingleToUInt32Bits(y)), RealFormat.Single).ToSingle();
            Assert.Equal(soft, BitConverter.SingleToUInt32Bits(fastSingle));
            Assert.Equal(mxcsr, mxcsr | c.Flags);
            taken++;
        }
        return taken;
    }

    private static Vector128<byte> Parse(string hex) => Vector128.Create<byte>(Convert.FromHexString(hex));
}
