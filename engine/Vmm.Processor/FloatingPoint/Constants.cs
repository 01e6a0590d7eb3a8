using System.Numerics;

namespace Vmm.Processor.FloatingPoint;

/// <summary>Mathematical constants to more than 128 bits, computed when first needed from series of integers.</summary>
internal static class Constants
{
    /// <summary>Bits after the point in the computations here.</summary>
    private const int Fraction = 512;

    /// <summary>Arcs of k/16, k from 0 to 16.</summary>
    public const int ArcSteps = 16;

    private static readonly BigInteger s_one = BigInteger.One << Fraction;
    private static readonly BigInteger s_pi = 16 * Arc(1, 5) - 4 * Arc(1, 239);
    private static readonly BigInteger s_lnTwo = 2 * HyperbolicArc(1, 3);
    private static readonly BigInteger s_lnTen = 3 * s_lnTwo + 2 * HyperbolicArc(1, 9);

    public static readonly WideReal Pi = WideReal.From(s_pi, Fraction);
    public static readonly WideReal LnTwo = WideReal.From(s_lnTwo, Fraction);
    public static readonly WideReal Log2E = WideReal.From((s_one << Fraction) / s_lnTwo, Fraction);
    public static readonly WideReal Log2Ten = WideReal.From((s_lnTen << Fraction) / s_lnTwo, Fraction);
    public static readonly WideReal Log10Two = WideReal.From((s_lnTwo << Fraction) / s_lnTen, Fraction);

    /// <summary>2/pi as a binary fraction, most significant word first: enough to reduce any argument below 2^63.</summary>
    public static readonly ulong[] TwoOverPi = Words((s_one << (Fraction + 1)) / s_pi);

    /// <summary>atan(k / 16).</summary>
    public static readonly WideReal[] Arcs = [.. Enumerable.Range(0, ArcSteps + 1).Select(k => WideReal.From(k == ArcSteps ? s_pi / 4 : Arc(k, ArcSteps), Fraction))];

    private static BigInteger Arc(int numerator, int denominator) => Series(numerator, denominator, alternating: true);

    private static BigInteger HyperbolicArc(int numerator, int denominator) => Series(numerator, denominator, alternating: false);

    /// <summary>The sum of x^n / n over odd n, x being less than one.</summary>
    private static BigInteger Series(int numerator, int denominator, bool alternating)
    {
        BigInteger power = s_one * numerator / denominator, sum = power;
        int square = numerator * numerator, divisor = denominator * denominator;
        for (int n = 3; !power.IsZero; n += 2)
        {
            power = power * square / divisor;
            BigInteger term = power / n;
            sum += alternating && (n & 2) != 0 ? -term : term;
        }
        return sum;
    }

    private static ulong[] Words(BigInteger fraction)
    {
        var words = new ulong[Fraction / 64];
        for (int n = 0; n < words.Length; n++)
            words[n] = (ulong)(fraction >> (Fraction - 64 * (n + 1)) & ulong.MaxValue);
        return words;
    }
}
