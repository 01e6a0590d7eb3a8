using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>An x87 operation on two values.</summary>
internal interface IX87Op
{
    static abstract Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f);
}

internal readonly struct X87Add : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Add(ref c, a, b, f); }
internal readonly struct X87Subtract : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Subtract(ref c, a, b, f); }
internal readonly struct X87SubtractReverse : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Subtract(ref c, b, a, f); }
internal readonly struct X87Multiply : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Multiply(ref c, a, b, f); }
internal readonly struct X87Divide : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Divide(ref c, a, b, f); }
internal readonly struct X87DivideReverse : IX87Op { public static Real Apply(ref FloatContext c, in Real a, in Real b, in RealFormat f) => RealArithmetic.Divide(ref c, b, a, f); }

/// <summary>A memory operand that x87 reads as a number.</summary>
internal interface IX87Source<T> where T : unmanaged
{
    static abstract Real Unpack(T value);
}

internal readonly struct SingleSource : IX87Source<uint> { public static Real Unpack(uint value) => Real.FromSingle(value); }
internal readonly struct DoubleSource : IX87Source<ulong> { public static Real Unpack(ulong value) => Real.FromDouble(value); }
internal readonly struct Int16Source : IX87Source<short> { public static Real Unpack(short value) => IntegerSource.Unpack(value); }
internal readonly struct Int32Source : IX87Source<int> { public static Real Unpack(int value) => IntegerSource.Unpack(value); }
internal readonly struct Int64Source : IX87Source<long> { public static Real Unpack(long value) => IntegerSource.Unpack(value); }

internal static class IntegerSource
{
    /// <summary>Every 64-bit integer is exact in the x87 format.</summary>
    public static Real Unpack(long value)
    {
        FloatContext c = default;
        return RealArithmetic.FromInteger(ref c, value, RealFormat.Extended);
    }
}

/// <summary>FADD, FSUB, FMUL, FDIV and their reverse, popping and integer forms, and the one-operand arithmetic.</summary>
internal static unsafe class FpuArithmetic
{
    /// <summary>ST(0) = ST(0) op ST(i), or any destination named first.</summary>
    public static Insn* Register<TOp>(CpuState* s, Insn* i) where TOp : struct, IX87Op
    {
        if (!X87.Begin(s, i))
            return null;
        Apply<TOp>(s, i, X87.Position(i->Operand0), X87.Position(i->Operand1));
        return i + 1;
    }

    /// <summary>The same, then a pop.</summary>
    public static Insn* RegisterPop<TOp>(CpuState* s, Insn* i) where TOp : struct, IX87Op
    {
        if (!X87.Begin(s, i))
            return null;
        if (Apply<TOp>(s, i, X87.Position(i->Operand0), X87.Position(i->Operand1)))
            X87.Pop(s);
        return i + 1;
    }

    /// <summary>ST(0) = ST(0) op memory.</summary>
    public static Insn* Memory<TOp, T, S, M>(CpuState* s, Insn* i) where TOp : struct, IX87Op where T : unmanaged where S : struct, IX87Source<T> where M : struct, IAddressing
    {
        if (!X87.Begin(s, i) || !Operand.Read<T, M>(s, i, out T raw))
            return null;
        X87.NoteOperand(s, i);
        if (X87.IsEmpty(s, 0))
        {
            if (!X87.Underflow(s, i))
                X87.Store(s, 0, Real.Indefinite);
            return i + 1;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = TOp.Apply(ref c, X87.Load(s, 0), S.Unpack(raw), RealFormat.FromControlWord(s->Fcw));
        if (X87.Settle(s, i, ref c))
            X87.Store(s, 0, result);
        return i + 1;
    }

    public static Insn* SquareRoot(CpuState* s, Insn* i)
    {
        if (!BeginUnary(s, i))
            return X87Result(s, i);
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = RealArithmetic.SquareRoot(ref c, X87.Load(s, 0), RealFormat.FromControlWord(s->Fcw));
        if (X87.Settle(s, i, ref c))
            X87.Store(s, 0, result);
        return i + 1;
    }

    public static Insn* RoundToInteger(CpuState* s, Insn* i)
    {
        if (!BeginUnary(s, i))
            return X87Result(s, i);
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real value = X87.Load(s, 0);
        if (value.Class == RealClass.Finite)
            RealArithmetic.NoteDenormal(ref c, value, value);
        Real result = RealArithmetic.ToIntegral(ref c, value, c.Rounding);
        if (X87.Settle(s, i, ref c))
            X87.Store(s, 0, result);
        return i + 1;
    }

    /// <summary>FSCALE: ST(0) times two to the power of ST(1), truncated.</summary>
    public static Insn* Scale(CpuState* s, Insn* i)
    {
        if (!BeginBinary(s, i))
            return X87Result(s, i);
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = Scaled(ref c, X87.Load(s, 0), X87.Load(s, 1));
        if (X87.Settle(s, i, ref c))
            X87.Store(s, 0, result);
        return i + 1;
    }

    /// <summary>FXTRACT: the exponent to ST(0), then the significand is pushed.</summary>
    public static Insn* Extract(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        if (X87.IsEmpty(s, 0) || X87.IsFull(s))
        {
            bool unmasked = X87.IsEmpty(s, 0) ? X87.Underflow(s, i) : X87.Overflow(s, i);
            if (!unmasked)
            {
                X87.Store(s, 0, Real.Indefinite);
                X87.Push(s, Real.Indefinite);
            }
            return i + 1;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real value = X87.Load(s, 0), exponent, significand = value;
        switch (value.Class)
        {
            case RealClass.Zero:
                c.Flags |= FloatFlags.ZeroDivide;
                exponent = Real.Infinity(true);
                break;
            case RealClass.Infinity:
                exponent = Real.Infinity(false);
                break;
            case RealClass.Finite:
                RealArithmetic.NoteDenormal(ref c, value, value);
                exponent = IntegerSource.Unpack(value.Exponent);
                significand = Real.Finite(value.Negative, 0, value.Significand);
                break;
            default:
                exponent = significand = RealArithmetic.PropagateNan(ref c, value, value);
                break;
        }
        if (X87.Settle(s, i, ref c))
        {
            X87.Store(s, 0, exponent);
            X87.Push(s, significand);
        }
        return i + 1;
    }

    /// <summary>FPREM (truncating) and FPREM1 (rounding to nearest).</summary>
    public static Insn* Remainder<TKind>(CpuState* s, Insn* i) where TKind : struct, IRemainderKind
    {
        if (!BeginBinary(s, i))
        {
            if ((s->Fsw & StatusWord.Summary) == 0)
                s->Fsw &= unchecked((ushort)~StatusWord.C2);
            return X87Result(s, i);
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = RealRemainder.Apply(ref c, X87.Load(s, 0), X87.Load(s, 1), TKind.Nearest, out uint quotient, out bool partial);
        if (X87.Settle(s, i, ref c))
        {
            // Without a quotient only C2 and C1 are defined.
            int codes = s->Fsw & ~(result.IsNan ? StatusWord.C2 | StatusWord.C1 : StatusWord.Conditions);
            codes |= partial ? StatusWord.C2 : ((quotient & 4) != 0 ? StatusWord.C0 : 0)
                | ((quotient & 2) != 0 ? StatusWord.C3 : 0) | ((quotient & 1) != 0 ? StatusWord.C1 : 0);
            s->Fsw = (ushort)codes;
            X87.Store(s, 0, result);
        }
        else
        {
            s->Fsw &= unchecked((ushort)~StatusWord.C2);
        }
        return i + 1;
    }

    /// <summary>FCHS and FABS: the sign bit alone, whatever the register holds.</summary>
    public static Insn* Sign<TKind>(CpuState* s, Insn* i) where TKind : struct, ISignKind
    {
        if (!BeginUnary(s, i))
            return X87Result(s, i);
        X87.ClearC1(s);
        ulong* slot = X87.Slot(s, 0);
        slot[1] = TKind.Clear ? slot[1] & 0x7FFF : slot[1] ^ 0x8000;
        return i + 1;
    }

    private static bool Apply<TOp>(CpuState* s, Insn* i, int destination, int source) where TOp : struct, IX87Op
    {
        X87.NoteInstruction(s, i);
        if (X87.IsEmpty(s, destination) || X87.IsEmpty(s, source))
        {
            if (X87.Underflow(s, i))
                return false;
            X87.Store(s, destination, Real.Indefinite);
            return true;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real result = TOp.Apply(ref c, X87.Load(s, destination), X87.Load(s, source), RealFormat.FromControlWord(s->Fcw));
        if (!X87.Settle(s, i, ref c))
            return false;
        X87.Store(s, destination, result);
        return true;
    }

    private static Real Scaled(ref FloatContext c, in Real a, in Real b)
    {
        if (a.Class > RealClass.Infinity || b.Class > RealClass.Infinity)
            return RealArithmetic.PropagateNan(ref c, a, b);
        if (b.Class == RealClass.Infinity)
        {
            if (b.Negative ? a.Class == RealClass.Infinity : a.Class == RealClass.Zero)
                return RealArithmetic.Invalid(ref c);
            RealArithmetic.NoteDenormal(ref c, a, b);
            return b.Negative ? Real.Zero(a.Negative) : Real.Infinity(a.Negative);
        }
        RealArithmetic.NoteDenormal(ref c, a, b);
        if (a.Class != RealClass.Finite)
            return a;
        if (b.Class == RealClass.Zero || b.Exponent < 0)
            return RealArithmetic.Round(ref c, a.Negative, a.Exponent, a.Significand, 0, RealFormat.Extended);
        // Beyond 2^17 every result overflows or vanishes.
        int count = b.Exponent > 16 ? 1 << 17 : (int)(b.Significand >> (63 - b.Exponent));
        Real result = RealArithmetic.Round(ref c, a.Negative, a.Exponent + (b.Negative ? -count : count), a.Significand, 0, RealFormat.Extended);
        if (result.Class != RealClass.Finite || (result.Exponent <= RealFormat.Extended.MaxExponent && result.Exponent >= RealFormat.Extended.MinExponent))
            return result;
        // An unmasked exception whose scaled result still does not fit.
        c.Flags |= FloatFlags.Inexact;
        c.RoundedUp = !b.Negative;
        return b.Negative ? Real.Zero(a.Negative) : Real.Infinity(a.Negative);
    }

    /// <summary>Starts an instruction on ST(0): false when it is over already.</summary>
    private static bool BeginUnary(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return false;
        X87.NoteInstruction(s, i);
        return !X87.IsEmpty(s, 0);
    }

    private static bool BeginBinary(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return false;
        X87.NoteInstruction(s, i);
        return !X87.IsEmpty(s, 0) && !X87.IsEmpty(s, 1);
    }

    /// <summary>Ends what <see cref="BeginUnary"/> refused: a fault that is settled, or a stack underflow with its masked response.</summary>
    private static Insn* X87Result(CpuState* s, Insn* i)
    {
        if ((s->Fsw & StatusWord.Summary) != 0)
            return null;
        if (!X87.Underflow(s, i))
            X87.Store(s, 0, Real.Indefinite);
        return i + 1;
    }
}

internal interface IRemainderKind { static abstract bool Nearest { get; } }
internal readonly struct TruncatedRemainder : IRemainderKind { public static bool Nearest => false; }
internal readonly struct NearestRemainder : IRemainderKind { public static bool Nearest => true; }

internal interface ISignKind { static abstract bool Clear { get; } }
internal readonly struct ChangeSign : ISignKind { public static bool Clear => false; }
internal readonly struct ClearSign : ISignKind { public static bool Clear => true; }
