using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation of BMI1 or BMI2 on two sources.</summary>
public unsafe interface IBmiOperation
{
    /// <summary>Computes the result and records its flags, if it has any.</summary>
    static abstract ulong Apply(CpuState* s, ulong a, ulong b, int bits);
}

/// <summary>ANDN: the first source inverted.</summary>
public readonly unsafe struct AndNot : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) => And.Apply(s, ~a, b, bits);
}

/// <summary>BLSR; CF where the source was zero.</summary>
public readonly unsafe struct ResetLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = b & (b - 1);
        Flags.SetResult(s, result, bits, b == 0, false);
        return result;
    }
}

/// <summary>BLSMSK; CF where the source was zero.</summary>
public readonly unsafe struct MaskToLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = b ^ (b - 1);
        Flags.SetResult(s, result, bits, b == 0, false);
        return result;
    }
}

/// <summary>BLSI; CF where the source was not zero.</summary>
public readonly unsafe struct IsolateLowest : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = b & (0 - b);
        Flags.SetResult(s, result, bits, b != 0, false);
        return result;
    }
}

/// <summary>BEXTR: a field of a, whose start and length are the two low bytes of b.</summary>
public readonly unsafe struct ExtractField : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        int start = (int)(b & 0xFF);
        int length = (int)(b >> 8) & 0xFF;
        ulong field = start < bits ? a >> start : 0;
        if (length < 64)
            field &= (1UL << length) - 1;
        Flags.SetLogic(s, field, bits);
        return field;
    }
}

/// <summary>BZHI: a with its bits from b on cleared; CF where b is beyond the operand.</summary>
public readonly unsafe struct ZeroHigh : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        int from = (int)(b & 0xFF);
        bool beyond = from >= bits;
        ulong result = beyond ? a : a & ((1UL << from) - 1);
        Flags.SetResult(s, result, bits, beyond, false);
        return result;
    }
}

/// <summary>PDEP: the low bits of a spread to the places of b.</summary>
public readonly unsafe struct Deposit : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong source = a;
        ulong result = 0;
        for (ulong mask = b; mask != 0; mask &= mask - 1)
        {
            if ((source & 1) != 0)
                result |= mask & (0 - mask);
            source >>= 1;
        }
        return result;
    }
}

/// <summary>PEXT: the bits of a at the places of b, packed.</summary>
public readonly unsafe struct Extract : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong source = a;
        ulong result = 0;
        ulong bit = 1;
        for (ulong mask = b; mask != 0; mask &= mask - 1)
        {
            if ((source & mask & (0 - mask)) != 0)
                result |= bit;
            bit <<= 1;
        }
        return result;
    }
}

/// <summary>SHLX.</summary>
public readonly unsafe struct PlainShl : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) =>
        a << ((int)b & (bits - 1));
}

/// <summary>SHRX.</summary>
public readonly unsafe struct PlainShr : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) =>
        a >> ((int)b & (bits - 1));
}

/// <summary>SARX.</summary>
public readonly unsafe struct PlainSar : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) =>
        (ulong)(Flags.SignExtend(a, bits) >> ((int)b & (bits - 1)));
}

/// <summary>RORX.</summary>
public readonly unsafe struct PlainRor : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) =>
        Shift.Rotate(a, -(int)b & (bits - 1), bits);
}

/// <summary>ADCX: addition with CF, which alone changes.</summary>
public readonly unsafe struct AddCarry : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong sum = Bmi.AddWith(a, b, Flags.Carry(s), bits, out bool carry);
        Flags.SetCarry(s, carry);
        return sum;
    }
}

/// <summary>ADOX: addition with OF, which alone changes.</summary>
public readonly unsafe struct AddOverflow : IBmiOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong sum = Bmi.AddWith(a, b, Flags.Overflow(s), bits, out bool carry);
        Flags.SetCarryOverflow(s, Flags.Carry(s), carry);
        return sum;
    }
}

/// <summary>Handlers of BMI1, BMI2 and ADX.</summary>
public static unsafe class Bmi
{
    /// <summary>Destination, first source, second source in a register.</summary>
    public static Insn* Reg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand1), Register.Read<T>(s, i->Operand2)));
        return i + 1;
    }

    /// <summary>Destination, first source, second source in memory.</summary>
    public static Insn* SecondMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand1), b));
        return i + 1;
    }

    /// <summary>Destination, first source in memory, second source.</summary>
    public static Insn* FirstMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T a))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, a, Register.Read<T>(s, i->Operand2)));
        return i + 1;
    }

    /// <summary>Destination, one source in a register.</summary>
    public static Insn* OneReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged
    {
        T b = Register.Read<T>(s, i->Operand1);
        Register.Write(s, i->Operand0, Apply<O, T>(s, b, b));
        return i + 1;
    }

    /// <summary>Destination, one source in memory.</summary>
    public static Insn* OneMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, b, b));
        return i + 1;
    }

    /// <summary>Destination that is the first source, second source in a register.</summary>
    public static Insn* TwoReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand0), Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>Destination that is the first source, second source in memory.</summary>
    public static Insn* TwoMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand0), b));
        return i + 1;
    }

    /// <summary>RORX of a register.</summary>
    public static Insn* ImmReg<O, T>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand1), Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>RORX of memory.</summary>
    public static Insn* ImmMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBmiOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T a))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, a, Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>MULX by a register: the high half wins where both destinations are the same.</summary>
    public static Insn* MulxReg<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Mulx(s, i, Register.Read<T>(s, i->Operand2));
        return i + 1;
    }

    /// <summary>MULX by memory.</summary>
    public static Insn* MulxMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Mulx(s, i, b);
        return i + 1;
    }

    private static void Mulx<T>(CpuState* s, Insn* i, T b) where T : unmanaged
    {
        ulong high = Math.BigMul(Width.Widen(Register.Read<T>(s, Gpr.Rdx * 8)), Width.Widen(b), out ulong low);
        if (sizeof(T) == 4)
            high = low >> 32;
        Register.Write(s, i->Operand1, Width.Narrow<T>(low));
        Register.Write(s, i->Operand0, Width.Narrow<T>(high));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Apply<O, T>(CpuState* s, T a, T b) where O : struct, IBmiOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(a), Width.Widen(b), Width.Bits<T>()));

    /// <summary>The sum of two operands of 32 or 64 bits and a carry.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static ulong AddWith(ulong a, ulong b, bool carryIn, int bits, out bool carryOut)
    {
        ulong sum = a + b + (carryIn ? 1UL : 0);
        carryOut = bits == 64 ? sum < a || carryIn && sum == a : sum >> bits != 0;
        return sum;
    }
}
