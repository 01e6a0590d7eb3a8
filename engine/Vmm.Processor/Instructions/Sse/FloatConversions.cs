using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>A conversion of one element under MXCSR.</summary>
internal interface IConversion<TFrom, TTo> where TFrom : unmanaged where TTo : unmanaged
{
    static abstract TTo Apply(ref FloatContext c, TFrom value);
}

internal readonly struct IntToSingle : IConversion<int, uint>
{
    public static uint Apply(ref FloatContext c, int value) => RealArithmetic.FromInteger(ref c, value, RealFormat.Single).ToSingle();
}

internal readonly struct LongToSingle : IConversion<long, uint>
{
    public static uint Apply(ref FloatContext c, long value) => RealArithmetic.FromInteger(ref c, value, RealFormat.Single).ToSingle();
}

internal readonly struct IntToDouble : IConversion<int, ulong>
{
    // Always exact.
    public static ulong Apply(ref FloatContext c, int value) => BitConverter.DoubleToUInt64Bits(value);
}

internal readonly struct LongToDouble : IConversion<long, ulong>
{
    public static ulong Apply(ref FloatContext c, long value)
    {
        double host = value;
        // Below 2^53 there is nothing to round.
        return value + (1L << 53) is >= 0 and <= 1L << 54
            ? BitConverter.DoubleToUInt64Bits(host)
            : RealArithmetic.FromInteger(ref c, value, RealFormat.Double).ToDouble();
    }
}

internal readonly struct SingleToDouble : IConversion<uint, ulong>
{
    public static ulong Apply(ref FloatContext c, uint value)
    {
        float host = BitConverter.UInt32BitsToSingle(value);
        if (FastFloat.Plain(host))
            return BitConverter.DoubleToUInt64Bits(host);
        return RealArithmetic.Convert(ref c, Real.FromSingle(value, c.DenormalsAreZero), RealFormat.Double, noteDenormal: true).ToDouble();
    }
}

internal readonly struct DoubleToSingle : IConversion<ulong, uint>
{
    public static uint Apply(ref FloatContext c, ulong value)
    {
        double wide = BitConverter.UInt64BitsToDouble(value);
        float host = (float)wide;
        if (host == wide && (MathF.Abs(host) >= 1.17549435e-38f || wide == 0))
            return BitConverter.SingleToUInt32Bits(host);
        return RealArithmetic.Convert(ref c, Real.FromDouble(value, c.DenormalsAreZero), RealFormat.Single, noteDenormal: true).ToSingle();
    }
}

/// <summary>Whether a conversion truncates or rounds as MXCSR says.</summary>
internal interface IIntegerRounding
{
    static abstract RoundingMode Mode(in FloatContext c);
}

internal readonly struct Current : IIntegerRounding { public static RoundingMode Mode(in FloatContext c) => c.Rounding; }
internal readonly struct Truncated : IIntegerRounding { public static RoundingMode Mode(in FloatContext c) => RoundingMode.Zero; }

internal readonly struct SingleToInt<R> : IConversion<uint, int> where R : struct, IIntegerRounding
{
    public static int Apply(ref FloatContext c, uint value)
    {
        float v = BitConverter.UInt32BitsToSingle(value);
        return ToInteger.Fast<R>(ref c, v, -2147483648.0, 2147483648.0, out long fast)
            ? (int)fast
            : (int)RealArithmetic.ToInteger(ref c, Real.FromSingle(value, c.DenormalsAreZero), 32, R.Mode(c));
    }
}

internal readonly struct SingleToLong<R> : IConversion<uint, long> where R : struct, IIntegerRounding
{
    public static long Apply(ref FloatContext c, uint value)
    {
        float v = BitConverter.UInt32BitsToSingle(value);
        return ToInteger.Fast<R>(ref c, v, -9223372036854775808.0, 9223372036854775808.0, out long fast)
            ? fast
            : RealArithmetic.ToInteger(ref c, Real.FromSingle(value, c.DenormalsAreZero), 64, R.Mode(c));
    }
}

internal readonly struct DoubleToInt<R> : IConversion<ulong, int> where R : struct, IIntegerRounding
{
    public static int Apply(ref FloatContext c, ulong value)
    {
        double v = BitConverter.UInt64BitsToDouble(value);
        return ToInteger.Fast<R>(ref c, v, -2147483648.0, 2147483648.0, out long fast)
            ? (int)fast
            : (int)RealArithmetic.ToInteger(ref c, Real.FromDouble(value, c.DenormalsAreZero), 32, R.Mode(c));
    }
}

internal readonly struct DoubleToLong<R> : IConversion<ulong, long> where R : struct, IIntegerRounding
{
    public static long Apply(ref FloatContext c, ulong value)
    {
        double v = BitConverter.UInt64BitsToDouble(value);
        return ToInteger.Fast<R>(ref c, v, -9223372036854775808.0, 9223372036854775808.0, out long fast)
            ? fast
            : RealArithmetic.ToInteger(ref c, Real.FromDouble(value, c.DenormalsAreZero), 64, R.Mode(c));
    }
}

internal static class ToInteger
{
    /// <summary>Truncation, and exact values in every mode, without unpacking. Denormals go the slow way for their zero treatment.</summary>
    public static bool Fast<R>(ref FloatContext c, double value, double low, double high, out long result) where R : struct, IIntegerRounding
    {
        // A fraction below the low bound truncates into range, but is left to the slow path as well.
        if (!(value >= low && value < high))
        {
            result = 0;
            return false;
        }
        result = (long)value;
        if (result == value)
            return true;
        if (typeof(R) != typeof(Truncated) || Math.Abs(value) < 1e-30)
            return false;
        c.Flags |= FloatFlags.Inexact;
        return true;
    }
}
