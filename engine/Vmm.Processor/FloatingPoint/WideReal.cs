using System.Numerics;

namespace Vmm.Processor.FloatingPoint;

/// <summary>
/// A number with a significand of 128 bits, for computing functions to the 64 bits of the x87 format: significand *
/// 2^(exponent - 127), normalised; zero has a zero significand. Operations truncate: each loses at most two units of the last place.
/// </summary>
internal readonly struct WideReal(bool negative, int exponent, UInt128 significand)
{
    private static readonly UInt128 s_top = (UInt128)1 << 127;

    public readonly bool Negative = negative;
    public readonly int Exponent = exponent;
    public readonly UInt128 Significand = significand;

    public static readonly WideReal One = FromInteger(1);

    public bool IsZero => Significand == 0;

    public static WideReal FromInteger(long value)
    {
        ulong magnitude = value < 0 ? 0 - (ulong)value : (ulong)value;
        return Normalised(value < 0, 127, magnitude);
    }

    /// <summary>A finite operand, exactly.</summary>
    public static WideReal From(in Real value) =>
        value.Class == RealClass.Zero ? default : new WideReal(value.Negative, value.Exponent, (UInt128)value.Significand << 64);

    /// <summary>A fixed-point number with <paramref name="fraction"/> bits after the point.</summary>
    public static WideReal From(BigInteger value, int fraction)
    {
        if (value.IsZero)
            return default;
        BigInteger magnitude = BigInteger.Abs(value);
        int bits = (int)magnitude.GetBitLength();
        BigInteger top = bits > 128 ? magnitude >> (bits - 128) : magnitude << (128 - bits);
        return new WideReal(value.Sign < 0, bits - 1 - fraction, (UInt128)top);
    }

    /// <summary>significand * 2^(exponent - 127) for any significand.</summary>
    public static WideReal Normalised(bool negative, int exponent, UInt128 significand)
    {
        if (significand == 0)
            return default;
        int shift = (int)UInt128.LeadingZeroCount(significand);
        return new WideReal(negative, exponent - shift, significand << shift);
    }

    public static WideReal operator -(WideReal a) => new(!a.Negative, a.Exponent, a.Significand);

    public static WideReal operator +(WideReal a, WideReal b)
    {
        if (a.IsZero)
            return b;
        if (b.IsZero)
            return a;
        if (a.Exponent < b.Exponent || (a.Exponent == b.Exponent && a.Significand < b.Significand))
            (a, b) = (b, a);
        int distance = a.Exponent - b.Exponent;
        UInt128 small = distance < 128 ? b.Significand >> distance : 0;
        if (a.Negative != b.Negative)
            return Normalised(a.Negative, a.Exponent, a.Significand - small);
        UInt128 sum = a.Significand + small;
        return sum >= a.Significand ? new WideReal(a.Negative, a.Exponent, sum) : new WideReal(a.Negative, a.Exponent + 1, sum >> 1 | s_top);
    }

    public static WideReal operator -(WideReal a, WideReal b) => a + -b;

    public static WideReal operator *(WideReal a, WideReal b)
    {
        if (a.IsZero || b.IsZero)
            return default;
        UInt128 product = HighProduct(a.Significand, b.Significand);
        bool high = (product & s_top) != 0;
        return new WideReal(a.Negative != b.Negative, a.Exponent + b.Exponent + (high ? 1 : 0), high ? product : product << 1);
    }

    /// <summary>Division; the divisor is not zero.</summary>
    public static WideReal operator /(WideReal a, WideReal b)
    {
        if (a.IsZero)
            return default;
        // One quotient bit after the other.
        UInt128 rest = a.Significand, quotient = 0;
        bool carry = false;
        int exponent = a.Exponent - b.Exponent;
        if (rest < b.Significand)
        {
            carry = true;
            rest <<= 1;
            exponent--;
        }
        for (int n = 0; n < 128; n++)
        {
            quotient <<= 1;
            if (carry || rest >= b.Significand)
            {
                rest -= b.Significand;
                quotient |= 1;
            }
            carry = (rest & s_top) != 0;
            rest <<= 1;
        }
        return new WideReal(a.Negative != b.Negative, exponent, quotient);
    }

    /// <summary>Division by a small positive integer.</summary>
    public static WideReal operator /(WideReal a, uint b) => Normalised(a.Negative, a.Exponent, a.Significand / b);

    /// <summary>This times a power of two.</summary>
    public WideReal Scaled(int power) => IsZero ? this : new WideReal(Negative, Exponent + power, Significand);

    /// <summary>This value rounded to the x87 format. A function's value is irrational: it always counts as inexact.</summary>
    public Real Round(ref FloatContext c) =>
        IsZero ? Real.Zero(Negative) : RealArithmetic.Round(ref c, Negative, Exponent, (ulong)(Significand >> 64), (ulong)Significand | 1, RealFormat.Extended);

    private static UInt128 HighProduct(UInt128 a, UInt128 b)
    {
        ulong a1 = (ulong)(a >> 64), a0 = (ulong)a, b1 = (ulong)(b >> 64), b0 = (ulong)b;
        UInt128 low = (UInt128)a0 * b0, middle = (UInt128)a1 * b0, other = (UInt128)a0 * b1;
        UInt128 carries = (low >> 64) + (ulong)middle + (ulong)other;
        return (UInt128)a1 * b1 + (middle >> 64) + (other >> 64) + (carries >> 64);
    }
}
