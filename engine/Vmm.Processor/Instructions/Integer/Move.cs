using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;
using Vector = Vmm.Processor.State.Vector;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Data transfer without arithmetic.</summary>
public static unsafe class Move
{
    private const ushort Rax = Gpr.Rax * 8, Rdx = Gpr.Rdx * 8;

    /// <summary>MOV r, r.</summary>
    public static Insn* RegReg<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, Register.Read<T>(s, i->Operand1));
        return i + 1;
    }

    /// <summary>MOV r, m.</summary>
    public static Insn* RegMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        Register.Write(s, i->Operand0, value);
        return i + 1;
    }

    /// <summary>MOV m, r.</summary>
    public static Insn* MemReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Operand.Write<T, M>(s, i, Register.Read<T>(s, i->Operand1)) ? i + 1 : null;

    /// <summary>MOV r, imm.</summary>
    public static Insn* RegImm<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, Width.Immediate<T>(i));
        return i + 1;
    }

    /// <summary>MOV m, imm.</summary>
    public static Insn* MemImm<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Operand.Write<T, M>(s, i, Width.Immediate<T>(i)) ? i + 1 : null;

    /// <summary>MOVZX from a register.</summary>
    public static Insn* ZeroReg<T, F>(CpuState* s, Insn* i) where T : unmanaged where F : unmanaged
    {
        Register.Write(s, i->Operand0, Width.Narrow<T>(Width.Widen(Register.Read<F>(s, i->Operand1))));
        return i + 1;
    }

    /// <summary>MOVZX from memory.</summary>
    public static Insn* ZeroMem<T, F, M>(CpuState* s, Insn* i) where T : unmanaged where F : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<F, M>(s, i, out F value))
            return null;
        Register.Write(s, i->Operand0, Width.Narrow<T>(Width.Widen(value)));
        return i + 1;
    }

    /// <summary>MOVSX and MOVSXD from a register.</summary>
    public static Insn* SignReg<T, F>(CpuState* s, Insn* i) where T : unmanaged where F : unmanaged, IBinaryInteger<F>
    {
        Register.Write(s, i->Operand0, Width.Narrow<T>((ulong)Width.WidenSigned(Register.Read<F>(s, i->Operand1))));
        return i + 1;
    }

    /// <summary>MOVSX and MOVSXD from memory.</summary>
    public static Insn* SignMem<T, F, M>(CpuState* s, Insn* i) where T : unmanaged where F : unmanaged, IBinaryInteger<F> where M : struct, IAddressing
    {
        if (!Operand.Read<F, M>(s, i, out F value))
            return null;
        Register.Write(s, i->Operand0, Width.Narrow<T>((ulong)Width.WidenSigned(value)));
        return i + 1;
    }

    /// <summary>LEA: the offset alone, in the operand's size.</summary>
    public static Insn* Lea<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, Width.Narrow<T>(Operand.EffectiveAddress(s, i)));
        return i + 1;
    }

    /// <summary>XCHG r, r.</summary>
    public static Insn* ExchangeReg<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        T a = Register.Read<T>(s, i->Operand0);
        T b = Register.Read<T>(s, i->Operand1);
        Register.Write(s, i->Operand0, b);
        Register.Write(s, i->Operand1, a);
        return i + 1;
    }

    /// <summary>XCHG m, r.</summary>
    public static Insn* ExchangeMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T value, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, Register.Read<T>(s, i->Operand1));
        Register.Write(s, i->Operand1, value);
        return i + 1;
    }

    /// <summary>XADD r, r. The sum wins where both are the same register.</summary>
    public static Insn* ExchangeAddReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        T a = Register.Read<T>(s, i->Operand0);
        T sum = Binary.Apply<Add, T>(s, a, Register.Read<T>(s, i->Operand1));
        Register.Write(s, i->Operand1, a);
        Register.Write(s, i->Operand0, sum);
        return i + 1;
    }

    /// <summary>XADD m, r.</summary>
    public static Insn* ExchangeAddMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
            return null;
        Operand.EndModify(s, i, cell, Binary.Apply<Add, T>(s, a, Register.Read<T>(s, i->Operand1)));
        Register.Write(s, i->Operand1, a);
        return i + 1;
    }

    /// <summary>CMPXCHG r, r.</summary>
    public static Insn* CompareExchangeReg<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        T old = Register.Read<T>(s, i->Operand0);
        T accumulator = Register.Read<T>(s, Rax);
        Binary.Apply<Sub, T>(s, accumulator, old);
        if (accumulator == old)
            Register.Write(s, i->Operand0, Register.Read<T>(s, i->Operand1));
        else
            Register.Write(s, Rax, old);
        return i + 1;
    }

    /// <summary>CMPXCHG m, r. Memory is written either way: with its own value where the comparison fails.</summary>
    public static Insn* CompareExchangeMem<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.BeginModify<T, M>(s, i, out T old, out Cell cell))
            return null;
        T accumulator = Register.Read<T>(s, Rax);
        Binary.Apply<Sub, T>(s, accumulator, old);
        if (accumulator == old)
        {
            Operand.EndModify(s, i, cell, Register.Read<T>(s, i->Operand1));
        }
        else
        {
            Operand.EndModify(s, i, cell, old);
            Register.Write(s, Rax, old);
        }
        return i + 1;
    }

    /// <summary>CMPXCHG8B.</summary>
    public static Insn* CompareExchange8<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.BeginModify<ulong, M>(s, i, out ulong old, out Cell cell))
            return null;
        ulong expected = (s->Gpr[Gpr.Rdx] << 32) | (uint)s->Gpr[Gpr.Rax];
        bool equal = expected == old;
        Operand.EndModify(s, i, cell, equal ? (s->Gpr[Gpr.Rcx] << 32) | (uint)s->Gpr[Gpr.Rbx] : old);
        if (!equal)
        {
            Register.Write(s, Rax, (uint)old);
            Register.Write(s, Rdx, (uint)(old >> 32));
        }
        Flags.SetZero(s, equal);
        return i + 1;
    }

    /// <summary>CMPXCHG16B: #GP(0) where the operand is not aligned to 16 bytes.</summary>
    public static Insn* CompareExchange16<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.Linear<M>(s, i, i->Segment, Operand.EffectiveAddress(s, i), 16, write: true, out ulong linear))
            return null;
        if ((linear & 15) != 0)
            return Execution.Fault.Raise(s, i, Vector.Gp, 0);
        if (!Operand.BeginModify<Pair, M>(s, i, out Pair old, out Cell cell))
            return null;
        bool equal = old.Low == s->Gpr[Gpr.Rax] && old.High == s->Gpr[Gpr.Rdx];
        Operand.EndModify(s, i, cell, equal ? new Pair { Low = s->Gpr[Gpr.Rbx], High = s->Gpr[Gpr.Rcx] } : old);
        if (!equal)
        {
            s->Gpr[Gpr.Rax] = old.Low;
            s->Gpr[Gpr.Rdx] = old.High;
        }
        Flags.SetZero(s, equal);
        return i + 1;
    }

    /// <summary>BSWAP. On 16 bits (undefined in the manual) processors give zero.</summary>
    public static Insn* ByteSwap<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, sizeof(T) == 2 ? default : Reverse(Register.Read<T>(s, i->Operand0)));
        return i + 1;
    }

    /// <summary>MOVBE r, m.</summary>
    public static Insn* BigEndianRegMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        Register.Write(s, i->Operand0, Reverse(value));
        return i + 1;
    }

    /// <summary>MOVBE m, r.</summary>
    public static Insn* BigEndianMemReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Operand.Write<T, M>(s, i, Reverse(Register.Read<T>(s, i->Operand1))) ? i + 1 : null;

    /// <summary>CBW, CWDE, CDQE: the lower half of the accumulator sign-extended to all of it.</summary>
    public static Insn* Extend<T, F>(CpuState* s, Insn* i) where T : unmanaged where F : unmanaged, IBinaryInteger<F>
    {
        Register.Write(s, Rax, Width.Narrow<T>((ulong)Width.WidenSigned(Register.Read<F>(s, Rax))));
        return i + 1;
    }

    /// <summary>CWD, CDQ, CQO: the accumulator's sign into all of the D register.</summary>
    public static Insn* ExtendIntoD<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Register.Write(s, Rdx, Width.Narrow<T>((ulong)(Width.WidenSigned(Register.Read<T>(s, Rax)) >> 63)));
        return i + 1;
    }

    /// <summary>XLAT: AL from the table at (E/R)BX.</summary>
    public static Insn* Translate<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        ulong offset = (s->Gpr[Gpr.Rbx] + (byte)s->Gpr[Gpr.Rax]) & i->AddressMask;
        if (!Operand.ReadAt<byte, M>(s, i, i->Segment, offset, out byte value))
            return null;
        Register.Write(s, Rax, value);
        return i + 1;
    }

    /// <summary>NOP, hints, fences: vCPUs of one machine share a thread, so that order is total already.</summary>
    public static Insn* Nothing(CpuState* s, Insn* i) => i + 1;

    /// <summary>CLFLUSH: caches hold nothing here, but the address is checked as for a read of a byte.</summary>
    public static Insn* Touch<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Read<byte, M>(s, i, out _) ? i + 1 : null;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Reverse<T>(T value) where T : unmanaged
    {
        if (sizeof(T) == 2)
            return Width.Narrow<T>(BinaryPrimitives.ReverseEndianness((ushort)Width.Widen(value)));
        if (sizeof(T) == 4)
            return Width.Narrow<T>(BinaryPrimitives.ReverseEndianness((uint)Width.Widen(value)));
        return Width.Narrow<T>(BinaryPrimitives.ReverseEndianness(Width.Widen(value)));
    }

    private struct Pair
    {
        public ulong Low, High;
    }
}
