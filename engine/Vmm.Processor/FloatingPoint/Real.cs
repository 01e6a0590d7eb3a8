using System.Numerics;

namespace Vmm.Processor.FloatingPoint;

/// <summary>Classes of floating-point operands.</summary>
internal enum RealClass : byte
{
    Zero,
    Finite,
    Infinity,
    Quiet,
    Signaling,

    /// <summary>An x87 encoding that is none: unnormal, pseudo-NaN, pseudo-infinity (SDM volume 1, section 8.2.2).</summary>
    Unsupported,
}

/// <summary>
/// A floating-point value of any format, unpacked: significand * 2^(exponent - 63), the significand normalised to bit 63 (but for
/// denormal results, which keep the format's least exponent). A NaN has its payload below bit 63, the quiet bit being bit 62.
/// </summary>
internal struct Real
{
    public ulong Significand;
    public int Exponent;
    public RealClass Class;
    public bool Negative;

    /// <summary>Whether this was read from a denormal encoding.</summary>
    public bool Denormal;

    private const ulong Top = 1UL << 63;
    private const ulong QuietBit = 1UL << 62;

    /// <summary>The default NaN ("real indefinite").</summary>
    public static Real Indefinite => new() { Class = RealClass.Quiet, Negative = true, Significand = Top | QuietBit };

    public static Real Zero(bool negative) => new() { Class = RealClass.Zero, Negative = negative };

    public static Real Infinity(bool negative) => new() { Class = RealClass.Infinity, Negative = negative };

    public static Real Finite(bool negative, int exponent, ulong significand) =>
        new() { Class = RealClass.Finite, Negative = negative, Exponent = exponent, Significand = significand };

    /// <summary>Whether this is a NaN of either kind.</summary>
    public readonly bool IsNan => Class is RealClass.Quiet or RealClass.Signaling;

    /// <summary>This NaN, quiet.</summary>
    public readonly Real Quieted() => this with { Class = RealClass.Quiet, Significand = Significand | QuietBit };

    /// <summary>This value with another sign.</summary>
    public readonly Real WithSign(bool negative) => this with { Negative = negative };

    /// <summary>Unpacks binary32.</summary>
    public static Real FromSingle(uint bits, bool denormalsAreZero = false) =>
        Unpack((bits >> 31) != 0, (int)(bits >> 23) & 0xFF, (ulong)(bits & 0x7F_FFFF) << 40, 0xFF, 127, denormalsAreZero);

    /// <summary>Unpacks binary64.</summary>
    public static Real FromDouble(ulong bits, bool denormalsAreZero = false) =>
        Unpack((bits >> 63) != 0, (int)(bits >> 52) & 0x7FF, (bits & 0xF_FFFF_FFFF_FFFF) << 11, 0x7FF, 1023, denormalsAreZero);

    /// <summary>Unpacks the x87 format.</summary>
    public static Real FromExtended(ulong significand, ushort signExponent)
    {
        bool negative = (signExponent & 0x8000) != 0;
        int exponent = signExponent & 0x7FFF;
        if (exponent == 0)
        {
            if (significand == 0)
                return Zero(negative);
            // A pseudo-denormal (bit 63 set) has the same weight as exponent 1.
            int shift = BitOperations.LeadingZeroCount(significand);
            return new() { Class = RealClass.Finite, Negative = negative, Denormal = true, Exponent = -16382 - shift, Significand = significand << shift };
        }
        if ((significand & Top) == 0)
            return new() { Class = RealClass.Unsupported, Negative = negative, Significand = significand };
        if (exponent == 0x7FFF)
        {
            if (significand == Top)
                return Infinity(negative);
            return new()
            {
                Class = (significand & QuietBit) != 0 ? RealClass.Quiet : RealClass.Signaling,
                Negative = negative,
                Significand = significand,
            };
        }
        return Finite(negative, exponent - 16383, significand);
    }

    /// <summary>Packs to binary32. The value must have been rounded to it.</summary>
    public readonly uint ToSingle() => (uint)Pack(31, 23, 0xFF, 127);

    /// <summary>Packs to binary64. The value must have been rounded to it.</summary>
    public readonly ulong ToDouble() => Pack(63, 52, 0x7FF, 1023);

    /// <summary>Packs to the x87 format. The value must have been rounded to it, or be a NaN.</summary>
    public readonly ulong ToExtended(out ushort signExponent)
    {
        int sign = Negative ? 0x8000 : 0;
        switch (Class)
        {
            case RealClass.Zero:
                signExponent = (ushort)sign;
                return 0;
            case RealClass.Finite:
                bool normal = (Significand & Top) != 0;
                signExponent = (ushort)(sign | (normal ? Exponent + 16383 : 0));
                return Significand;
            case RealClass.Infinity:
                signExponent = (ushort)(sign | 0x7FFF);
                return Top;
            default:
                signExponent = (ushort)(sign | 0x7FFF);
                return Significand | Top;
        }
    }

    private static Real Unpack(bool negative, int exponent, ulong fraction, int special, int bias, bool denormalsAreZero)
    {
        if (exponent == special)
        {
            if (fraction == 0)
                return Infinity(negative);
            return new()
            {
                Class = (fraction & QuietBit) != 0 ? RealClass.Quiet : RealClass.Signaling,
                Negative = negative,
                Significand = Top | fraction,
            };
        }
        if (exponent != 0)
            return Finite(negative, exponent - bias, Top | fraction);
        if (fraction == 0 || denormalsAreZero)
            return Zero(negative);
        int shift = BitOperations.LeadingZeroCount(fraction);
        return new() { Class = RealClass.Finite, Negative = negative, Denormal = true, Exponent = 1 - bias - shift, Significand = fraction << shift };
    }

    private readonly ulong Pack(int signBit, int fractionBits, int special, int bias)
    {
        ulong sign = Negative ? 1UL << signBit : 0;
        ulong fraction = (Significand & ~Top) >> (63 - fractionBits);
        return Class switch
        {
            RealClass.Zero => sign,
            RealClass.Finite => sign | (Significand & Top) switch
            {
                0 => fraction,
                _ => (ulong)(Exponent + bias) << fractionBits | fraction,
            },
            RealClass.Infinity => sign | (ulong)special << fractionBits,
            _ => sign | (ulong)special << fractionBits | fraction,
        };
    }
}

/// <summary>A format to round to.</summary>
/// <param name="Precision">Bits of the significand.</param>
/// <param name="MinExponent">The least exponent of a normal number.</param>
/// <param name="MaxExponent">The greatest exponent.</param>
internal readonly record struct RealFormat(int Precision, int MinExponent, int MaxExponent)
{
    /// <summary>What an x87 result with an unmasked overflow or underflow is scaled by (SDM volume 1, section 8.5.4).</summary>
    public const int Wrap = 24576;

    public static readonly RealFormat Single = new(24, -126, 127);
    public static readonly RealFormat Double = new(53, -1022, 1023);
    public static readonly RealFormat Extended = new(64, -16382, 16383);

    /// <summary>What the precision control of an x87 control word asks of arithmetic: the precision, with the full exponent range.</summary>
    public static RealFormat FromControlWord(ushort word) => ((word >> 8) & 3) switch
    {
        0 => new(24, -16382, 16383),
        2 => new(53, -16382, 16383),
        _ => Extended,
    };
}
