using System.Numerics;
using Iced.Intel;
using Vmm.Processor.Memory;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (SDM volume 2, section 4.1). Their memory operands need no alignment.</summary>
internal static unsafe class StringCompare
{
    /// <summary>How a string operand is measured and what becomes of the result.</summary>
    public interface IForm
    {
        /// <summary>Lengths in EAX and EDX, or up to a null element.</summary>
        static abstract bool Explicit { get; }
        /// <summary>Lengths in RAX and RDX.</summary>
        static abstract bool Wide { get; }
        /// <summary>An index in ECX, or a mask in XMM0.</summary>
        static abstract bool Index { get; }
    }

    public readonly struct EstrI : IForm { public static bool Explicit => true; public static bool Wide => false; public static bool Index => true; }
    public readonly struct EstrI64 : IForm { public static bool Explicit => true; public static bool Wide => true; public static bool Index => true; }
    public readonly struct EstrM : IForm { public static bool Explicit => true; public static bool Wide => false; public static bool Index => false; }
    public readonly struct EstrM64 : IForm { public static bool Explicit => true; public static bool Wide => true; public static bool Index => false; }
    public readonly struct IstrI : IForm { public static bool Explicit => false; public static bool Wide => false; public static bool Index => true; }
    public readonly struct IstrM : IForm { public static bool Explicit => false; public static bool Wide => false; public static bool Index => false; }

    public static Insn* Register<F>(CpuState* s, Insn* i) where F : struct, IForm
    {
        Compare<F>(s, *Xmm.At(s, i->Operand0), *Xmm.At(s, i->Operand1), (byte)i->Immediate);
        return i + 1;
    }

    public static Insn* Memory<F, M>(CpuState* s, Insn* i) where F : struct, IForm where M : struct, IAddressing
    {
        if (!Operand.Read<V, M>(s, i, out V b))
            return null;
        Compare<F>(s, *Xmm.At(s, i->Operand0), b, (byte)i->Immediate);
        return i + 1;
    }

    private static void Compare<F>(CpuState* s, V a, V b, byte control) where F : struct, IForm
    {
        bool words = (control & 1) != 0;
        int count = words ? 8 : 16;
        Span<int> x = stackalloc int[16], y = stackalloc int[16];
        Spread(a, control, x);
        Spread(b, control, y);
        int lengthX, lengthY;
        if (F.Explicit)
        {
            lengthX = Length(F.Wide ? (long)s->Gpr[Gpr.Rax] : (int)s->Gpr[Gpr.Rax], count);
            lengthY = Length(F.Wide ? (long)s->Gpr[Gpr.Rdx] : (int)s->Gpr[Gpr.Rdx], count);
        }
        else
        {
            lengthX = ImplicitLength(x, count);
            lengthY = ImplicitLength(y, count);
        }
        uint result = Aggregate(x[..lengthX], y[..lengthY], count, (control >> 2) & 3);
        uint all = (1u << count) - 1;
        result = ((control >> 4) & 3) switch
        {
            1 => result ^ all,
            3 => result ^ ((1u << lengthY) - 1),
            _ => result,
        };
        if (F.Index)
        {
            int index = result == 0 ? count : (control & 0x40) != 0 ? BitOperations.Log2(result) : BitOperations.TrailingZeroCount(result);
            s->Gpr[Gpr.Rcx] = (ulong)index;
        }
        else
        {
            *(V*)s->Xmm = (control & 0x40) == 0 ? Vector128.CreateScalar(result).AsByte() : Expand(result, words);
        }
        Flags.Write(s, (result != 0 ? Rflags.Cf : 0) | (lengthY < count ? Rflags.Zf : 0) | (lengthX < count ? Rflags.Sf : 0)
            | ((result & 1) != 0 ? Rflags.Of : 0));
    }

    /// <summary>IntRes1: bit j tells about element j of the second string (SDM volume 2, table 4-5 for what lies beyond the ends).</summary>
    private static uint Aggregate(ReadOnlySpan<int> x, ReadOnlySpan<int> y, int count, int aggregation)
    {
        uint result = 0;
        for (int j = 0; j < count; j++)
        {
            bool hit = aggregation switch
            {
                0 => j < y.Length && x.Contains(y[j]),
                1 => j < y.Length && InRanges(x, y[j]),
                2 => j < x.Length && j < y.Length ? x[j] == y[j] : j >= x.Length && j >= y.Length,
                _ => Found(x, y, j, count),
            };
            if (hit)
                result |= 1u << j;
        }
        return result;
    }

    private static bool InRanges(ReadOnlySpan<int> ranges, int value)
    {
        for (int n = 0; n + 1 < ranges.Length; n += 2)
        {
            if (value >= ranges[n] && value <= ranges[n + 1])
                return true;
        }
        return false;
    }

    private static bool Found(ReadOnlySpan<int> x, ReadOnlySpan<int> y, int at, int count)
    {
        for (int n = 0; n < x.Length && at + n < count; n++)
        {
            if (at + n >= y.Length || x[n] != y[at + n])
                return false;
        }
        return true;
    }

    private static void Spread(V v, byte control, Span<int> elements)
    {
        bool signed = (control & 2) != 0;
        if ((control & 1) != 0)
        {
            for (int n = 0; n < 8; n++)
                elements[n] = signed ? v.AsInt16()[n] : v.AsUInt16()[n];
        }
        else
        {
            for (int n = 0; n < 16; n++)
                elements[n] = signed ? v.AsSByte()[n] : v[n];
        }
    }

    private static int Length(long value, int count) =>
        value >= count || value <= -count ? count : (int)Math.Abs(value);

    private static int ImplicitLength(ReadOnlySpan<int> elements, int count)
    {
        int end = elements[..count].IndexOf(0);
        return end < 0 ? count : end;
    }

    private static V Expand(uint mask, bool words)
    {
        Span<byte> bytes = stackalloc byte[16];
        for (int n = 0; n < 16; n++)
            bytes[n] = (mask >> (words ? n / 2 : n) & 1) != 0 ? (byte)0xFF : (byte)0;
        return Vector128.Create<byte>(bytes);
    }
}

internal static unsafe class StringTable
{
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        Add<StringCompare.EstrI, M>(t, Code.Pcmpestri_xmm_xmmm128_imm8);
        Add<StringCompare.EstrI64, M>(t, Code.Pcmpestri64_xmm_xmmm128_imm8);
        Add<StringCompare.EstrM, M>(t, Code.Pcmpestrm_xmm_xmmm128_imm8);
        Add<StringCompare.EstrM64, M>(t, Code.Pcmpestrm64_xmm_xmmm128_imm8);
        Add<StringCompare.IstrI, M>(t, Code.Pcmpistri_xmm_xmmm128_imm8);
        Add<StringCompare.IstrM, M>(t, Code.Pcmpistrm_xmm_xmmm128_imm8);
    }

    private static void Add<F, M>(HandlerTable t, Code code) where F : struct, StringCompare.IForm where M : struct, IAddressing =>
        t.Add(code, &StringCompare.Register<F>, &StringCompare.Memory<F, M>);
}
