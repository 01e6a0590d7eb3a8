using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>A function of ST(0).</summary>
internal interface IUnaryFunction
{
    static abstract Real Apply(ref FloatContext c, in Real x);
}

/// <summary>A function of ST(1) and ST(0), in this order.</summary>
internal interface IBinaryFunction
{
    static abstract Real Apply(ref FloatContext c, in Real y, in Real x);
}

/// <summary>F2XM1.</summary>
internal readonly struct PowerMinusOne : IUnaryFunction
{
    public static Real Apply(ref FloatContext c, in Real x)
    {
        if (x.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, x, x);
        if (x.Class == RealClass.Infinity)
            return x.Negative ? Real.Finite(true, 0, 1UL << 63) : x;
        if (x.Class == RealClass.Zero)
            return x;
        RealArithmetic.NoteDenormal(ref c, x, x);
        // Outside [-1, 1] the manual leaves the result open; the operand stays.
        if (x.Exponent > 0 || (x.Exponent == 0 && x.Significand != 1UL << 63))
            return x with { Denormal = false };
        if (x.Exponent == 0)
            return x.Negative ? Real.Finite(true, -1, 1UL << 63) : x;
        return Functions.PowerMinusOne(WideReal.From(x)).Round(ref c);
    }
}

/// <summary>FYL2X (SDM volume 2, table 3-47).</summary>
internal readonly struct YLog2X : IBinaryFunction
{
    public static Real Apply(ref FloatContext c, in Real y, in Real x)
    {
        if (x.Class > RealClass.Infinity || y.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, y, x);
        if (x.Class != RealClass.Zero && x.Negative)
            return RealArithmetic.Invalid(ref c);
        if (x.Class == RealClass.Zero)
        {
            if (y.Class == RealClass.Zero)
                return RealArithmetic.Invalid(ref c);
            if (y.Class == RealClass.Finite)
                c.Flags |= FloatFlags.ZeroDivide;
            return Real.Infinity(!y.Negative);
        }
        bool one = x.Class == RealClass.Finite && x.Exponent == 0 && x.Significand == 1UL << 63;
        // The sign of the logarithm: negative below one.
        bool below = x.Class == RealClass.Finite && x.Exponent < 0;
        if (y.Class == RealClass.Infinity)
        {
            if (one)
                return RealArithmetic.Invalid(ref c);
            RealArithmetic.NoteDenormal(ref c, x, y);
            return Real.Infinity(y.Negative != below);
        }
        if (x.Class == RealClass.Infinity)
        {
            if (y.Class == RealClass.Zero)
                return RealArithmetic.Invalid(ref c);
            RealArithmetic.NoteDenormal(ref c, x, y);
            return Real.Infinity(y.Negative);
        }
        RealArithmetic.NoteDenormal(ref c, x, y);
        if (y.Class == RealClass.Zero || one)
            return Real.Zero(y.Negative != below);
        if (x.Significand == 1UL << 63)
        {
            // A power of two: the logarithm is an integer, the product exact or rounded once.
            Real exponent = IntegerSource.Unpack(x.Exponent);
            return RealArithmetic.Multiply(ref c, y with { Denormal = false }, exponent, RealFormat.Extended);
        }
        return (WideReal.From(y) * Functions.Log2(WideReal.From(x))).Round(ref c);
    }
}

/// <summary>FYL2XP1 (SDM volume 2, table 3-48). The logarithm is taken wherever it exists.</summary>
internal readonly struct YLog2XPlusOne : IBinaryFunction
{
    public static Real Apply(ref FloatContext c, in Real y, in Real x)
    {
        if (x.Class > RealClass.Infinity || y.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, y, x);
        if (x.Class == RealClass.Infinity)
        {
            if (x.Negative || y.Class == RealClass.Zero)
                return RealArithmetic.Invalid(ref c);
            RealArithmetic.NoteDenormal(ref c, x, y);
            return Real.Infinity(y.Negative);
        }
        if (y.Class == RealClass.Infinity)
        {
            if (x.Class == RealClass.Zero)
                return RealArithmetic.Invalid(ref c);
            RealArithmetic.NoteDenormal(ref c, x, y);
            return Real.Infinity(y.Negative != x.Negative);
        }
        RealArithmetic.NoteDenormal(ref c, x, y);
        if (x.Class == RealClass.Zero || y.Class == RealClass.Zero)
            return Real.Zero(y.Negative != x.Negative);
        if (x.Negative && x.Exponent >= 0)
            return RealArithmetic.Invalid(ref c);
        return (WideReal.From(y) * Functions.Log2PlusOne(WideReal.From(x))).Round(ref c);
    }
}

/// <summary>FPATAN (SDM volume 2, table 3-30).</summary>
internal readonly struct ArcTangent : IBinaryFunction
{
    public static Real Apply(ref FloatContext c, in Real y, in Real x)
    {
        if (x.Class > RealClass.Infinity || y.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, y, x);
        RealArithmetic.NoteDenormal(ref c, x, y);
        WideReal pi = Constants.Pi;
        if (y.Class == RealClass.Infinity)
        {
            WideReal arc = x.Class == RealClass.Infinity ? (x.Negative ? pi - pi.Scaled(-2) : pi.Scaled(-2)) : pi.Scaled(-1);
            return (y.Negative ? -arc : arc).Round(ref c);
        }
        if (x.Class == RealClass.Infinity || y.Class == RealClass.Zero)
            return x.Negative ? (y.Negative ? -pi : pi).Round(ref c) : Real.Zero(y.Negative);
        if (x.Class == RealClass.Zero)
            return (y.Negative ? -pi.Scaled(-1) : pi.Scaled(-1)).Round(ref c);
        // Exact where the quotient is a tiny power of two and no more is known: it still counts as inexact.
        return Functions.ArcTangent(WideReal.From(y), WideReal.From(x)).Round(ref c);
    }
}

/// <summary>A circular function: of a zero or finite operand below 2^63.</summary>
internal interface ICircularFunction
{
    /// <summary>Whether a second result is pushed.</summary>
    static abstract bool Pushes { get; }

    static abstract Real Apply(ref FloatContext c, in Real x, out Real pushed);
}

internal readonly struct Sine : ICircularFunction
{
    public static bool Pushes => false;

    public static Real Apply(ref FloatContext c, in Real x, out Real pushed)
    {
        pushed = default;
        return Circle.SineOf(ref c, x);
    }
}

internal readonly struct Cosine : ICircularFunction
{
    public static bool Pushes => false;

    public static Real Apply(ref FloatContext c, in Real x, out Real pushed)
    {
        pushed = default;
        return Circle.CosineOf(ref c, x);
    }
}

internal readonly struct SineCosine : ICircularFunction
{
    public static bool Pushes => true;

    public static Real Apply(ref FloatContext c, in Real x, out Real pushed)
    {
        pushed = Circle.CosineOf(ref c, x);
        return Circle.SineOf(ref c, x);
    }
}

/// <summary>FPTAN, which pushes 1.</summary>
internal readonly struct Tangent : ICircularFunction
{
    public static bool Pushes => true;

    public static Real Apply(ref FloatContext c, in Real x, out Real pushed)
    {
        pushed = Real.Finite(false, 0, 1UL << 63);
        return Circle.TangentOf(ref c, x);
    }
}

/// <summary>Sine, cosine and tangent, rounded.</summary>
internal static class Circle
{
    public static Real SineOf(ref FloatContext c, in Real x)
    {
        if (x.Class == RealClass.Zero)
            return x;
        WideReal rest = Functions.ReduceQuadrant(x, out int quadrant);
        WideReal value = (quadrant & 1) == 0 ? Functions.Sine(rest) : Functions.Cosine(rest);
        return ((quadrant & 2) == 0 ? value : -value).Round(ref c);
    }

    public static Real CosineOf(ref FloatContext c, in Real x)
    {
        if (x.Class == RealClass.Zero)
            return Real.Finite(false, 0, 1UL << 63);
        WideReal rest = Functions.ReduceQuadrant(x, out int quadrant);
        WideReal value = (quadrant & 1) == 0 ? Functions.Cosine(rest) : -Functions.Sine(rest);
        return ((quadrant & 2) == 0 ? value : -value).Round(ref c);
    }

    public static Real TangentOf(ref FloatContext c, in Real x)
    {
        if (x.Class == RealClass.Zero)
            return x;
        WideReal rest = Functions.ReduceQuadrant(x, out int quadrant);
        WideReal sine = Functions.Sine(rest), cosine = Functions.Cosine(rest);
        return ((quadrant & 1) == 0 ? sine / cosine : -(cosine / sine)).Round(ref c);
    }
}

/// <summary>The transcendental instructions (SDM volume 1, section 8.3.7).</summary>
internal static unsafe class FpuFunctions
{
    public static Insn* Unary<F>(CpuState* s, Insn* i) where F : struct, IUnaryFunction
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        if (X87.IsEmpty(s, 0))
        {
            if (!X87.Underflow(s, i))
                X87.Store(s, 0, Real.Indefinite);
            return i + 1;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = F.Apply(ref c, X87.Load(s, 0));
        if (X87.Settle(s, i, ref c))
            X87.Store(s, 0, result);
        return i + 1;
    }

    /// <summary>A function whose result replaces ST(1), then a pop.</summary>
    public static Insn* BinaryPop<F>(CpuState* s, Insn* i) where F : struct, IBinaryFunction
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        Real result = Real.Indefinite;
        if (X87.IsEmpty(s, 0) || X87.IsEmpty(s, 1))
        {
            if (X87.Underflow(s, i))
                return i + 1;
        }
        else
        {
            FloatContext c = FloatContext.FromControlWord(s->Fcw);
            result = F.Apply(ref c, X87.Load(s, 1), X87.Load(s, 0));
            if (!X87.Settle(s, i, ref c))
                return i + 1;
        }
        X87.Store(s, 1, result);
        X87.Pop(s);
        return i + 1;
    }

    /// <summary>FSIN, FCOS, FSINCOS and FPTAN.</summary>
    public static Insn* Circular<F>(CpuState* s, Insn* i) where F : struct, ICircularFunction
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        s->Fsw &= unchecked((ushort)~StatusWord.C2);
        Real result = Real.Indefinite, pushed = Real.Indefinite;
        if (X87.IsEmpty(s, 0))
        {
            if (X87.Underflow(s, i))
                return i + 1;
        }
        else if (F.Pushes && X87.IsFull(s))
        {
            if (X87.Overflow(s, i))
                return i + 1;
        }
        else
        {
            FloatContext c = FloatContext.FromControlWord(s->Fcw);
            Real x = X87.Load(s, 0);
            if (x.Class == RealClass.Finite && x.Exponent >= 63)
            {
                // Out of range: the program must reduce the argument.
                X87.ClearC1(s);
                s->Fsw |= StatusWord.C2;
                return i + 1;
            }
            if (x.Class > RealClass.Infinity)
                result = pushed = RealArithmetic.PropagateNan(ref c, x, x);
            else if (x.Class == RealClass.Infinity)
                result = pushed = RealArithmetic.Invalid(ref c);
            else
            {
                RealArithmetic.NoteDenormal(ref c, x, x);
                result = F.Apply(ref c, x, out pushed);
            }
            if (!X87.Settle(s, i, ref c))
                return i + 1;
        }
        X87.Store(s, 0, result);
        if (F.Pushes)
            X87.Push(s, pushed);
        return i + 1;
    }
}
