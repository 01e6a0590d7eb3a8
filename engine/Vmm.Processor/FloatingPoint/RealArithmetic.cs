using System.Numerics;

namespace Vmm.Processor.FloatingPoint;

/// <summary>How two values compare.</summary>
internal enum Relation : byte
{
    Less,
    Equal,
    Greater,
    Unordered,
}

/// <summary>
/// Arithmetic on unpacked values, correct to the last bit and flag in every format and rounding mode. Exception priority within an
/// operation is the manual's: signalling NaN, quiet NaN, other invalid operations and division by zero, denormal operand, then what
/// the rounding finds (SDM volume 1, section 4.9.2).
/// </summary>
internal static class RealArithmetic
{
    private const ulong Top = 1UL << 63;

    public static Real Add(ref FloatContext c, in Real a, in Real b, in RealFormat f) => Sum(ref c, a, b, b.Negative, f);

    public static Real Subtract(ref FloatContext c, in Real a, in Real b, in RealFormat f) => Sum(ref c, a, b, !b.Negative, f);

    private static Real Sum(ref FloatContext c, in Real a, in Real b, bool bNegative, in RealFormat f)
    {
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
            return PropagateNan(ref c, a, b);
        if (a.Class == RealClass.Infinity)
        {
            if (b.Class == RealClass.Infinity && a.Negative != bNegative)
                return Invalid(ref c);
            NoteDenormal(ref c, a, b);
            return a;
        }
        NoteDenormal(ref c, a, b);
        if (b.Class == RealClass.Infinity)
            return Real.Infinity(bNegative);
        if (a.Class == RealClass.Zero && b.Class == RealClass.Zero)
            return Real.Zero(a.Negative == bNegative ? a.Negative : c.Rounding == RoundingMode.Down);
        if (a.Class == RealClass.Zero)
            return Round(ref c, bNegative, b.Exponent, b.Significand, 0, f);
        if (b.Class == RealClass.Zero)
            return Round(ref c, a.Negative, a.Exponent, a.Significand, 0, f);

        bool swap = a.Exponent < b.Exponent || (a.Exponent == b.Exponent && a.Significand < b.Significand);
        ulong large = swap ? b.Significand : a.Significand;
        int exponent = swap ? b.Exponent : a.Exponent;
        bool negative = swap ? bNegative : a.Negative;
        ulong high = swap ? a.Significand : b.Significand, low = 0;
        ShiftRightSticky(ref high, ref low, exponent - (swap ? a.Exponent : b.Exponent));
        if (a.Negative == bNegative)
        {
            high += large;
            if (high < large)
            {
                low = (low >> 1) | (low & 1) | high << 63;
                high = (high >> 1) | Top;
                exponent++;
            }
            return Round(ref c, negative, exponent, high, low, f);
        }
        high = large - high - (low != 0 ? 1UL : 0);
        low = 0 - low;
        if ((high | low) == 0)
            return Real.Zero(c.Rounding == RoundingMode.Down);
        Normalise(ref high, ref low, ref exponent);
        return Round(ref c, negative, exponent, high, low, f);
    }

    public static Real Multiply(ref FloatContext c, in Real a, in Real b, in RealFormat f)
    {
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
            return PropagateNan(ref c, a, b);
        bool negative = a.Negative != b.Negative;
        if (a.Class == RealClass.Infinity || b.Class == RealClass.Infinity)
        {
            if (a.Class == RealClass.Zero || b.Class == RealClass.Zero)
                return Invalid(ref c);
            NoteDenormal(ref c, a, b);
            return Real.Infinity(negative);
        }
        NoteDenormal(ref c, a, b);
        if (a.Class == RealClass.Zero || b.Class == RealClass.Zero)
            return Real.Zero(negative);
        int exponent = a.Exponent + b.Exponent + 1;
        ulong high = Math.BigMul(a.Significand, b.Significand, out ulong low);
        if ((high & Top) == 0)
        {
            high = high << 1 | low >> 63;
            low <<= 1;
            exponent--;
        }
        return Round(ref c, negative, exponent, high, low, f);
    }

    public static Real Divide(ref FloatContext c, in Real a, in Real b, in RealFormat f)
    {
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
            return PropagateNan(ref c, a, b);
        bool negative = a.Negative != b.Negative;
        if (a.Class == RealClass.Infinity)
        {
            if (b.Class == RealClass.Infinity)
                return Invalid(ref c);
            NoteDenormal(ref c, a, b);
            return Real.Infinity(negative);
        }
        if (b.Class == RealClass.Zero)
        {
            if (a.Class == RealClass.Zero)
                return Invalid(ref c);
            c.Flags |= FloatFlags.ZeroDivide;
            return Real.Infinity(negative);
        }
        NoteDenormal(ref c, a, b);
        if (a.Class == RealClass.Zero || b.Class == RealClass.Infinity)
            return Real.Zero(negative);
        int exponent = a.Exponent - b.Exponent;
        ulong high = a.Significand, low = 0;
        if (high >= b.Significand)
        {
            low = high << 63;
            high >>= 1;
        }
        else
        {
            exponent--;
        }
        ulong quotient = DivideWide(high, low, b.Significand, out ulong remainder);
        // One more quotient bit, and whether anything follows it.
        bool half = remainder >= b.Significand - remainder;
        ulong rest = half ? remainder - (b.Significand - remainder) : remainder;
        return Round(ref c, negative, exponent, quotient, (half ? Top : 0) | (rest != 0 ? 1UL : 0), f);
    }

    public static Real SquareRoot(ref FloatContext c, in Real a, in RealFormat f)
    {
        if (a.Class > RealClass.Infinity)
            return PropagateNan(ref c, a, a);
        if (a.Class == RealClass.Zero)
            return a;
        if (a.Negative)
            return Invalid(ref c);
        NoteDenormal(ref c, a, a);
        if (a.Class == RealClass.Infinity)
            return a;
        // The root of significand * 2^63 or 2^64 has 64 bits.
        bool odd = (a.Exponent & 1) != 0;
        UInt128 square = odd ? new UInt128(a.Significand, 0) : new UInt128(a.Significand >> 1, a.Significand << 63);
        ulong root = Root(square);
        UInt128 remainder = square - (UInt128)root * root;
        ulong low = remainder > root ? Top | 1 : remainder != 0 ? 1UL : 0;
        return Round(ref c, false, a.Exponent >> 1, root, low, f);
    }

    /// <summary>Compares. A signalling NaN is an invalid operation always, a quiet one if <paramref name="signaling"/>.</summary>
    public static Relation Compare(ref FloatContext c, in Real a, in Real b, bool signaling)
    {
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
        {
            if (signaling || a.Class > RealClass.Quiet || b.Class > RealClass.Quiet)
                c.Flags |= FloatFlags.Invalid;
            return Relation.Unordered;
        }
        NoteDenormal(ref c, a, b);
        return Order(a, b);
    }

    /// <summary>Compares two values that are not NaNs.</summary>
    public static Relation Order(in Real a, in Real b)
    {
        if (a.Class == RealClass.Zero && b.Class == RealClass.Zero)
            return Relation.Equal;
        if (a.Class == RealClass.Zero)
            return b.Negative ? Relation.Greater : Relation.Less;
        if (b.Class == RealClass.Zero || a.Negative != b.Negative)
            return a.Negative ? Relation.Less : Relation.Greater;
        int order = a.Class != b.Class ? (a.Class == RealClass.Infinity ? 1 : -1)
            : a.Class == RealClass.Infinity ? 0
            : a.Exponent != b.Exponent ? a.Exponent.CompareTo(b.Exponent)
            : a.Significand.CompareTo(b.Significand);
        if (order == 0)
            return Relation.Equal;
        return order > 0 != a.Negative ? Relation.Greater : Relation.Less;
    }

    /// <summary>Rounds an operand to another format; the exceptions are those of a conversion.</summary>
    /// <param name="noteDenormal">Whether a denormal operand is an exception: it is where SSE converts and x87 loads, not where x87 stores.</param>
    public static Real Convert(ref FloatContext c, in Real a, in RealFormat f, bool noteDenormal)
    {
        switch (a.Class)
        {
            case RealClass.Quiet:
                return a;
            case RealClass.Signaling:
                c.Flags |= FloatFlags.Invalid;
                return a.Quieted();
            case RealClass.Unsupported:
                return Invalid(ref c);
            case RealClass.Finite:
                if (noteDenormal)
                    NoteDenormal(ref c, a, a);
                return Round(ref c, a.Negative, a.Exponent, a.Significand, 0, f);
            default:
                return a;
        }
    }

    /// <summary>A signed integer, rounded to a format.</summary>
    public static Real FromInteger(ref FloatContext c, long value, in RealFormat f)
    {
        if (value == 0)
            return Real.Zero(false);
        ulong magnitude = value < 0 ? 0 - (ulong)value : (ulong)value;
        int shift = BitOperations.LeadingZeroCount(magnitude);
        return Round(ref c, value < 0, 63 - shift, magnitude << shift, 0, f);
    }

    /// <summary>
    /// Rounds to a signed integer of <paramref name="bits"/> bits. What does not fit, and a NaN, is an invalid operation and gives
    /// the integer indefinite: the least integer.
    /// </summary>
    public static long ToInteger(ref FloatContext c, in Real a, int bits, RoundingMode rounding)
    {
        long indefinite = long.MinValue >> (64 - bits);
        if (a.Class == RealClass.Zero)
            return 0;
        if (a.Class != RealClass.Finite || a.Exponent > 63)
        {
            c.Flags |= FloatFlags.Invalid;
            return indefinite;
        }
        ulong high = a.Significand, low = 0;
        ShiftRightSticky(ref high, ref low, 63 - a.Exponent);
        bool inexact = low != 0;
        bool up = RoundsUp(rounding, a.Negative, (high & 1) != 0, low >= Top, low << 1 != 0);
        UInt128 magnitude = (UInt128)high + (up ? 1u : 0);
        UInt128 limit = ((UInt128)1 << (bits - 1)) - (a.Negative ? 0u : 1u);
        if (magnitude > limit)
        {
            c.Flags |= FloatFlags.Invalid;
            return indefinite;
        }
        c.RoundedUp = up;
        if (inexact)
            c.Flags |= FloatFlags.Inexact;
        return a.Negative ? (long)(0 - (ulong)magnitude) : (long)(ulong)magnitude;
    }

    /// <summary>Rounds to an integral value in the same format.</summary>
    public static Real ToIntegral(ref FloatContext c, in Real a, RoundingMode rounding)
    {
        if (a.Class > RealClass.Infinity)
            return PropagateNan(ref c, a, a);
        if (a.Class != RealClass.Finite || a.Exponent >= 63)
            return a;
        ulong high = a.Significand, low = 0;
        ShiftRightSticky(ref high, ref low, 63 - a.Exponent);
        if (low == 0)
            return a;
        c.Flags |= FloatFlags.Inexact;
        bool up = c.RoundedUp = RoundsUp(rounding, a.Negative, (high & 1) != 0, low >= Top, low << 1 != 0);
        high += up ? 1UL : 0;
        if (high == 0)
            return Real.Zero(a.Negative);
        int shift = BitOperations.LeadingZeroCount(high);
        return Real.Finite(a.Negative, 63 - shift, high << shift);
    }

    /// <summary>Rounds (high:low) * 2^(exponent - 127), high being normalised and low's last bit sticky, to a format.</summary>
    public static Real Round(ref FloatContext c, bool negative, int exponent, ulong high, ulong low, in RealFormat f)
    {
        int drop = 64 - f.Precision;
        ulong kept = RoundAt(c.Rounding, negative, high, low, drop, out bool inexact, out bool up);
        bool carry = up && kept == 0;
        if (exponent < f.MinExponent)
        {
            // Tininess is found after rounding as if the exponent were unbounded.
            bool tiny = !carry || exponent + 1 < f.MinExponent;
            if (tiny && (c.Masks & FloatFlags.Underflow) == 0)
            {
                c.RoundedUp = up;
                c.Flags |= FloatFlags.Underflow | (inexact ? FloatFlags.Inexact : 0);
                return c.Extended
                    ? Real.Finite(negative, exponent + RealFormat.Wrap + (carry ? 1 : 0), carry ? Top : kept)
                    : Real.Zero(negative);
            }
            if (tiny && c.FlushToZero)
            {
                c.Flags |= FloatFlags.Underflow | FloatFlags.Inexact;
                return Real.Zero(negative);
            }
            ShiftRightSticky(ref high, ref low, f.MinExponent - exponent);
            kept = RoundAt(c.Rounding, negative, high, low, drop, out inexact, out up);
            c.RoundedUp = up;
            if (inexact)
                c.Flags |= FloatFlags.Inexact | (tiny ? FloatFlags.Underflow : 0);
            return kept == 0 ? Real.Zero(negative) : Real.Finite(negative, f.MinExponent, kept);
        }
        c.RoundedUp = up;
        if (carry)
        {
            kept = Top;
            exponent++;
        }
        if (exponent > f.MaxExponent)
            return Overflow(ref c, negative, exponent, kept, inexact, f);
        if (inexact)
            c.Flags |= FloatFlags.Inexact;
        return Real.Finite(negative, exponent, kept);
    }

    private static Real Overflow(ref FloatContext c, bool negative, int exponent, ulong significand, bool inexact, in RealFormat f)
    {
        if ((c.Masks & FloatFlags.Overflow) == 0)
        {
            c.Flags |= FloatFlags.Overflow | (inexact ? FloatFlags.Inexact : 0);
            return c.Extended ? Real.Finite(negative, exponent - RealFormat.Wrap, significand) : Real.Infinity(negative);
        }
        c.Flags |= FloatFlags.Overflow | FloatFlags.Inexact;
        bool infinite = c.Rounding switch
        {
            RoundingMode.Nearest => true,
            RoundingMode.Down => negative,
            RoundingMode.Up => !negative,
            _ => false,
        };
        c.RoundedUp = infinite;
        return infinite ? Real.Infinity(negative) : Real.Finite(negative, f.MaxExponent, ulong.MaxValue << (64 - f.Precision));
    }

    private static ulong RoundAt(RoundingMode mode, bool negative, ulong high, ulong low, int drop, out bool inexact, out bool up)
    {
        ulong unit, kept;
        bool half, rest;
        if (drop == 0)
        {
            unit = 1;
            kept = high;
            half = low >= Top;
            rest = low << 1 != 0;
        }
        else
        {
            unit = 1UL << drop;
            kept = high & ~(unit - 1);
            half = (high & unit >> 1) != 0;
            rest = ((high & ((unit >> 1) - 1)) | low) != 0;
        }
        inexact = half | rest;
        up = RoundsUp(mode, negative, (kept & unit) != 0, half, rest);
        return up ? kept + unit : kept;
    }

    private static bool RoundsUp(RoundingMode mode, bool negative, bool odd, bool half, bool rest) => mode switch
    {
        RoundingMode.Nearest => half && (rest || odd),
        RoundingMode.Down => negative && (half || rest),
        RoundingMode.Up => !negative && (half || rest),
        _ => false,
    };

    /// <summary>The result of an operation with a NaN or unsupported operand (SDM volume 1, table 4-7).</summary>
    public static Real PropagateNan(ref FloatContext c, in Real a, in Real b)
    {
        if (a.Class == RealClass.Unsupported || b.Class == RealClass.Unsupported)
            return Invalid(ref c);
        if (a.Class == RealClass.Signaling || b.Class == RealClass.Signaling)
            c.Flags |= FloatFlags.Invalid;
        if (!a.IsNan)
            return b.Quieted();
        if (!b.IsNan || !c.Extended)
            return a.Quieted();
        // x87: a quiet NaN before a signalling one, then the larger significand, then the positive sign.
        if (a.Class != b.Class)
            return a.Class == RealClass.Quiet ? a : b;
        if (a.Significand != b.Significand)
            return a.Significand > b.Significand ? a.Quieted() : b.Quieted();
        return a.Negative ? b.Quieted() : a.Quieted();
    }

    /// <summary>An invalid operation: the default NaN.</summary>
    public static Real Invalid(ref FloatContext c)
    {
        c.Flags |= FloatFlags.Invalid;
        return Real.Indefinite;
    }

    /// <summary>Raises the denormal-operand exception where it applies.</summary>
    public static void NoteDenormal(ref FloatContext c, in Real a, in Real b)
    {
        if (a.Denormal || b.Denormal)
            c.Flags |= FloatFlags.Denormal;
    }

    /// <summary>Shifts a 128-bit value right; what falls out stays as a sticky last bit.</summary>
    public static void ShiftRightSticky(ref ulong high, ref ulong low, int count)
    {
        if (count == 0)
            return;
        if (count < 64)
        {
            ulong lost = low << (64 - count);
            low = high << (64 - count) | low >> count | (lost != 0 ? 1UL : 0);
            high >>= count;
        }
        else if (count < 128)
        {
            ulong lost = low | (count == 64 ? 0 : high << (128 - count));
            // With a count of 64 the low half falls out as a whole.
            low = (count == 64 ? high : high >> (count - 64)) | (lost != 0 ? 1UL : 0);
            high = 0;
        }
        else
        {
            low = (high | low) != 0 ? 1UL : 0;
            high = 0;
        }
    }

    /// <summary>Shifts a nonzero 128-bit value left until its top bit is set.</summary>
    public static void Normalise(ref ulong high, ref ulong low, ref int exponent)
    {
        if (high == 0)
        {
            high = low;
            low = 0;
            exponent -= 64;
        }
        int shift = BitOperations.LeadingZeroCount(high);
        if (shift == 0)
            return;
        high = high << shift | low >> (64 - shift);
        low <<= shift;
        exponent -= shift;
    }

    /// <summary>Divides 128 bits by 64, the quotient fitting in 64 (high &lt; divisor) and the divisor's top bit being set.</summary>
    public static ulong DivideWide(ulong high, ulong low, ulong divisor, out ulong remainder)
    {
        // Two digits of 32 bits (Knuth, The Art of Computer Programming, volume 2, 4.3.1, algorithm D).
        ulong first = Digit(high, (uint)(low >> 32), divisor, out ulong rest);
        ulong second = Digit(rest, (uint)low, divisor, out remainder);
        return first << 32 | second;
    }

    private static ulong Digit(ulong high, uint next, ulong divisor, out ulong remainder)
    {
        ulong divisorHigh = divisor >> 32, divisorLow = (uint)divisor;
        ulong digit = high / divisorHigh, rest = high % divisorHigh;
        while (digit > uint.MaxValue || digit * divisorLow > (rest << 32 | next))
        {
            digit--;
            rest += divisorHigh;
            if (rest > uint.MaxValue)
                break;
        }
        remainder = (high << 32 | next) - digit * divisor;
        return digit;
    }

    private static ulong Root(UInt128 square)
    {
        // A double gives 53 bits, one Newton step the rest, up to the last unit.
        double estimate = Math.Sqrt((double)(ulong)(square >> 64)) * 4294967296.0;
        ulong root = estimate >= 18446744073709551615.0 ? ulong.MaxValue : (ulong)estimate;
        if (root < Top)
            root = Top;
        ulong high = (ulong)(square >> 64);
        if (high < root)
        {
            ulong quotient = DivideWide(high, (ulong)square, root, out _);
            root = (ulong)(((UInt128)root + quotient) >> 1);
        }
        while ((UInt128)root * root > square)
            root--;
        while (root != ulong.MaxValue && (UInt128)(root + 1) * (root + 1) <= square)
            root++;
        return root;
    }
}
