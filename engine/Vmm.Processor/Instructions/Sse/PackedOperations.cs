using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

// One line per operation of the manual, volume 2. Element types are type parameters where only they differ.

internal readonly struct AddOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => (a.As<byte, T>() + b.As<byte, T>()).AsByte(); }
internal readonly struct SubOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => (a.As<byte, T>() - b.As<byte, T>()).AsByte(); }
internal readonly struct AddSaturateOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.AddSaturate(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct SubSaturateOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.SubtractSaturate(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct EqualOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.Equals(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct GreaterOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.GreaterThan(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct MinOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.Min(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct MaxOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.Max(a.As<byte, T>(), b.As<byte, T>()).AsByte(); }
internal readonly struct MulLowOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => (a.As<byte, T>() * b.As<byte, T>()).AsByte(); }
internal readonly struct AbsOp<T> : IPackedOp where T : unmanaged { public static V Apply(V a, V b) => Vector128.Abs(b.As<byte, T>()).AsByte(); }

internal readonly struct AndOp : IPackedOp { public static V Apply(V a, V b) => a & b; }
internal readonly struct AndNotOp : IPackedOp { public static V Apply(V a, V b) => ~a & b; }
internal readonly struct OrOp : IPackedOp { public static V Apply(V a, V b) => a | b; }
internal readonly struct XorOp : IPackedOp { public static V Apply(V a, V b) => a ^ b; }

/// <summary>Average rounded up, without a wider intermediate: a|b minus half of a^b.</summary>
internal readonly struct AverageOp<T> : IPackedOp where T : unmanaged
{
    public static V Apply(V a, V b) => ((a | b).As<byte, T>() - Halves(a ^ b)).AsByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<T> Halves(V v) => typeof(T) == typeof(byte)
        ? Vector128.ShiftRightLogical(v, 1).As<byte, T>()
        : Vector128.ShiftRightLogical(v.AsUInt16(), 1).As<ushort, T>();
}

internal readonly struct SignOp<T> : IPackedOp where T : unmanaged
{
    public static V Apply(V a, V b)
    {
        Vector128<T> x = a.As<byte, T>(), y = b.As<byte, T>();
        Vector128<T> signed = Vector128.ConditionalSelect(Vector128.LessThan(y, Vector128<T>.Zero), -x, x);
        return Vector128.AndNot(signed, Vector128.Equals(y, Vector128<T>.Zero)).AsByte();
    }
}

internal readonly struct MulHighOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.MultiplyHigh(a.AsInt16(), b.AsInt16()).AsByte();
        (Vector128<int> al, Vector128<int> ah) = Vector128.Widen(a.AsInt16());
        (Vector128<int> bl, Vector128<int> bh) = Vector128.Widen(b.AsInt16());
        return Vector128.Narrow((al * bl) >> 16, (ah * bh) >> 16).AsByte();
    }
}

internal readonly struct MulHighUnsignedOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.MultiplyHigh(a.AsUInt16(), b.AsUInt16()).AsByte();
        (Vector128<uint> al, Vector128<uint> ah) = Vector128.Widen(a.AsUInt16());
        (Vector128<uint> bl, Vector128<uint> bh) = Vector128.Widen(b.AsUInt16());
        return Vector128.Narrow((al * bl) >> 16, (ah * bh) >> 16).AsByte();
    }
}

internal readonly struct MulHighRoundOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        (Vector128<int> al, Vector128<int> ah) = Vector128.Widen(a.AsInt16());
        (Vector128<int> bl, Vector128<int> bh) = Vector128.Widen(b.AsInt16());
        Vector128<int> one = Vector128<int>.One;
        return Vector128.Narrow((((al * bl) >> 14) + one) >> 1, (((ah * bh) >> 14) + one) >> 1).AsByte();
    }
}

internal readonly struct MulAddOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.MultiplyAddAdjacent(a.AsInt16(), b.AsInt16()).AsByte();
        Vector128<int> x = a.AsInt32(), y = b.AsInt32();
        return (((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16)).AsByte();
    }
}

internal readonly struct MulAddUnsignedOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Ssse3.IsSupported)
            return Ssse3.MultiplyAddAdjacent(a, b.AsSByte()).AsByte();
        Vector128<short> x = a.AsInt16(), y = b.AsInt16();
        Vector128<short> xLow = x & Vector128.Create((short)0xFF), xHigh = Vector128.ShiftRightLogical(x, 8);
        Vector128<short> yLow = (y << 8) >> 8, yHigh = y >> 8;
        return Vector128.AddSaturate(xLow * yLow, xHigh * yHigh).AsByte();
    }
}

internal readonly struct MulUnsignedWideOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.Multiply(a.AsUInt32(), b.AsUInt32()).AsByte();
        Vector128<ulong> x = a.AsUInt64(), y = b.AsUInt64();
        return Vector128.Create((ulong)(uint)x[0] * (uint)y[0], (ulong)(uint)x[1] * (uint)y[1]).AsByte();
    }
}

internal readonly struct MulWideOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        Vector128<int> x = a.AsInt32(), y = b.AsInt32();
        return Vector128.Create((long)x[0] * y[0], (long)x[2] * y[2]).AsByte();
    }
}

internal readonly struct SadOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.SumAbsoluteDifferences(a, b).AsByte();
        V difference = Vector128.Max(a, b) - Vector128.Min(a, b);
        (Vector128<ushort> low, Vector128<ushort> high) = Vector128.Widen(difference);
        return Vector128.Create((ulong)Vector128.Sum(low), Vector128.Sum(high)).AsByte();
    }
}

internal readonly struct PackSignedWordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.NarrowWithSaturation(a.AsInt16(), b.AsInt16()).AsByte(); }
internal readonly struct PackSignedDwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.NarrowWithSaturation(a.AsInt32(), b.AsInt32()).AsByte(); }

internal readonly struct PackUnsignedWordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse2.IsSupported
        ? Sse2.PackUnsignedSaturate(a.AsInt16(), b.AsInt16())
        : Vector128.NarrowWithSaturation(Vector128.Max(a.AsInt16(), default).AsUInt16(), Vector128.Max(b.AsInt16(), default).AsUInt16());
}

internal readonly struct PackUnsignedDwordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse41.IsSupported
        ? Sse41.PackUnsignedSaturate(a.AsInt32(), b.AsInt32()).AsByte()
        : Vector128.NarrowWithSaturation(Vector128.Max(a.AsInt32(), default).AsUInt32(), Vector128.Max(b.AsInt32(), default).AsUInt32()).AsByte();
}

internal readonly struct UnpackLowByteOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.UnpackLow(a, b);
        if (AdvSimd.Arm64.IsSupported)
            return AdvSimd.Arm64.ZipLow(a, b);
        return (Vector128.WidenLower(a) | (Vector128.WidenLower(b) << 8)).AsByte();
    }
}

internal readonly struct UnpackHighByteOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        if (Sse2.IsSupported)
            return Sse2.UnpackHigh(a, b);
        if (AdvSimd.Arm64.IsSupported)
            return AdvSimd.Arm64.ZipHigh(a, b);
        return (Vector128.WidenUpper(a) | (Vector128.WidenUpper(b) << 8)).AsByte();
    }
}

internal readonly struct UnpackLowWordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse2.IsSupported
        ? Sse2.UnpackLow(a.AsUInt16(), b.AsUInt16()).AsByte()
        : (Vector128.WidenLower(a.AsUInt16()) | (Vector128.WidenLower(b.AsUInt16()) << 16)).AsByte();
}

internal readonly struct UnpackHighWordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse2.IsSupported
        ? Sse2.UnpackHigh(a.AsUInt16(), b.AsUInt16()).AsByte()
        : (Vector128.WidenUpper(a.AsUInt16()) | (Vector128.WidenUpper(b.AsUInt16()) << 16)).AsByte();
}

internal readonly struct UnpackLowDwordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse2.IsSupported
        ? Sse2.UnpackLow(a.AsUInt32(), b.AsUInt32()).AsByte()
        : (Vector128.WidenLower(a.AsUInt32()) | (Vector128.WidenLower(b.AsUInt32()) << 32)).AsByte();
}

internal readonly struct UnpackHighDwordOp : IPackedOp
{
    public static V Apply(V a, V b) => Sse2.IsSupported
        ? Sse2.UnpackHigh(a.AsUInt32(), b.AsUInt32()).AsByte()
        : (Vector128.WidenUpper(a.AsUInt32()) | (Vector128.WidenUpper(b.AsUInt32()) << 32)).AsByte();
}

internal readonly struct UnpackLowQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.Create(a.GetLower(), b.GetLower()); }
internal readonly struct UnpackHighQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.Create(a.GetUpper(), b.GetUpper()); }

/// <summary>PSHUFB: a selector with its top bit set gives zero.</summary>
internal readonly struct ShuffleBytesOp : IPackedOp { public static V Apply(V a, V b) => Vector128.Shuffle(a, b & Vector128.Create((byte)0x8F)); }

internal readonly struct HorizontalAddWordOp : IPackedOp { public static V Apply(V a, V b) => (Pairs.EvenWords(a, b) + Pairs.OddWords(a, b)).AsByte(); }
internal readonly struct HorizontalSubWordOp : IPackedOp { public static V Apply(V a, V b) => (Pairs.EvenWords(a, b) - Pairs.OddWords(a, b)).AsByte(); }
internal readonly struct HorizontalAddSaturateOp : IPackedOp { public static V Apply(V a, V b) => Vector128.AddSaturate(Pairs.EvenWords(a, b), Pairs.OddWords(a, b)).AsByte(); }
internal readonly struct HorizontalSubSaturateOp : IPackedOp { public static V Apply(V a, V b) => Vector128.SubtractSaturate(Pairs.EvenWords(a, b), Pairs.OddWords(a, b)).AsByte(); }
internal readonly struct HorizontalAddDwordOp : IPackedOp { public static V Apply(V a, V b) => (Pairs.EvenDwords(a, b) + Pairs.OddDwords(a, b)).AsByte(); }
internal readonly struct HorizontalSubDwordOp : IPackedOp { public static V Apply(V a, V b) => (Pairs.EvenDwords(a, b) - Pairs.OddDwords(a, b)).AsByte(); }

/// <summary>The even and the odd elements of two registers, in order.</summary>
internal static class Pairs
{
    public static Vector128<short> EvenWords(V a, V b) => Vector128.Narrow(a.AsInt32(), b.AsInt32());
    public static Vector128<short> OddWords(V a, V b) => Vector128.Narrow(a.AsInt32() >> 16, b.AsInt32() >> 16);
    public static Vector128<int> EvenDwords(V a, V b) => Vector128.Narrow(a.AsInt64(), b.AsInt64());
    public static Vector128<int> OddDwords(V a, V b) => Vector128.Narrow(a.AsInt64() >> 32, b.AsInt64() >> 32);
}

internal readonly struct ExtendByteWordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b.AsSByte()).AsByte(); }
internal readonly struct ExtendByteDwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(b.AsSByte())).AsByte(); }
internal readonly struct ExtendByteQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(Vector128.WidenLower(b.AsSByte()))).AsByte(); }
internal readonly struct ExtendWordDwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b.AsInt16()).AsByte(); }
internal readonly struct ExtendWordQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(b.AsInt16())).AsByte(); }
internal readonly struct ExtendDwordQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b.AsInt32()).AsByte(); }
internal readonly struct ZeroByteWordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b).AsByte(); }
internal readonly struct ZeroByteDwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(b)).AsByte(); }
internal readonly struct ZeroByteQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(Vector128.WidenLower(b))).AsByte(); }
internal readonly struct ZeroWordDwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b.AsUInt16()).AsByte(); }
internal readonly struct ZeroWordQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(Vector128.WidenLower(b.AsUInt16())).AsByte(); }
internal readonly struct ZeroDwordQwordOp : IPackedOp { public static V Apply(V a, V b) => Vector128.WidenLower(b.AsUInt32()).AsByte(); }

internal readonly struct MinPositionOp : IPackedOp
{
    public static V Apply(V a, V b)
    {
        Vector128<ushort> words = b.AsUInt16();
        int position = 0;
        for (int n = 1; n < 8; n++)
        {
            if (words[n] < words[position])
                position = n;
        }
        return Vector128.CreateScalar(words[position] | (uint)position << 16).AsByte();
    }
}

internal readonly struct ShiftLeftOp<T> : IShiftOp where T : unmanaged, IBinaryInteger<T>
{
    public static V Apply(V a, ulong count) => count < (ulong)(Unsafe.SizeOf<T>() * 8) ? (a.As<byte, T>() << (int)count).AsByte() : default;
}

internal readonly struct ShiftRightOp<T> : IShiftOp where T : unmanaged, IBinaryInteger<T>
{
    public static V Apply(V a, ulong count) => count < (ulong)(Unsafe.SizeOf<T>() * 8) ? (a.As<byte, T>() >>> (int)count).AsByte() : default;
}

internal readonly struct ShiftArithmeticOp<T> : IShiftOp where T : unmanaged, IBinaryInteger<T>
{
    public static V Apply(V a, ulong count) => (a.As<byte, T>() >> (int)Math.Min(count, (ulong)(Unsafe.SizeOf<T>() * 8 - 1))).AsByte();
}

internal readonly struct ShiftLeftBytesOp : IShiftOp
{
    public static V Apply(V a, ulong count) => count < 16 ? (Bits128.From(a) << (int)(count * 8)).ToVector() : default;
}

internal readonly struct ShiftRightBytesOp : IShiftOp
{
    public static V Apply(V a, ulong count) => count < 16 ? (Bits128.From(a) >> (int)(count * 8)).ToVector() : default;
}

/// <summary>An XMM register as one 128-bit number.</summary>
internal static class Bits128
{
    public static UInt128 From(V v) => new(v.AsUInt64()[1], v.AsUInt64()[0]);

    public static V ToVector(this UInt128 value) => Vector128.Create((ulong)value, (ulong)(value >> 64)).AsByte();
}
