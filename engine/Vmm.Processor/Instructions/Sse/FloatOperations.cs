using System.Runtime.CompilerServices;
using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>
/// One arithmetic operation: on the host, whose result is right when rounding to nearest with operands that are normal or zero and
/// a result safely inside the normal range, and in software for the rest.
/// </summary>
internal interface IFloatOp
{
    static abstract float Host(float a, float b);
    static abstract double Host(double a, double b);
    static abstract Vector128<float> Host(Vector128<float> a, Vector128<float> b);
    static abstract Vector128<double> Host(Vector128<double> a, Vector128<double> b);

    /// <summary>Whether the host's normal result is exact. May say no when it is.</summary>
    static abstract bool Exact(float a, float b, float result);

    /// <inheritdoc cref="Exact(float, float, float)"/>
    static abstract bool Exact(double a, double b, double result);

    /// <summary>Whether a zero result of operands that are normal or zero is exact.</summary>
    static abstract bool ExactZero(double a, double b);

    static abstract Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f);
}

internal readonly struct FloatAdd : IFloatOp
{
    public static float Host(float a, float b) => a + b;
    public static double Host(double a, double b) => a + b;
    public static Vector128<float> Host(Vector128<float> a, Vector128<float> b) => a + b;
    public static Vector128<double> Host(Vector128<double> a, Vector128<double> b) => a + b;
    public static bool Exact(float a, float b, float result) => FastFloat.ExactSum(a, b, result);
    public static bool Exact(double a, double b, double result) => FastFloat.ExactSum(a, b, result);
    public static bool ExactZero(double a, double b) => true;
    public static Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Add(ref c, a, b, f);
}

internal readonly struct FloatSubtract : IFloatOp
{
    public static float Host(float a, float b) => a - b;
    public static double Host(double a, double b) => a - b;
    public static Vector128<float> Host(Vector128<float> a, Vector128<float> b) => a - b;
    public static Vector128<double> Host(Vector128<double> a, Vector128<double> b) => a - b;
    public static bool Exact(float a, float b, float result) => FastFloat.ExactSum(a, -b, result);
    public static bool Exact(double a, double b, double result) => FastFloat.ExactSum(a, -b, result);
    public static bool ExactZero(double a, double b) => true;
    public static Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Subtract(ref c, a, b, f);
}

internal readonly struct FloatMultiply : IFloatOp
{
    public static float Host(float a, float b) => a * b;
    public static double Host(double a, double b) => a * b;
    public static Vector128<float> Host(Vector128<float> a, Vector128<float> b) => a * b;
    public static Vector128<double> Host(Vector128<double> a, Vector128<double> b) => a * b;
    public static bool Exact(float a, float b, float result) => (double)a * b == result;
    public static bool Exact(double a, double b, double result) =>
        Math.Abs(result) > FastFloat.ResidualFloor && Math.FusedMultiplyAdd(a, b, -result) == 0;
    public static bool ExactZero(double a, double b) => a == 0 || b == 0;
    public static Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Multiply(ref c, a, b, f);
}

internal readonly struct FloatDivide : IFloatOp
{
    public static float Host(float a, float b) => a / b;
    public static double Host(double a, double b) => a / b;
    public static Vector128<float> Host(Vector128<float> a, Vector128<float> b) => a / b;
    public static Vector128<double> Host(Vector128<double> a, Vector128<double> b) => a / b;
    public static bool Exact(float a, float b, float result) => (double)result * b == a;
    public static bool Exact(double a, double b, double result) =>
        Math.Abs(a) > FastFloat.ResidualFloor && Math.FusedMultiplyAdd(result, b, -a) == 0;
    public static bool ExactZero(double a, double b) => a == 0;
    public static Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Divide(ref c, a, b, f);
}

/// <summary>The square root of the source, which is given as both operands.</summary>
internal readonly struct FloatSquareRoot : IFloatOp
{
    public static float Host(float a, float b) => MathF.Sqrt(b);
    public static double Host(double a, double b) => Math.Sqrt(b);
    public static Vector128<float> Host(Vector128<float> a, Vector128<float> b) => Vector128.Sqrt(b);
    public static Vector128<double> Host(Vector128<double> a, Vector128<double> b) => Vector128.Sqrt(b);
    public static bool Exact(float a, float b, float result) => (double)result * result == b;
    public static bool Exact(double a, double b, double result) =>
        b > FastFloat.ResidualFloor && Math.FusedMultiplyAdd(result, result, -b) == 0;
    public static bool ExactZero(double a, double b) => true;
    public static Real Soft(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.SquareRoot(ref c, b, f);
}

/// <summary>When the host's arithmetic is the guest's.</summary>
internal static class FastFloat
{
    /// <summary>Above this the residual of a product or quotient is representable, so that a zero residual proves exactness.</summary>
    public const double ResidualFloor = 1e-250;

    private const float MinSingle = 1.17549435e-38f;
    private const double MinDouble = 2.2250738585072014e-308;

    /// <summary>Whether rounding is to nearest.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Nearest(uint mxcsr) => (mxcsr & Mxcsr.RoundingMask) == 0;

    /// <summary>Whether an inexact result changes nothing: its flag is set already and it is masked.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool InexactIsSilent(uint mxcsr) =>
        (mxcsr & (Mxcsr.InexactMask | FloatFlags.Inexact)) == (Mxcsr.InexactMask | FloatFlags.Inexact);

    /// <summary>Whether a value is normal, zero or infinite: no NaN, no denormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Plain(float v) => MathF.Abs(v) >= MinSingle || v == 0;

    /// <inheritdoc cref="Plain(float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Plain(double v) => Math.Abs(v) >= MinDouble || v == 0;

    /// <inheritdoc cref="Plain(float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Plain(Vector128<float> v) =>
        Vector128.GreaterThanOrEqual(Vector128.Abs(v), Vector128.Create(MinSingle)) | Vector128.Equals(v, Vector128<float>.Zero);

    /// <inheritdoc cref="Plain(float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<double> Plain(Vector128<double> v) =>
        Vector128.GreaterThanOrEqual(Vector128.Abs(v), Vector128.Create(MinDouble)) | Vector128.Equals(v, Vector128<double>.Zero);

    /// <summary>Whether a + b was not rounded: the error of a sum is itself representable (Knuth's two-sum).</summary>
    public static bool ExactSum(float a, float b, float sum)
    {
        float other = sum - a;
        return (a - (sum - other)) + (b - other) == 0;
    }

    /// <inheritdoc cref="ExactSum(float, float, float)"/>
    public static bool ExactSum(double a, double b, double sum)
    {
        double other = sum - a;
        return (a - (sum - other)) + (b - other) == 0;
    }

    /// <summary>Whether a result is infinite because an operand is, which raises nothing.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool ExactInfinity(double a, double b, double result) =>
        double.IsInfinity(result) && (double.IsInfinity(a) || double.IsInfinity(b));

    /// <summary>Computes on the host; false where that may not be the guest's result or would raise an exception flag.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Try<TOp>(uint mxcsr, float a, float b, out float result) where TOp : struct, IFloatOp
    {
        result = TOp.Host(a, b);
        if (!Nearest(mxcsr) || !Plain(a) || !Plain(b))
            return false;
        float magnitude = MathF.Abs(result);
        if (magnitude > MinSingle && magnitude <= float.MaxValue)
            return InexactIsSilent(mxcsr) || TOp.Exact(a, b, result);
        return result == 0 ? TOp.ExactZero(a, b) : ExactInfinity(a, b, result);
    }

    /// <inheritdoc cref="Try{TOp}(uint, float, float, out float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Try<TOp>(uint mxcsr, double a, double b, out double result) where TOp : struct, IFloatOp
    {
        result = TOp.Host(a, b);
        if (!Nearest(mxcsr) || !Plain(a) || !Plain(b))
            return false;
        double magnitude = Math.Abs(result);
        if (magnitude > MinDouble && magnitude <= double.MaxValue)
            return InexactIsSilent(mxcsr) || TOp.Exact(a, b, result);
        return result == 0 ? TOp.ExactZero(a, b) : ExactInfinity(a, b, result);
    }

    /// <summary>Computes on the host; false as well where an inexact result would be news, or a result is not normal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TrySilent<TOp>(uint mxcsr, Vector128<float> a, Vector128<float> b, out Vector128<float> result) where TOp : struct, IFloatOp
    {
        result = TOp.Host(a, b);
        Vector128<float> magnitude = Vector128.Abs(result);
        Vector128<float> normal = Vector128.GreaterThan(magnitude, Vector128.Create(MinSingle)) & Vector128.LessThanOrEqual(magnitude, Vector128.Create(float.MaxValue));
        return Nearest(mxcsr) && InexactIsSilent(mxcsr) && (normal & Plain(a) & Plain(b)).AsUInt32() == Vector128<uint>.AllBitsSet;
    }

    /// <inheritdoc cref="TrySilent{TOp}(uint, Vector128{float}, Vector128{float}, out Vector128{float})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TrySilent<TOp>(uint mxcsr, Vector128<double> a, Vector128<double> b, out Vector128<double> result) where TOp : struct, IFloatOp
    {
        result = TOp.Host(a, b);
        Vector128<double> magnitude = Vector128.Abs(result);
        Vector128<double> normal = Vector128.GreaterThan(magnitude, Vector128.Create(MinDouble)) & Vector128.LessThanOrEqual(magnitude, Vector128.Create(double.MaxValue));
        return Nearest(mxcsr) && InexactIsSilent(mxcsr) && (normal & Plain(a) & Plain(b)).AsUInt64() == Vector128<ulong>.AllBitsSet;
    }

    /// <inheritdoc cref="Try{TOp}(uint, float, float, out float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Try<TOp>(uint mxcsr, Vector128<float> a, Vector128<float> b, out Vector128<float> result) where TOp : struct, IFloatOp
    {
        if (TrySilent<TOp>(mxcsr, a, b, out result))
            return true;
        for (int n = 0; n < 4; n++)
        {
            if (!Try<TOp>(mxcsr, a[n], b[n], out float _))
                return false;
        }
        return true;
    }

    /// <inheritdoc cref="Try{TOp}(uint, float, float, out float)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Try<TOp>(uint mxcsr, Vector128<double> a, Vector128<double> b, out Vector128<double> result) where TOp : struct, IFloatOp
    {
        if (TrySilent<TOp>(mxcsr, a, b, out result))
            return true;
        return Try<TOp>(mxcsr, a[0], b[0], out double _) && Try<TOp>(mxcsr, a[1], b[1], out double _);
    }
}
