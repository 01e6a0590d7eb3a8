using System.Numerics;

namespace Vmm.Processor.FloatingPoint;

/// <summary>The partial remainder of FPREM and FPREM1 (SDM volume 2, FPREM).</summary>
internal static class RealRemainder
{
    /// <summary>
    /// The remainder of a / b, with the low bits of the quotient. Where the exponents differ by 64 or more only a part of the
    /// reduction is done: <paramref name="partial"/>.
    /// </summary>
    public static Real Apply(ref FloatContext c, in Real a, in Real b, bool nearest, out uint quotient, out bool partial)
    {
        quotient = 0;
        partial = false;
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, a, b);
        if (a.Class == RealClass.Infinity || b.Class == RealClass.Zero)
            return RealArithmetic.Invalid(ref c);
        RealArithmetic.NoteDenormal(ref c, a, b);
        if (a.Class == RealClass.Zero)
            return a;
        if (b.Class == RealClass.Infinity)
            return RealArithmetic.Round(ref c, a.Negative, a.Exponent, a.Significand, 0, RealFormat.Extended);
        int difference = a.Exponent - b.Exponent;
        if (difference < (nearest ? -1 : 0))
            return RealArithmetic.Round(ref c, a.Negative, a.Exponent, a.Significand, 0, RealFormat.Extended);

        // Of a larger difference so much is taken away that the rest is a multiple of 32.
        partial = difference >= 64;
        int steps = partial ? 32 + (difference & 31) : difference;
        int exponent = partial ? a.Exponent - steps : b.Exponent;
        ulong rest = a.Significand, bits = 0;
        bool carry = false;
        if (steps < 0)
        {
            // FPREM1 with a in [b/4, b): the quotient is 0 or 1.
            bool above = a.Significand > b.Significand;
            if (!above)
                return RealArithmetic.Round(ref c, a.Negative, a.Exponent, a.Significand, 0, RealFormat.Extended);
            quotient = 1;
            // b - a in units of a's last place takes 65 bits.
            UInt128 left = ((UInt128)b.Significand << 1) - a.Significand;
            return Pack(ref c, !a.Negative, a.Exponent, left);
        }
        for (int n = steps; ; n--)
        {
            bits <<= 1;
            if (carry || rest >= b.Significand)
            {
                rest -= b.Significand;
                bits |= 1;
            }
            if (n == 0)
                break;
            carry = (rest >> 63) != 0;
            rest <<= 1;
        }
        bool negative = a.Negative;
        if (nearest && !partial)
        {
            ulong complement = b.Significand - rest;
            if (rest > complement || (rest == complement && (bits & 1) != 0))
            {
                rest = complement;
                negative = !negative;
                bits++;
            }
        }
        quotient = (uint)bits & 7;
        return rest == 0 ? Real.Zero(a.Negative) : Pack(ref c, negative, exponent, rest);
    }

    private static Real Pack(ref FloatContext c, bool negative, int exponent, UInt128 value)
    {
        if (value == 0)
            return Real.Zero(negative);
        int shift = (int)UInt128.LeadingZeroCount(value);
        value <<= shift;
        return RealArithmetic.Round(ref c, negative, exponent + 64 - shift, (ulong)(value >> 64), (ulong)value, RealFormat.Extended);
    }
}
