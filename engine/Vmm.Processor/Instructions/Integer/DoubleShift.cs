using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>SHLD or SHRD.</summary>
public unsafe interface IDoubleShiftOperation
{
    /// <summary>Computes the result and records its flags; the count is masked already and not zero.</summary>
    static abstract T Apply<T>(CpuState* s, T value, T filler, int count) where T : unmanaged, IBinaryInteger<T>;
}

/// <summary>SHLD. A 16-bit operand with a count above 16 (undefined in the manual) goes round: destination, source, destination.</summary>
public readonly unsafe struct Shld : IDoubleShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, T filler, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = Width.Bits<T>();
        ulong v = Width.Widen(value);
        ulong f = Width.Widen(filler);
        T result;
        ulong carry;
        if (sizeof(T) == 2)
        {
            ulong wide = (v << 32) | (f << 16) | v;
            result = Width.Narrow<T>((wide << count) >> 32);
            carry = (wide >> (48 - count)) & 1;
        }
        else
        {
            result = Width.Narrow<T>((v << count) | (f >> (bits - count)));
            carry = (v >> (bits - count)) & 1;
        }
        Shift.Record(s, Width.Widen(result), bits, carry, Width.Top(result) ^ Width.Top(value));
        return result;
    }
}

/// <summary>SHRD.</summary>
public readonly unsafe struct Shrd : IDoubleShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, T filler, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = Width.Bits<T>();
        ulong v = Width.Widen(value);
        ulong f = Width.Widen(filler);
        T result;
        ulong carry;
        if (sizeof(T) == 2)
        {
            ulong wide = (v << 32) | (f << 16) | v;
            result = Width.Narrow<T>(wide >> count);
            carry = (wide >> (count - 1)) & 1;
        }
        else
        {
            result = Width.Narrow<T>((v >> count) | (f << (bits - count)));
            carry = (v >> (count - 1)) & 1;
        }
        Shift.Record(s, Width.Widen(result), bits, carry, Width.Top(result) ^ Width.Top(value));
        return result;
    }
}

/// <summary>Handlers of SHLD and SHRD.</summary>
public static unsafe class DoubleShift
{
    private const ushort Cl = Gpr.Rcx * 8;

    /// <summary>Register by immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T> =>
        Reg<O, T>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Register by CL.</summary>
    public static Insn* RegCl<O, T>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T> =>
        Reg<O, T>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Memory by immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Memory by CL.</summary>
    public static Insn* MemCl<O, T, M>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg<O, T>(CpuState* s, Insn* i, int count) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T>
    {
        T value = Register.Read<T>(s, i->Operand0);
        Register.Write(s, i->Operand0, count != 0 ? O.Apply(s, value, Register.Read<T>(s, i->Operand1), count) : value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Mem<O, T, M>(CpuState* s, Insn* i, int count) where O : struct, IDoubleShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T value, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, count != 0 ? O.Apply(s, value, Register.Read<T>(s, i->Operand1), count) : value);
        return i + 1;
    }
}
