using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>A shift or rotate. Where the manual leaves OF or CF undefined, they are what the one-bit rule or the last bit out gives.</summary>
public unsafe interface IShiftOperation
{
    /// <summary>Computes the result and records its flags; the count is masked already and not zero.</summary>
    static abstract ulong Apply(CpuState* s, ulong value, int count, int bits);
}

/// <summary>SHL.</summary>
public readonly unsafe struct Shl : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        ulong result = value << count;
        ulong carry = bits == 64 ? (value >> (64 - count)) & 1 : (result >> bits) & 1;
        Shift.Record(s, result, bits, carry, Width.Top(result, bits) ^ carry);
        return result;
    }
}

/// <summary>SHR.</summary>
public readonly unsafe struct Shr : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        ulong wide = value >> (count - 1);
        ulong result = wide >> 1;
        // After a shift by one the top two bits of the result are 0 and the old top bit, which is OF.
        Shift.Record(s, result, bits, wide & 1, Width.Top(result + result, bits));
        return result;
    }
}

/// <summary>SAR.</summary>
public readonly unsafe struct Sar : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        long wide = Flags.SignExtend(value, bits) >> (count - 1);
        ulong result = (ulong)(wide >> 1);
        Shift.Record(s, result, bits, (ulong)wide & 1, 0);
        return result;
    }
}

/// <summary>ROL.</summary>
public readonly unsafe struct Rol : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        ulong result = Shift.Rotate(value, count & (bits - 1), bits);
        ulong carry = result & 1;
        Shift.RecordRotate(s, carry, Width.Top(result, bits) ^ carry);
        return result;
    }
}

/// <summary>ROR.</summary>
public readonly unsafe struct Ror : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        ulong result = Shift.Rotate(value, -count & (bits - 1), bits);
        Shift.RecordRotate(s, Width.Top(result, bits), Width.Top(result, bits) ^ Width.Top(result + result, bits));
        return result;
    }
}

/// <summary>RCL: a rotate of one bit more than the operand has.</summary>
public readonly unsafe struct Rcl : IShiftOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        if (bits < 32)
            count %= bits + 1;
        if (count == 0)
            return value;
        ulong around = count > 1 ? value >> (bits + 1 - count) : 0;
        ulong result = (value << count) | ((s->FlagCarries >> 63) << (count - 1)) | around;
        ulong carry = (value >> (bits - count)) & 1;
        Shift.RecordRotate(s, carry, Width.Top(result, bits) ^ carry);
        return result;
    }
}

/// <summary>RCR.</summary>
public readonly unsafe struct Rcr : IShiftOperation
{
    /// <inheritdoc/>
    public static ulong Apply(CpuState* s, ulong value, int count, int bits)
    {
        if (bits < 32)
            count %= bits + 1;
        if (count == 0)
            return value;
        ulong around = count > 1 ? value << (bits + 1 - count) : 0;
        ulong result = (value >> count) | ((s->FlagCarries >> 63) << (bits - count)) | around;
        ulong carry = (value >> (count - 1)) & 1;
        Shift.RecordRotate(s, carry, Width.Top(result, bits) ^ Width.Top(result + result, bits));
        return result;
    }
}

/// <summary>Handlers of shifts and rotates. A count of zero changes no flag, but a 32-bit register's upper half is still cleared.</summary>
public static unsafe class Shift
{
    private const ushort Cl = Gpr.Rcx * 8;

    /// <summary>Register by one.</summary>
    public static Insn* RegOne<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand0), 1));
        return i + 1;
    }

    /// <summary>Register by immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged =>
        Reg<O, T>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Register by CL.</summary>
    public static Insn* RegCl<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged =>
        Reg<O, T>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Memory by one.</summary>
    public static Insn* MemOne<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, 1);

    /// <summary>Memory by immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Memory by CL.</summary>
    public static Insn* MemCl<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Records a shift's result, CF and OF (each 0 or 1); AF is clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Record(CpuState* s, ulong result, int bits, ulong carry, ulong overflow)
    {
        s->FlagResult = Flags.SignExtend(result, bits);
        s->FlagCarries = (carry << 63) | ((carry ^ overflow) << 62);
    }

    /// <summary>Records a rotate's CF and OF; the other flags stay.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void RecordRotate(CpuState* s, ulong carry, ulong overflow) =>
        s->FlagCarries = (s->FlagCarries & (ulong.MaxValue >> 2)) | (carry << 63) | ((carry ^ overflow) << 62);

    /// <summary>Rotates the low bits of a value to the left, by fewer than there are.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static ulong Rotate(ulong value, int count, int bits) => bits switch
    {
        64 => BitOperations.RotateLeft(value, count),
        32 => BitOperations.RotateLeft((uint)value, count),
        _ => value << count | value >> (bits - count),
    };

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Apply<O, T>(CpuState* s, T value, int count) where O : struct, IShiftOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(value), count, Width.Bits<T>()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg<O, T>(CpuState* s, Insn* i, int count) where O : struct, IShiftOperation where T : unmanaged
    {
        T value = Register.Read<T>(s, i->Operand0);
        Register.Write(s, i->Operand0, count != 0 ? Apply<O, T>(s, value, count) : value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Mem<O, T, M>(CpuState* s, Insn* i, int count) where O : struct, IShiftOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T value, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, count != 0 ? Apply<O, T>(s, value, count) : value);
        return i + 1;
    }
}
