using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>A shift or rotate. Where the manual leaves OF or CF undefined, they are what the one-bit rule or the last bit out gives.</summary>
public unsafe interface IShiftOperation
{
    /// <summary>Computes the result and records its flags; the count is masked already and not zero.</summary>
    static abstract T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>;
}

/// <summary>SHL.</summary>
public readonly unsafe struct Shl : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        ulong wide = Width.Widen(value);
        T result = Width.Narrow<T>(wide << count);
        ulong carry = sizeof(T) == 8 ? (wide >> (64 - count)) & 1 : ((wide << count) >> Width.Bits<T>()) & 1;
        Shift.Record(s, result, carry, Width.Top(result) ^ carry);
        return result;
    }
}

/// <summary>SHR.</summary>
public readonly unsafe struct Shr : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        ulong wide = Width.Widen(value) >> (count - 1);
        T result = Width.Narrow<T>(wide >> 1);
        // After a shift by one the top two bits of the result are 0 and the old top bit, which is OF.
        Shift.Record(s, result, wide & 1, Width.Top(result + result));
        return result;
    }
}

/// <summary>SAR.</summary>
public readonly unsafe struct Sar : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        long wide = Width.WidenSigned(value) >> (count - 1);
        T result = Width.Narrow<T>((ulong)(wide >> 1));
        Shift.Record(s, result, (ulong)wide & 1, 0);
        return result;
    }
}

/// <summary>ROL.</summary>
public readonly unsafe struct Rol : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        T result = T.RotateLeft(value, count & (Width.Bits<T>() - 1));
        ulong carry = Width.Widen(result) & 1;
        Shift.RecordRotate(s, carry, Width.Top(result) ^ carry);
        return result;
    }
}

/// <summary>ROR.</summary>
public readonly unsafe struct Ror : IShiftOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        T result = T.RotateRight(value, count & (Width.Bits<T>() - 1));
        Shift.RecordRotate(s, Width.Top(result), Width.Top(result) ^ Width.Top(result + result));
        return result;
    }
}

/// <summary>RCL: a rotate of one bit more than the operand has.</summary>
public readonly unsafe struct Rcl : IShiftOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = Width.Bits<T>();
        if (bits < 32)
            count %= bits + 1;
        if (count == 0)
            return value;
        ulong wide = Width.Widen(value);
        ulong around = count > 1 ? wide >> (bits + 1 - count) : 0;
        T result = Width.Narrow<T>((wide << count) | ((s->FlagCarries >> 63) << (count - 1)) | around);
        ulong carry = (wide >> (bits - count)) & 1;
        Shift.RecordRotate(s, carry, Width.Top(result) ^ carry);
        return result;
    }
}

/// <summary>RCR.</summary>
public readonly unsafe struct Rcr : IShiftOperation
{
    /// <inheritdoc/>
    public static T Apply<T>(CpuState* s, T value, int count) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = Width.Bits<T>();
        if (bits < 32)
            count %= bits + 1;
        if (count == 0)
            return value;
        ulong wide = Width.Widen(value);
        ulong around = count > 1 ? wide << (bits + 1 - count) : 0;
        T result = Width.Narrow<T>((wide >> count) | ((s->FlagCarries >> 63) << (bits - count)) | around);
        ulong carry = (wide >> (count - 1)) & 1;
        Shift.RecordRotate(s, carry, Width.Top(result) ^ Width.Top(result + result));
        return result;
    }
}

/// <summary>Handlers of shifts and rotates. A count of zero changes no flag, but a 32-bit register's upper half is still cleared.</summary>
public static unsafe class Shift
{
    private const ushort Cl = Gpr.Rcx * 8;

    /// <summary>Register by one.</summary>
    public static Insn* RegOne<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand0), 1));
        return i + 1;
    }

    /// <summary>Register by immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> =>
        Reg<O, T>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Register by CL.</summary>
    public static Insn* RegCl<O, T>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> =>
        Reg<O, T>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Memory by one.</summary>
    public static Insn* MemOne<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, 1);

    /// <summary>Memory by immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, (int)i->Immediate & Width.ShiftMask<T>());

    /// <summary>Memory by CL.</summary>
    public static Insn* MemCl<O, T, M>(CpuState* s, Insn* i) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, Register.Read<byte>(s, Cl) & Width.ShiftMask<T>());

    /// <summary>Records a shift's result, CF and OF (each 0 or 1); AF is clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Record<T>(CpuState* s, T result, ulong carry, ulong overflow) where T : unmanaged, IBinaryInteger<T>
    {
        s->FlagResult = Flags.SignExtend(result);
        s->FlagCarries = (carry << 63) | ((carry ^ overflow) << 62);
    }

    /// <summary>Records a rotate's CF and OF; the other flags stay.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void RecordRotate(CpuState* s, ulong carry, ulong overflow) =>
        s->FlagCarries = (s->FlagCarries & (ulong.MaxValue >> 2)) | (carry << 63) | ((carry ^ overflow) << 62);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg<O, T>(CpuState* s, Insn* i, int count) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T>
    {
        T value = Register.Read<T>(s, i->Operand0);
        Register.Write(s, i->Operand0, count != 0 ? O.Apply(s, value, count) : value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Mem<O, T, M>(CpuState* s, Insn* i, int count) where O : struct, IShiftOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T value, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, count != 0 ? O.Apply(s, value, count) : value);
        return i + 1;
    }
}
