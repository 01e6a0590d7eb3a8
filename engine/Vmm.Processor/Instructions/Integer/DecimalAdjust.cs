using System.Numerics;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vector = Vmm.Processor.State.Vector;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Decimal adjustment and BOUND: instructions that 64-bit mode does not have.</summary>
public static unsafe class DecimalAdjust
{
    private const ushort Al = Gpr.Rax * 8, Ax = Al;

    /// <summary>DAA.</summary>
    public static Insn* Daa(CpuState* s, Insn* i) => Packed(s, i, subtract: false);

    /// <summary>DAS.</summary>
    public static Insn* Das(CpuState* s, Insn* i) => Packed(s, i, subtract: true);

    /// <summary>AAA.</summary>
    public static Insn* Aaa(CpuState* s, Insn* i) => Unpacked(s, i, 0x106);

    /// <summary>AAS.</summary>
    public static Insn* Aas(CpuState* s, Insn* i) => Unpacked(s, i, -0x106);

    /// <summary>AAM: #DE for a base of zero.</summary>
    public static Insn* Aam(CpuState* s, Insn* i)
    {
        byte number = (byte)i->Immediate;
        if (number == 0)
            return Fault.Raise(s, i, Vector.De);
        byte al = Register.Read<byte>(s, Al);
        byte low = (byte)(al % number);
        Register.Write(s, Ax, (ushort)((al / number << 8) | low));
        Flags.SetLogic(s, low, 8);
        return i + 1;
    }

    /// <summary>AAD.</summary>
    public static Insn* Aad(CpuState* s, Insn* i)
    {
        ushort ax = Register.Read<ushort>(s, Ax);
        byte low = (byte)(ax + (ax >> 8) * (byte)i->Immediate);
        Register.Write(s, Ax, (ushort)low);
        Flags.SetLogic(s, low, 8);
        return i + 1;
    }

    /// <summary>BOUND: #BR where the signed index is outside the two bounds in memory.</summary>
    public static Insn* Bound<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong offset = Operand.EffectiveAddress(s, i);
        if (!Operand.ReadAt<T, Legacy>(s, i, i->Segment, offset, out T lower))
            return null;
        long index = Width.WidenSigned(Register.Read<T>(s, i->Operand0));
        if (index < Width.WidenSigned(lower))
            return Fault.Raise(s, i, Vector.Br);
        if (!Operand.ReadAt<T, Legacy>(s, i, i->Segment, (offset + (uint)sizeof(T)) & i->AddressMask, out T upper))
            return null;
        return index > Width.WidenSigned(upper) ? Fault.Raise(s, i, Vector.Br) : i + 1;
    }

    private static Insn* Packed(CpuState* s, Insn* i, bool subtract)
    {
        byte old = Register.Read<byte>(s, Al);
        bool oldCarry = Flags.Carry(s);
        bool low = (old & 15) > 9 || Flags.Adjust(s);
        bool high = old > 0x99 || oldCarry;
        int sign = subtract ? -1 : 1;
        int al = old;
        bool carry = high;
        if (low)
        {
            al += sign * 6;
            // The manual's order: the borrow or carry of the low digit counts even where the high digit is not adjusted.
            carry |= al is < 0 or > 0xFF;
        }
        if (high)
            al += sign * 0x60;
        byte result = (byte)al;
        Register.Write(s, Al, result);
        Flags.SetLogic(s, result, 8);
        Flags.Write(s, (Flags.Read(s) & (Rflags.Pf | Rflags.Zf | Rflags.Sf)) | (carry ? Rflags.Cf : 0) | (low ? Rflags.Af : 0));
        return i + 1;
    }

    private static Insn* Unpacked(CpuState* s, Insn* i, int adjustment)
    {
        ushort ax = Register.Read<ushort>(s, Ax);
        bool adjust = (ax & 15) > 9 || Flags.Adjust(s);
        if (adjust)
            ax = (ushort)(ax + adjustment);
        Register.Write(s, Ax, (ushort)(ax & 0xFF0F));
        Flags.SetLogic(s, ax & 15U, 8);
        Flags.Write(s, (Flags.Read(s) & (Rflags.Pf | Rflags.Zf | Rflags.Sf)) | (adjust ? Rflags.Cf | Rflags.Af : 0));
        return i + 1;
    }
}
