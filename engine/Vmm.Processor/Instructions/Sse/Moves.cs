using System.Numerics;
using Vmm.Processor.Memory;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>Moves between XMM registers, memory and general-purpose registers.</summary>
internal static unsafe class Moves
{
    /// <summary>All 16 bytes from register to register.</summary>
    public static Insn* Copy(CpuState* s, Insn* i)
    {
        *Xmm.At(s, i->Operand0) = *Xmm.At(s, i->Operand1);
        return i + 1;
    }

    /// <summary>An aligned load.</summary>
    public static Insn* LoadAligned<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<V, M>(s, i, out V value))
            return null;
        *Xmm.At(s, i->Operand0) = value;
        return i + 1;
    }

    /// <summary>An unaligned load.</summary>
    public static Insn* Load<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.Read<V, M>(s, i, out V value))
            return null;
        *Xmm.At(s, i->Operand0) = value;
        return i + 1;
    }

    /// <summary>An aligned store.</summary>
    public static Insn* StoreAligned<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.WriteAligned<V, M>(s, i, *Xmm.At(s, i->Operand1)) ? i + 1 : null;

    /// <summary>An unaligned store.</summary>
    public static Insn* Store<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Write<V, M>(s, i, *Xmm.At(s, i->Operand1)) ? i + 1 : null;

    /// <summary>A low element from register to register; the rest stays.</summary>
    public static Insn* CopyLow<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        *(T*)Xmm.At(s, i->Operand0) = *(T*)Xmm.At(s, i->Operand1);
        return i + 1;
    }

    /// <summary>A low element from register to register; the rest becomes zero (MOVQ).</summary>
    public static Insn* CopyLowZero(CpuState* s, Insn* i)
    {
        *Xmm.At(s, i->Operand0) = Vector128.CreateScalar(*(ulong*)Xmm.At(s, i->Operand1)).AsByte();
        return i + 1;
    }

    /// <summary>A low element from memory; the rest becomes zero.</summary>
    public static Insn* LoadLowZero<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        *Xmm.At(s, i->Operand0) = Vector128.CreateScalar(value).AsByte();
        return i + 1;
    }

    /// <summary>A general-purpose register to the low element; the rest becomes zero.</summary>
    public static Insn* FromGeneral<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        *Xmm.At(s, i->Operand0) = Vector128.CreateScalar(Instructions.Register.Read<T>(s, i->Operand1)).AsByte();
        return i + 1;
    }

    /// <summary>The low element to a general-purpose register.</summary>
    public static Insn* ToGeneral<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Instructions.Register.Write(s, i->Operand0, *(T*)Xmm.At(s, i->Operand1));
        return i + 1;
    }

    /// <summary>The low element (of an XMM or general-purpose register) to memory.</summary>
    public static Insn* StoreLow<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Operand.Write<T, M>(s, i, Instructions.Register.Read<T>(s, i->Operand1)) ? i + 1 : null;

    /// <summary>Eight bytes from memory to the low half; the high half stays.</summary>
    public static Insn* LoadLowHalf<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.Read<ulong, M>(s, i, out ulong value))
            return null;
        *(ulong*)Xmm.At(s, i->Operand0) = value;
        return i + 1;
    }

    /// <summary>Eight bytes from memory to the high half; the low half stays.</summary>
    public static Insn* LoadHighHalf<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.Read<ulong, M>(s, i, out ulong value))
            return null;
        ((ulong*)Xmm.At(s, i->Operand0))[1] = value;
        return i + 1;
    }

    /// <summary>The high half to memory.</summary>
    public static Insn* StoreHighHalf<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Write<ulong, M>(s, i, ((ulong*)Xmm.At(s, i->Operand1))[1]) ? i + 1 : null;

    /// <summary>MOVHLPS.</summary>
    public static Insn* HighToLow(CpuState* s, Insn* i)
    {
        *(ulong*)Xmm.At(s, i->Operand0) = ((ulong*)Xmm.At(s, i->Operand1))[1];
        return i + 1;
    }

    /// <summary>MOVLHPS.</summary>
    public static Insn* LowToHigh(CpuState* s, Insn* i)
    {
        ((ulong*)Xmm.At(s, i->Operand0))[1] = *(ulong*)Xmm.At(s, i->Operand1);
        return i + 1;
    }

    /// <summary>The sign bits of the elements to a general-purpose register.</summary>
    public static Insn* Mask<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        uint mask = Xmm.At(s, i->Operand1)->As<byte, T>().ExtractMostSignificantBits();
        Instructions.Register.Write(s, i->Operand0, (ulong)mask);
        return i + 1;
    }

    /// <summary>One element to a general-purpose register, zero-extended.</summary>
    public static Insn* Extract<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong value = ulong.CreateTruncating(Pick<T>(s, i));
        Instructions.Register.Write(s, i->Operand0, value);
        return i + 1;
    }

    /// <summary>One element to memory.</summary>
    public static Insn* ExtractMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing =>
        Operand.Write<T, M>(s, i, Pick<T>(s, i)) ? i + 1 : null;

    /// <summary>One element from a general-purpose register.</summary>
    public static Insn* Insert<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        ((T*)Xmm.At(s, i->Operand0))[Element<T>(i)] = Instructions.Register.Read<T>(s, i->Operand1);
        return i + 1;
    }

    /// <summary>One element from memory.</summary>
    public static Insn* InsertMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        ((T*)Xmm.At(s, i->Operand0))[Element<T>(i)] = value;
        return i + 1;
    }

    /// <summary>MASKMOVDQU: the bytes whose mask byte has its top bit set go to DS:rDI.</summary>
    public static Insn* MaskedStore<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        V data = *Xmm.At(s, i->Operand1);
        uint mask = Xmm.At(s, i->Operand2)->ExtractMostSignificantBits();
        return MaskedBytes.Store<M>(s, i, (byte*)&data, 16, mask) ? i + 1 : null;
    }

    private static int Element<T>(Insn* i) where T : unmanaged => (int)i->Immediate & (16 / sizeof(T) - 1);

    private static T Pick<T>(CpuState* s, Insn* i) where T : unmanaged => ((T*)Xmm.At(s, i->Operand1))[(int)i->Immediate & (16 / sizeof(T) - 1)];
}

/// <summary>Byte-masked stores at DS:rDI (or the overriding segment), for MASKMOVQ and MASKMOVDQU.</summary>
internal static unsafe class MaskedBytes
{
    /// <summary>
    /// Stores the selected bytes. The whole operand must be writable, selected or not, as the manual allows (SDM volume 2,
    /// MASKMOVDQU). False after a fault, with nothing stored.
    /// </summary>
    public static bool Store<M>(CpuState* s, Insn* i, byte* data, int size, uint mask) where M : struct, IAddressing
    {
        ulong offset = s->Gpr[Gpr.Rdi] & i->AddressMask;
        if (!Operand.Linear<M>(s, i, i->Segment, offset, (uint)size, write: true, out ulong linear))
            return false;
        if (!Fpu.BlockMemory.ProbeHalves(s, i, linear, size))
            return false;
        for (; mask != 0; mask &= mask - 1)
        {
            int n = BitOperations.TrailingZeroCount(mask);
            if (!Operand.WriteAt<byte, M>(s, i, i->Segment, offset + (uint)n, data[n]))
                return false;
        }
        return true;
    }
}
