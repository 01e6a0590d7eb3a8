namespace Vmm.Processor.FloatingPoint;

/// <summary>
/// The transcendental functions of x87 on finite operands, in 128-bit arithmetic: the error before the final rounding is below
/// 2^-110 of the result, so that the rounded result is within one unit in the last place, and nearly always correctly rounded.
/// </summary>
internal static class Functions
{
    /// <summary>2^x - 1 for |x| at most 1.</summary>
    public static WideReal PowerMinusOne(WideReal x)
    {
        // e^y - 1 = y (1 + y/2 (1 + y/3 (1 + ...))): 36 terms leave less than 2^-130 for |y| < 0.7.
        WideReal y = x * Constants.LnTwo;
        WideReal sum = WideReal.One;
        for (uint n = 36; n > 1; n--)
            sum = WideReal.One + y * sum / n;
        return y * sum;
    }

    /// <summary>log2(x) for x greater than zero; exactly zero for one.</summary>
    public static WideReal Log2(WideReal x)
    {
        int exponent = x.Exponent;
        WideReal mantissa = x.Scaled(-exponent);
        // Around one, from below as well: no cancellation between exponent and logarithm.
        if (mantissa.Significand > Sqrt2)
        {
            exponent++;
            mantissa = mantissa.Scaled(-1);
        }
        WideReal ratio = (mantissa - WideReal.One) / (mantissa + WideReal.One);
        return WideReal.FromInteger(exponent) + HyperbolicArc(ratio).Scaled(1) * Constants.Log2E;
    }

    /// <summary>log2(1 + x) for 1 + x greater than zero.</summary>
    public static WideReal Log2PlusOne(WideReal x)
    {
        // x / (2 + x) loses nothing where x is small.
        if (x.Exponent < -2)
            return HyperbolicArc(x / (x + WideReal.FromInteger(2))).Scaled(1) * Constants.Log2E;
        return Log2(x + WideReal.One);
    }

    /// <summary>The arc tangent of y/x in the quadrant of (x, y), both nonzero.</summary>
    public static WideReal ArcTangent(WideReal y, WideReal x)
    {
        WideReal absY = new(false, y.Exponent, y.Significand), absX = new(false, x.Exponent, x.Significand);
        bool steep = Greater(absY, absX);
        WideReal arc = FirstOctant(steep ? absX : absY, steep ? absY : absX);
        if (steep)
            arc = Constants.Pi.Scaled(-1) - arc;
        if (x.Negative)
            arc = Constants.Pi - arc;
        return y.Negative ? -arc : arc;
    }

    /// <summary>
    /// Reduces an argument below 2^63 in magnitude: x = quadrant * pi/2 + rest, the rest being at most pi/4 in magnitude and good
    /// to 128 bits.
    /// </summary>
    public static WideReal ReduceQuadrant(in Real x, out int quadrant)
    {
        if (x.Exponent < -1)
        {
            quadrant = 0;
            return WideReal.From(x);
        }
        // x * 2/pi: the significand times the fraction's words; position p counts from the binary point of the product.
        ReadOnlySpan<ulong> words = Constants.TwoOverPi;
        Span<ulong> product = stackalloc ulong[9];
        product.Clear();
        for (int n = words.Length - 1; n >= 0; n--)
        {
            ulong high = Math.BigMul(words[n], x.Significand, out ulong low);
            UInt128 sum = (UInt128)product[n + 1] + low;
            product[n + 1] = (ulong)sum;
            product[n] = high + (ulong)(sum >> 64);
        }
        // product[0] has weights 2^(exponent) down to 2^(exponent - 63): exponent + 1 bits before the point.
        int integerBits = x.Exponent + 1;
        ulong whole = integerBits == 0 ? 0 : product[0] >> (64 - integerBits);
        for (int n = 0; n < 8; n++)
            product[n] = integerBits == 0 ? product[n] : integerBits == 64 ? product[n + 1] : product[n] << integerBits | product[n + 1] >> (64 - integerBits);
        bool past = (product[0] >> 63) != 0;
        if (past)
        {
            // Nearer to the next quadrant: the rest is negative.
            whole++;
            for (int n = 0; n < 8; n++)
                product[n] = ~product[n];
        }
        int first = 0;
        while (first < 5 && product[first] == 0)
            first++;
        int shift = System.Numerics.BitOperations.LeadingZeroCount(product[first]);
        ulong top = product[first], middle = product[first + 1], bottom = product[first + 2];
        if (shift != 0)
        {
            top = top << shift | middle >> (64 - shift);
            middle = middle << shift | bottom >> (64 - shift);
        }
        var fraction = WideReal.Normalised(past, -1 - 64 * first - shift, new UInt128(top, middle));
        WideReal rest = fraction * Constants.Pi.Scaled(-1);
        quadrant = (int)(x.Negative ? 0 - whole : whole) & 3;
        return x.Negative ? -rest : rest;
    }

    /// <summary>sin(x) for |x| at most pi/4.</summary>
    public static WideReal Sine(WideReal x)
    {
        WideReal square = x * x, sum = WideReal.One;
        for (uint n = 32; n >= 2; n -= 2)
            sum = WideReal.One - square * sum / (n * (n + 1));
        return x * sum;
    }

    /// <summary>cos(x) for |x| at most pi/4.</summary>
    public static WideReal Cosine(WideReal x)
    {
        WideReal square = x * x, sum = WideReal.One;
        for (uint n = 32; n >= 2; n -= 2)
            sum = WideReal.One - square * sum / (n * (n - 1));
        return sum;
    }

    private static UInt128 Sqrt2 => new(0xB504_F333_F9DE_6484, 0);

    /// <summary>atanh(x) for small x.</summary>
    private static WideReal HyperbolicArc(WideReal x)
    {
        // |x| < 0.172: 26 terms of x^(2n) / (2n + 1) leave less than 2^-130.
        WideReal square = x * x, sum = default;
        for (int n = 26; n >= 0; n--)
            sum = WideReal.One / (uint)(2 * n + 1) + square * sum;
        return x * sum;
    }

    /// <summary>atan(y/x) for y at most x, both positive.</summary>
    private static WideReal FirstOctant(WideReal y, WideReal x)
    {
        WideReal tangent = y / x;
        // atan t = atan k/16 + atan((t - k/16) / (1 + t k/16)), k/16 being near t.
        int step = tangent.Exponent < -5 ? 0
            : tangent.Exponent >= 0 ? Constants.ArcSteps
            : (int)(tangent.Significand >> (127 - 5 - tangent.Exponent)) + 1 >> 1;
        if (step != 0)
        {
            WideReal near = WideReal.FromInteger(step).Scaled(-4);
            tangent = (tangent - near) / (WideReal.One + tangent * near);
        }
        // |t| < 1/31: 14 terms leave less than 2^-135.
        WideReal square = tangent * tangent, sum = default;
        for (int n = 14; n >= 0; n--)
            sum = WideReal.One / (uint)(2 * n + 1) - square * sum;
        return Constants.Arcs[step] + tangent * sum;
    }

    private static bool Greater(WideReal a, WideReal b) =>
        a.Exponent != b.Exponent ? a.Exponent > b.Exponent : a.Significand > b.Significand;
}
