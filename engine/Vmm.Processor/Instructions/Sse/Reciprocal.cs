using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>An approximation of one element.</summary>
internal interface IApproximation
{
    static abstract uint Apply(uint bits);
}

/// <summary>RCPSS and RSQRTSS: within 1.5 * 2^-12 of the truth, raising nothing, and the same bits on every host.</summary>
internal static class Approximation
{
    // 12 fraction bits, rounded: a relative error of at most 2^-13.
    public static uint Shorten(double value) =>
        (BitConverter.SingleToUInt32Bits((float)value) + 0x400) & ~0x7FFu;

    public static bool IsNan(uint bits) => (bits & 0x7FFF_FFFF) > 0x7F80_0000;

    /// <summary>Zero, or a denormal that counts as zero.</summary>
    public static bool IsTiny(uint bits) => (bits & 0x7F80_0000) == 0;
}

internal readonly struct ReciprocalOp : IApproximation
{
    public static uint Apply(uint bits)
    {
        uint sign = bits & 0x8000_0000;
        if (Approximation.IsNan(bits))
            return bits | 0x0040_0000;
        if (Approximation.IsTiny(bits))
            return sign | 0x7F80_0000;
        // Beyond 2^126 the result would be denormal: it is zero instead.
        if ((bits & 0x7FFF_FFFF) > 0x7E80_0000)
            return sign;
        return Approximation.Shorten(1.0 / BitConverter.UInt32BitsToSingle(bits));
    }
}

internal readonly struct ReciprocalRootOp : IApproximation
{
    public static uint Apply(uint bits)
    {
        uint sign = bits & 0x8000_0000;
        if (Approximation.IsNan(bits))
            return bits | 0x0040_0000;
        if (Approximation.IsTiny(bits))
            return sign | 0x7F80_0000;
        if (sign != 0)
            return 0xFFC0_0000;
        if (bits == 0x7F80_0000)
            return 0;
        return Approximation.Shorten(1.0 / Math.Sqrt(BitConverter.UInt32BitsToSingle(bits)));
    }
}

internal static unsafe class Reciprocal
{
    public static Insn* Scalar<TOp>(CpuState* s, Insn* i) where TOp : struct, IApproximation
    {
        *(uint*)Xmm.At(s, i->Operand0) = TOp.Apply(*(uint*)Xmm.At(s, i->Operand1));
        return i + 1;
    }

    public static Insn* ScalarMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IApproximation where M : struct, IAddressing
    {
        if (!Operand.Read<uint, M>(s, i, out uint value))
            return null;
        *(uint*)Xmm.At(s, i->Operand0) = TOp.Apply(value);
        return i + 1;
    }

    public static Insn* Packed<TOp>(CpuState* s, Insn* i) where TOp : struct, IApproximation => Packed<TOp>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* PackedMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IApproximation where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> value) ? Packed<TOp>(s, i, value) : null;

    private static Insn* Packed<TOp>(CpuState* s, Insn* i, Vector128<byte> value) where TOp : struct, IApproximation
    {
        Vector128<uint> v = value.AsUInt32();
        *Xmm.At(s, i->Operand0) = Vector128.Create(TOp.Apply(v[0]), TOp.Apply(v[1]), TOp.Apply(v[2]), TOp.Apply(v[3])).AsByte();
        return i + 1;
    }
}
