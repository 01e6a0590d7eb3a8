using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation on one operand that it replaces.</summary>
public unsafe interface IUnaryOperation
{
    /// <summary>Computes the result and records its flags.</summary>
    static abstract T Apply<T>(CpuState* s, T a) where T : unmanaged, IBinaryInteger<T>;
}

/// <summary>INC.</summary>
public readonly unsafe struct Inc : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T a) where T : unmanaged, IBinaryInteger<T>
    {
        T result = a + T.One;
        Flags.SetInc(s, a, result);
        return result;
    }
}

/// <summary>DEC.</summary>
public readonly unsafe struct Dec : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T a) where T : unmanaged, IBinaryInteger<T>
    {
        T result = a - T.One;
        Flags.SetDec(s, a, result);
        return result;
    }
}

/// <summary>NEG.</summary>
public readonly unsafe struct Neg : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T a) where T : unmanaged, IBinaryInteger<T> => Sub.Apply(s, T.Zero, a);
}

/// <summary>NOT: no flags.</summary>
public readonly unsafe struct Not : IUnaryOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Apply<T>(CpuState* s, T a) where T : unmanaged, IBinaryInteger<T> => ~a;
}

/// <summary>Handlers of one-operand arithmetic.</summary>
public static unsafe class Unary
{
    /// <summary>On a register.</summary>
    public static Insn* Reg<O, T>(CpuState* s, Insn* i) where O : struct, IUnaryOperation where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, O.Apply(s, Register.Read<T>(s, i->Operand0)));
        return i + 1;
    }

    /// <summary>On memory.</summary>
    public static Insn* Mem<O, T, M>(CpuState* s, Insn* i) where O : struct, IUnaryOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, O.Apply(s, a));
        return i + 1;
    }
}
