using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>SHLD or SHRD.</summary>
public unsafe interface IDoubleShiftOperation
{
    /// <summary>Computes the result and records its flags; the count is masked already and not zero.</summary>
    static abstract ulong Apply(CpuState* s, ulong value, ulong filler, int count, int bits);
}

/// <summary>SHLD. A 16-bit operand with a count above 16 (undefined in the manual) goes round: destination, source, destination.</summary>
public readonly unsafe struct Shld : IDoubleShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, ulong filler, int count, int bits)
    {
        ulong result;
        ulong carry;
        if (bits == 16)
        {
            ulong wide = (value << 32) | (filler << 16) | value;
            result = (wide << count) >> 32;
            carry = (wide >> (48 - count)) & 1;
        }
        else
        {
            result = (value << count) | (filler >> (bits - count));
            carry = (value >> (bits - count)) & 1;
        }
        Shift.Record(s, result, bits, carry, Width.Top(result, bits) ^ Width.Top(value, bits));
        return result;
    }
}

/// <summary>SHRD.</summary>
public readonly unsafe struct Shrd : IDoubleShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, ulong filler, int count, int bits)
    {
        ulong result;
        ulong carry;
        if (bits == 16)
        {
            ulong wide = (value << 32) | (filler << 16) | value;
            result = wide >> count;
            carry = (wide >> (count - 1)) & 1;
        }
        else
        {
            result = (value >> count) | (filler << (bits - count));
            carry = (value >> (count - 1)) & 1;
        }
        Shift.Record(s, result, bits, carry, Width.Top(result, bits) ^ Width.Top(value, bits));
        return result;
    }
}

/// <summary>Handlers of SHLD and SHRD.</summary>
public static unsafe class DoubleShift
{
    private const ushort Cl = Gpr.Rcx * 8;

    /// <summary>Register by immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged =>
        Reg<O, T>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Register by CL.</summary>
    public static Insn* RegCl<O, T>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged =>
        Reg<O, T>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Memory by immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Memory by CL.</summary>
    public static Insn* MemCl<O, T, M>(CpuState* s, Insn* i) where O : struct, IDoubleShiftOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg<O, T>(CpuState* s, Insn* i, int count) where O : struct, IDoubleShiftOperation where T : unmanaged
    {
        T value = Register.Read<T>(s, i->Operand0);
        Register.Write(s, i->Operand0, count != 0 ? Apply<O, T>(s, value, Register.Read<T>(s, i->Operand1), count) : value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Mem<O, T, M>(CpuState* s, Insn* i, int count) where O : struct, IDoubleShiftOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T value, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, count != 0 ? Apply<O, T>(s, value, Register.Read<T>(s, i->Operand1), count) : value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Apply<O, T>(CpuState* s, T value, T filler, int count) where O : struct, IDoubleShiftOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(value), Width.Widen(filler), count, Width.Bits<T>()));
}
