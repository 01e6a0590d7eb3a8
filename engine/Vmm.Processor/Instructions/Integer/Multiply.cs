using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vector = Vmm.Processor.State.Vector;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>MUL, IMUL, DIV and IDIV (SDM volume 2).</summary>
public static unsafe class Multiply
{
    /// <summary>MUL by a register.</summary>
    public static Insn* MulReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Unsigned(s, Register.Read<T>(s, i->Operand0));
        return i + 1;
    }

    /// <summary>MUL by memory.</summary>
    public static Insn* MulMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Unsigned(s, b);
        return i + 1;
    }

    /// <summary>One-operand IMUL by a register.</summary>
    public static Insn* ImulReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Signed(s, Register.Read<T>(s, i->Operand0));
        return i + 1;
    }

    /// <summary>One-operand IMUL by memory.</summary>
    public static Insn* ImulMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Signed(s, b);
        return i + 1;
    }

    /// <summary>IMUL r, r.</summary>
    public static Insn* ImulRegReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, Truncated(s, Register.Read<T>(s, i->Operand0), Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>IMUL r, m.</summary>
    public static Insn* ImulRegMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, Truncated(s, Register.Read<T>(s, i->Operand0), b));
        return i + 1;
    }

    /// <summary>IMUL r, r, imm.</summary>
    public static Insn* ImulRegRegImm<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, Truncated(s, Register.Read<T>(s, i->Operand1), Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>IMUL r, m, imm.</summary>
    public static Insn* ImulRegMemImm<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        Register.Write(s, i->Operand0, Truncated(s, b, Width.Immediate<T>(i)));
        return i + 1;
    }

    /// <summary>DIV by a register.</summary>
    public static Insn* DivReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        DivideUnsigned(s, Register.Read<T>(s, i->Operand0)) ? i + 1 : Fault.Raise(s, i, Vector.De);

    /// <summary>DIV by memory.</summary>
    public static Insn* DivMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        return DivideUnsigned(s, b) ? i + 1 : Fault.Raise(s, i, Vector.De);
    }

    /// <summary>IDIV by a register.</summary>
    public static Insn* IdivReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        DivideSigned(s, Register.Read<T>(s, i->Operand0)) ? i + 1 : Fault.Raise(s, i, Vector.De);

    /// <summary>IDIV by memory.</summary>
    public static Insn* IdivMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        return DivideSigned(s, b) ? i + 1 : Fault.Raise(s, i, Vector.De);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Unsigned<T>(CpuState* s, T b) where T : unmanaged, IBinaryInteger<T>
    {
        ulong a = Width.Widen(Register.Read<T>(s, Rax));
        ulong low, high;
        if (sizeof(T) == 8)
        {
            high = Math.BigMul(a, Width.Widen(b), out low);
        }
        else
        {
            ulong product = a * Width.Widen(b);
            low = product;
            high = product >> Width.Bits<T>();
        }
        Store(s, Width.Narrow<T>(low), Width.Narrow<T>(high));
        Flags.SetResult(s, low, Width.Bits<T>(), high != 0, high != 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Signed<T>(CpuState* s, T b) where T : unmanaged, IBinaryInteger<T>
    {
        long a = Width.WidenSigned(Register.Read<T>(s, Rax));
        long low, high;
        if (sizeof(T) == 8)
        {
            high = Math.BigMul(a, Width.WidenSigned(b), out low);
        }
        else
        {
            long product = a * Width.WidenSigned(b);
            low = product;
            high = product >> Width.Bits<T>();
        }
        Store(s, Width.Narrow<T>((ulong)low), Width.Narrow<T>((ulong)high));
        bool wide = high != Width.WidenSigned(Width.Narrow<T>((ulong)low)) >> 63;
        Flags.SetResult(s, (ulong)low, Width.Bits<T>(), wide, wide);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static T Truncated<T>(CpuState* s, T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        T result = a * b;
        bool wide;
        if (sizeof(T) == 8)
            wide = Math.BigMul(Width.WidenSigned(a), Width.WidenSigned(b), out long low) != low >> 63;
        else
            wide = Width.WidenSigned(a) * Width.WidenSigned(b) != Width.WidenSigned(result);
        Flags.SetResult(s, Width.Widen(result), Width.Bits<T>(), wide, wide);
        return result;
    }

    /// <summary>The double-width result: AX for bytes, else the D register above the A register.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store<T>(CpuState* s, T low, T high) where T : unmanaged
    {
        Register.Write(s, Rax, low);
        Register.Write(s, sizeof(T) == 1 ? Ah : Rdx, high);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool DivideUnsigned<T>(CpuState* s, T divisor) where T : unmanaged, IBinaryInteger<T>
    {
        ulong d = Width.Widen(divisor);
        ulong low = Width.Widen(Register.Read<T>(s, Rax));
        ulong high = Width.Widen(Register.Read<T>(s, sizeof(T) == 1 ? Ah : Rdx));
        // A quotient that does not fit, or a divisor of zero: exactly when the high half is not below the divisor.
        if (high >= d)
            return false;
        ulong quotient, remainder;
        if (sizeof(T) < 8)
        {
            (quotient, remainder) = Math.DivRem((high << Width.Bits<T>()) | low, d);
        }
        else if (high == 0)
        {
            (quotient, remainder) = Math.DivRem(low, d);
        }
        else
        {
            (UInt128 wide, UInt128 rest) = UInt128.DivRem(new UInt128(high, low), d);
            quotient = (ulong)wide;
            remainder = (ulong)rest;
        }
        Store(s, Width.Narrow<T>(quotient), Width.Narrow<T>(remainder));
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool DivideSigned<T>(CpuState* s, T divisor) where T : unmanaged, IBinaryInteger<T>
    {
        long d = Width.WidenSigned(divisor);
        ulong low = Width.Widen(Register.Read<T>(s, Rax));
        long high = Width.WidenSigned(Register.Read<T>(s, sizeof(T) == 1 ? Ah : Rdx));
        if (d == 0)
            return false;
        if (sizeof(T) == 8 && high != (long)low >> 63)
            return DivideSignedWide(s, d, low, (ulong)high);
        long dividend = sizeof(T) == 8 ? (long)low : (high << Width.Bits<T>()) | (long)low;
        // The host traps on the one quotient of 64 bits that overflows.
        if (dividend == long.MinValue && d == -1)
            return false;
        (long quotient, long remainder) = Math.DivRem(dividend, d);
        if (quotient != Width.WidenSigned(Width.Narrow<T>((ulong)quotient)))
            return false;
        Store(s, Width.Narrow<T>((ulong)quotient), Width.Narrow<T>((ulong)remainder));
        return true;
    }

    private static bool DivideSignedWide(CpuState* s, long divisor, ulong low, ulong high)
    {
        bool negativeDividend = (long)high < 0;
        UInt128 dividend = new(high, low);
        if (negativeDividend)
            dividend = -dividend;
        ulong magnitude = divisor < 0 ? (ulong)-divisor : (ulong)divisor;
        if ((ulong)(dividend >> 64) >= magnitude)
            return false;
        (UInt128 wide, UInt128 rest) = UInt128.DivRem(dividend, magnitude);
        ulong quotient = (ulong)wide;
        bool negative = negativeDividend != divisor < 0;
        if (quotient > (negative ? 1UL << 63 : long.MaxValue))
            return false;
        s->Gpr[Gpr.Rax] = negative ? 0 - quotient : quotient;
        s->Gpr[Gpr.Rdx] = negativeDividend ? 0 - (ulong)rest : (ulong)rest;
        return true;
    }

    private const ushort Rax = Gpr.Rax * 8, Rdx = Gpr.Rdx * 8, Ah = Rax + 1;
}
