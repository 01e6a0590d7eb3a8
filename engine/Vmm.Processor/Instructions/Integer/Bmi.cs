using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation of BMI1 or BMI2 on two sources.</summary>
public unsafe interface IBmiOperation
{
    /// <summary>Computes the result and records its flags, if it has any.</summary>
    static abstract T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>;
}

/// <summary>ANDN: the first source inverted.</summary>
public readonly unsafe struct AndNot : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T> => Binary.Apply<And, T>(s, ~a, b);
}

/// <summary>BLSR; CF where the source was zero.</summary>
public readonly unsafe struct ResetLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T result = b & (b - T.One);
        Flags.SetResult(s, Width.Widen(result), Width.Bits<T>(), b == T.Zero, false);
        return result;
    }
}

/// <summary>BLSMSK; CF where the source was zero.</summary>
public readonly unsafe struct MaskToLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T result = b ^ (b - T.One);
        Flags.SetResult(s, Width.Widen(result), Width.Bits<T>(), b == T.Zero, false);
        return result;
    }
}

/// <summary>BLSI; CF where the source was not zero.</summary>
public readonly unsafe struct IsolateLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T result = b & (T.Zero - b);
        Flags.SetResult(s, Width.Widen(result), Width.Bits<T>(), b != T.Zero, false);
        return result;
    }
}

/// <summary>BEXTR: a field of a, whose start and length are the two low bytes of b.</summary>
public readonly unsafe struct ExtractField : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        int start = (int)(Width.Widen(b) & 0xFF);
        int length = (int)(Width.Widen(b) >> 8) & 0xFF;
        ulong field = start < Width.Bits<T>() ? Width.Widen(a) >> start : 0;
        if (length < 64)
            field &= (1UL << length) - 1;
        T result = Width.Narrow<T>(field);
        Flags.SetLogic(s, Width.Widen(result), Width.Bits<T>());
        return result;
    }
}

/// <summary>BZHI: a with its bits from b on cleared; CF where b is beyond the operand.</summary>
public readonly unsafe struct ZeroHigh : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        int from = (int)(Width.Widen(b) & 0xFF);
        bool beyond = from >= Width.Bits<T>();
        T result = beyond ? a : Width.Narrow<T>(Width.Widen(a) & ((1UL << from) - 1));
        Flags.SetResult(s, Width.Widen(result), Width.Bits<T>(), beyond, false);
        return result;
    }
}

/// <summary>PDEP: the low bits of a spread to the places of b.</summary>
public readonly unsafe struct Deposit : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        ulong source = Width.Widen(a);
        ulong result = 0;
        for (ulong mask = Width.Widen(b); mask != 0; mask &= mask - 1)
        {
            if ((source & 1) != 0)
                result |= mask & (0 - mask);
            source >>= 1;
        }
        return Width.Narrow<T>(result);
    }
}

/// <summary>PEXT: the bits of a at the places of b, packed.</summary>
public readonly unsafe struct Extract : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        ulong source = Width.Widen(a);
        ulong result = 0;
        ulong bit = 1;
        for (ulong mask = Width.Widen(b); mask != 0; mask &= mask - 1)
        {
            if ((source & mask & (0 - mask)) != 0)
                result |= bit;
            bit <<= 1;
        }
        return Width.Narrow<T>(result);
    }
}

/// <summary>SHLX.</summary>
public readonly unsafe struct PlainShl : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T> =>
        Width.Narrow<T>(Width.Widen(a) << ((int)Width.Widen(b) & Width.ShiftMask<T>()));
}

/// <summary>SHRX.</summary>
public readonly unsafe struct PlainShr : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T> =>
        Width.Narrow<T>(Width.Widen(a) >> ((int)Width.Widen(b) & Width.ShiftMask<T>()));
}

/// <summary>SARX.</summary>
public readonly unsafe struct PlainSar : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T> =>
        Width.Narrow<T>((ulong)(Width.WidenSigned(a) >> ((int)Width.Widen(b) & Width.ShiftMask<T>())));
}

/// <summary>RORX.</summary>
public readonly unsafe struct PlainRor : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T> =>
        T.RotateRight(a, (int)Width.Widen(b) & (Width.Bits<T>() - 1));
}

/// <summary>ADCX: addition with CF, which alone changes.</summary>
public readonly unsafe struct AddCarry : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T sum = Bmi.AddWith(a, b, Flags.Carry(s), out bool carry);
        Flags.SetCarry(s, carry);
        return sum;
    }
}

/// <summary>ADOX: addition with OF, which alone changes.</summary>
public readonly unsafe struct AddOverflow : IBmiOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T sum = Bmi.AddWith(a, b, Flags.Overflow(s), out bool carry);
        Flags.SetCarryOverflow(s, Flags.Carry(s), carry);
        return sum;
    }
}

/// <summary>Handlers of BMI1, BMI2 and ADX.</summary>
public static unsafe class Bmi
{
    /// <summary>Destination, first source, second source in a register.</summary>
    public static Insn* Reg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand1), Register.Read<T>(s, i->Operand2)));
        return i + 1;
    }

    /// <summary>Destination, first source, second source in memory.</summary>
    public static Insn* SecondMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand1), b));
        return i + 1;
    }

    /// <summary>Destination, first source in memory, second source.</summary>
    public static Insn* FirstMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T a))
            return null;
        Register.Write(s, i->Operand0, O.Apply(s, a, Register.Read<T>(s, i->Operand2)));
        return i + 1;
    }

    /// <summary>Destination, one source in a register.</summary>
    public static Insn* OneReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T>
    {
        T b = Register.Read<T>(s, i->Operand1);
        Register.Write(s, i->Operand0, O.Apply(s, b, b));
        return i + 1;
    }

    /// <summary>Destination, one source in memory.</summary>
    public static Insn* OneMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, O.Apply(s, b, b));
        return i + 1;
    }

    /// <summary>Destination that is the first source, second source in a register.</summary>
    public static Insn* TwoReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand0), Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>Destination that is the first source, second source in memory.</summary>
    public static Insn* TwoMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand0), b));
        return i + 1;
    }

    /// <summary>RORX of a register.</summary>
    public static Insn* ImmReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand1), Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>RORX of memory.</summary>
    public static Insn* ImmMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T a))
            return null;
        Register.Write(s, i->Operand0, O.Apply(s, a, Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>MULX by a register: the high half wins where both destinations are the same.</summary>
    public static Insn* MulxReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Mulx(s, i, Register.Read<T>(s, i->Operand2));
        return i + 1;
    }

    /// <summary>MULX by memory.</summary>
    public static Insn* MulxMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Mulx(s, i, b);
        return i + 1;
    }

    private static void Mulx<T>(CpuState* s, Insn* i, T b) where T : unmanaged, IBinaryInteger<T>
    {
        ulong high = Math.BigMul(Width.Widen(Register.Read<T>(s, Gpr.Rdx * 8)), Width.Widen(b), out ulong low);
        if (sizeof(T) == 4)
            high = low >> 32;
        Register.Write(s, i->Operand1, Width.Narrow<T>(low));
        Register.Write(s, i->Operand0, Width.Narrow<T>(high));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static T AddWith<T>(T a, T b, bool carryIn, out bool carryOut) where T : unmanaged, IBinaryInteger<T>
    {
        T sum = a + b;
        carryOut = sum < a;
        if (carryIn)
        {
            sum += T.One;
            carryOut |= sum == T.Zero;
        }
        return sum;
    }
}
