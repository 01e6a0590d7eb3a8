using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>A condition of Jcc, SETcc and CMOVcc (SDM volume 1, appendix B).</summary>
public unsafe interface ICondition
{
    /// <summary>Whether the flags satisfy it.</summary>
    static abstract bool Holds(CpuState* s);
}

/// <summary>The opposite condition.</summary>
public readonly unsafe struct Unless<C> : ICondition where C : struct, ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => !C.Holds(s);
}

/// <summary>OF.</summary>
public readonly unsafe struct IfOverflow : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Overflow(s);
}

/// <summary>CF: below.</summary>
public readonly unsafe struct IfBelow : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Carry(s);
}

/// <summary>ZF: equal.</summary>
public readonly unsafe struct IfEqual : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Zero(s);
}

/// <summary>CF or ZF: below or equal.</summary>
public readonly unsafe struct IfBelowOrEqual : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Carry(s) || Flags.Zero(s);
}

/// <summary>SF.</summary>
public readonly unsafe struct IfSign : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Sign(s);
}

/// <summary>PF.</summary>
public readonly unsafe struct IfParity : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Parity(s);
}

/// <summary>SF is not OF: less.</summary>
public readonly unsafe struct IfLess : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Less(s);
}

/// <summary>ZF, or SF is not OF: less or equal.</summary>
public readonly unsafe struct IfLessOrEqual : ICondition
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Holds(CpuState* s) => Flags.Zero(s) || Flags.Less(s);
}

/// <summary>SETcc and CMOVcc.</summary>
public static unsafe class Conditional
{
    /// <summary>SETcc on a register.</summary>
    public static Insn* SetReg<C>(CpuState* s, Insn* i) where C : struct, ICondition
    {
        Register.Write(s, i->Operand0, C.Holds(s) ? (byte)1 : (byte)0);
        return i + 1;
    }

    /// <summary>SETcc on memory.</summary>
    public static Insn* SetMem<C, M>(CpuState* s, Insn* i) where C : struct, ICondition where M : struct, IAddressing =>
        Operand.Write<byte, M>(s, i, C.Holds(s) ? (byte)1 : (byte)0) ? i + 1 : null;

    /// <summary>CMOVcc from a register. The 32-bit form clears the upper half either way.</summary>
    public static Insn* MoveReg<C, T>(CpuState* s, Insn* i) where C : struct, ICondition where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, i->Operand0, Register.Read<T>(s, C.Holds(s) ? i->Operand1 : i->Operand0));
        return i + 1;
    }

    /// <summary>CMOVcc from memory, which is read either way.</summary>
    public static Insn* MoveMem<C, T, M>(CpuState* s, Insn* i) where C : struct, ICondition where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        Register.Write(s, i->Operand0, C.Holds(s) ? value : Register.Read<T>(s, i->Operand0));
        return i + 1;
    }
}
