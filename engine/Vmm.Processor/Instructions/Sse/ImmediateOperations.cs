using System.Runtime.Intrinsics.X86;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

internal readonly struct ShuffleDwordsOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) =>
        Vector128.Shuffle(b.AsUInt32(), Selectors.Dwords(immediate)).AsByte();
}

internal readonly struct ShuffleLowWordsOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) => b.AsUInt64().WithElement(0, Selectors.Words(b.AsUInt64()[0], immediate)).AsByte();
}

internal readonly struct ShuffleHighWordsOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) => b.AsUInt64().WithElement(1, Selectors.Words(b.AsUInt64()[1], immediate)).AsByte();
}

internal readonly struct ShuffleSinglesOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        Vector128<uint> selectors = Selectors.Dwords(immediate);
        Vector128<uint> low = Vector128.Shuffle(a.AsUInt32(), selectors), high = Vector128.Shuffle(b.AsUInt32(), selectors);
        return Vector128.Create(low.GetLower(), high.GetUpper()).AsByte();
    }
}

internal readonly struct ShuffleDoublesOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) =>
        Vector128.Create((immediate & 1) == 0 ? a.GetLower() : a.GetUpper(), (immediate & 2) == 0 ? b.GetLower() : b.GetUpper());
}

/// <summary>The two-bit selectors of an immediate.</summary>
internal static class Selectors
{
    /// <summary>Four element numbers.</summary>
    public static Vector128<uint> Dwords(byte immediate) =>
        Vector128.Create(immediate & 3u, (uint)(immediate >> 2) & 3, (uint)(immediate >> 4) & 3, (uint)immediate >> 6);

    /// <summary>Four words picked from four.</summary>
    public static ulong Words(ulong v, byte immediate) =>
        (ulong)(ushort)(v >> (immediate & 3) * 16)
        | (ulong)(ushort)(v >> ((immediate >> 2) & 3) * 16) << 16
        | (ulong)(ushort)(v >> ((immediate >> 4) & 3) * 16) << 32
        | (v >> (immediate >> 6) * 16) << 48;
}

internal readonly struct AlignRightOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        if (immediate == 0)
            return b;
        if (immediate < 16)
            return ((Bits128.From(b) >> immediate * 8) | (Bits128.From(a) << (128 - immediate * 8))).ToVector();
        return immediate < 32 ? (Bits128.From(a) >> (immediate - 16) * 8).ToVector() : default;
    }
}

internal readonly struct BlendSinglesOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        Vector128<uint> bits = Vector128.Create(1u, 2u, 4u, 8u);
        Vector128<uint> taken = Vector128.Equals(Vector128.Create((uint)immediate) & bits, bits);
        return Vector128.ConditionalSelect(taken.AsByte(), b, a);
    }
}

internal readonly struct BlendDoublesOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) =>
        Vector128.Create((immediate & 1) != 0 ? b.GetLower() : a.GetLower(), (immediate & 2) != 0 ? b.GetUpper() : a.GetUpper());
}

internal readonly struct BlendWordsOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        Vector128<ushort> bits = Vector128.Create((ushort)1, 2, 4, 8, 16, 32, 64, 128);
        Vector128<ushort> taken = Vector128.Equals(Vector128.Create((ushort)immediate) & bits, bits);
        return Vector128.ConditionalSelect(taken.AsByte(), b, a);
    }
}

internal readonly struct MultipleSadOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        int window = (immediate & 4), block = (immediate & 3) * 4;
        Span<ushort> sums = stackalloc ushort[8];
        for (int n = 0; n < 8; n++)
        {
            int sum = 0;
            for (int k = 0; k < 4; k++)
                sum += Math.Abs(a[window + n + k] - b[block + k]);
            sums[n] = (ushort)sum;
        }
        return Vector128.Create<ushort>(sums).AsByte();
    }
}

/// <summary>INSERTPS: bits 7:6 pick the source element (already picked for a memory operand), 5:4 the destination, 3:0 zero elements.</summary>
internal readonly struct InsertSingleOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) => Insert(a, b.AsUInt32()[immediate >> 6], immediate);

    public static V Insert(V a, uint element, byte immediate)
    {
        Vector128<uint> result = a.AsUInt32().WithElement((immediate >> 4) & 3, element);
        Vector128<uint> bits = Vector128.Create(1u, 2u, 4u, 8u);
        return Vector128.AndNot(result, Vector128.Equals(Vector128.Create((uint)immediate) & bits, bits)).AsByte();
    }
}

internal readonly struct InsertSingleMemoryOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate) => InsertSingleOp.Insert(a, b.AsUInt32()[0], immediate);
}

internal readonly struct CarrylessMultiplyOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        ulong x = a.AsUInt64()[immediate & 1], y = b.AsUInt64()[(immediate >> 4) & 1];
        if (Pclmulqdq.IsSupported)
            return Pclmulqdq.CarrylessMultiply(Vector128.CreateScalar(x), Vector128.CreateScalar(y), 0).AsByte();
        UInt128 product = 0, addend = x;
        for (; y != 0; y >>= 1, addend <<= 1)
        {
            if ((y & 1) != 0)
                product ^= addend;
        }
        return product.ToVector();
    }
}
