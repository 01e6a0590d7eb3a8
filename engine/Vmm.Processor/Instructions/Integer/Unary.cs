using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation on one operand that it replaces.</summary>
public unsafe interface IUnaryOperation
{
    /// <summary>Computes the result and records its flags.</summary>
    static abstract ulong Apply(CpuState* s, ulong a, int bits);
}

/// <summary>INC.</summary>
public readonly unsafe struct Inc : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, int bits)
    {
        ulong result = a + 1;
        Flags.SetInc(s, a, result, bits);
        return result;
    }
}

/// <summary>DEC.</summary>
public readonly unsafe struct Dec : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, int bits)
    {
        ulong result = a - 1;
        Flags.SetDec(s, a, result, bits);
        return result;
    }
}

/// <summary>NEG.</summary>
public readonly unsafe struct Neg : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, int bits) => Sub.Apply(s, 0, a, bits);
}

/// <summary>NOT: no flags.</summary>
public readonly unsafe struct Not : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, int bits) => ~a;
}

/// <summary>Handlers of one-operand arithmetic.</summary>
public static unsafe class Unary
{
    /// <summary>On a register.</summary>
    public static Insn* Reg<O, T>(CpuState* s, Insn* i) where O : struct, IUnaryOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand0)));
        return i + 1;
    }

    /// <summary>On memory.</summary>
    public static Insn* Mem<O, T, M>(CpuState* s, Insn* i) where O : struct, IUnaryOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, Apply<O, T>(s, a));
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Apply<O, T>(CpuState* s, T a) where O : struct, IUnaryOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(a), Width.Bits<T>()));
}
