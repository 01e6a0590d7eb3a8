using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>What a bit test does to the bit.</summary>
public interface IBitOperation
{
    /// <summary>Whether it changes anything.</summary>
    static abstract bool Writes { get; }

    /// <summary>The operand with the masked bit changed.</summary>
    static abstract ulong Apply(ulong value, ulong mask);
}

/// <summary>BT.</summary>
public readonly struct BitTestOnly : IBitOperation
{
    /// <inheritdoc/>
    public static bool Writes => false;

    /// <inheritdoc/>
    public static ulong Apply(ulong value, ulong mask) => value;
}

/// <summary>BTS.</summary>
public readonly struct BitSet : IBitOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    public static ulong Apply(ulong value, ulong mask) => value | mask;
}

/// <summary>BTR.</summary>
public readonly struct BitReset : IBitOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    public static ulong Apply(ulong value, ulong mask) => value & ~mask;
}

/// <summary>BTC.</summary>
public readonly struct BitComplement : IBitOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    public static ulong Apply(ulong value, ulong mask) => value ^ mask;
}

/// <summary>BT, BTS, BTR, BTC: CF becomes the bit; the other flags stay (ZF by the manual, the rest undefined there).</summary>
public static unsafe class BitTest
{
    /// <summary>Register, bit in a register: modulo the operand's size.</summary>
    public static Insn* RegReg<O, T>(CpuState* s, Insn* i) where O : struct, IBitOperation where T : unmanaged =>
        Reg<O, T>(s, i, (int)Width.Widen(Register.Read<T>(s, i->Operand1)));

    /// <summary>Register, bit in an immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IBitOperation where T : unmanaged =>
        Reg<O, T>(s, i, (int)i->Immediate);

    /// <summary>Memory, bit in an immediate: modulo the operand's size.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IBitOperation where T : unmanaged where M : struct, IAddressing =>
        Mem<O, T, M>(s, i, Operand.EffectiveAddress(s, i), (int)i->Immediate);

    /// <summary>Memory, bit in a register: a signed bit offset from the operand, which reaches beyond it.</summary>
    public static Insn* MemReg<O, T, M>(CpuState* s, Insn* i) where O : struct, IBitOperation where T : unmanaged where M : struct, IAddressing
    {
        long bit = Width.WidenSigned(Register.Read<T>(s, i->Operand1));
        long distance = (bit >> (sizeof(T) == 2 ? 4 : sizeof(T) == 4 ? 5 : 6)) * sizeof(T);
        return Mem<O, T, M>(s, i, (Operand.EffectiveAddress(s, i) + (ulong)distance) & i->AddressMask, (int)bit);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Reg<O, T>(CpuState* s, Insn* i, int bit) where O : struct, IBitOperation where T : unmanaged
    {
        bit &= Width.Bits<T>() - 1;
        T value = Register.Read<T>(s, i->Operand0);
        if (O.Writes)
            Register.Write(s, i->Operand0, Width.Narrow<T>(O.Apply(Width.Widen(value), 1UL << bit)));
        SetCarry(s, Width.Widen(value) >> bit);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Mem<O, T, M>(CpuState* s, Insn* i, ulong offset, int bit) where O : struct, IBitOperation where T : unmanaged where M : struct, IAddressing
    {
        bit &= Width.Bits<T>() - 1;
        T value;
        if (O.Writes)
        {
            if (!Implicit.BeginModify<T, M>(s, i, i->Segment, offset, out value, out Cell cell))
                return null;
            Operand.EndModify(s, i, cell, Width.Narrow<T>(O.Apply(Width.Widen(value), 1UL << bit)));
        }
        else if (!Operand.ReadAt<T, M>(s, i, i->Segment, offset, out value))
        {
            return null;
        }
        SetCarry(s, Width.Widen(value) >> bit);
        return i + 1;
    }

    /// <summary>Bit 0 of <paramref name="carry"/> into CF: OF, the difference of the two carries, stays.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SetCarry(CpuState* s, ulong carry)
    {
        ulong flip = ((carry << 63) ^ s->FlagCarries) & (1UL << 63);
        s->FlagCarries ^= flip | (flip >> 1);
    }
}
