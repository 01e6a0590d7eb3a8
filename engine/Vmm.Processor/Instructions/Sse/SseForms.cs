using System.Runtime.CompilerServices;
using Vmm.Processor.FloatingPoint;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>What compiled code calls of an instruction in place of its handlers, once it has the source operand.</summary>
internal abstract record SseForm;

/// <summary>An operation that can do nothing but compute the destination.</summary>
/// <param name="Operation">
/// An <see cref="IPackedOp"/>, <see cref="IPackedImmediateOp"/> or <see cref="IShiftOp"/>. Sources of 16 bytes in memory must be
/// aligned, of shorter ones the rest is zero.
/// </param>
internal sealed record PureForm(Type Operation) : SseForm;

/// <summary>An operation under MXCSR, which may fault.</summary>
/// <param name="Core">What the handlers call with the source: state, instruction, source; the next instruction or null.</param>
/// <param name="Source">The type of the source.</param>
/// <param name="Fast">
/// The name of a method of <see cref="FastForms"/>, or null: state, address of the destination, source; false where it has done
/// nothing and <paramref name="Core"/> must be called.
/// </param>
/// <param name="Operation">Its type argument, if it has one.</param>
/// <param name="WritesFlags">Whether it writes the arithmetic flags.</param>
internal sealed record FloatForm(nint Core, Type Source, string? Fast = null, Type? Operation = null, bool WritesFlags = false) : SseForm;

/// <summary>The common cases of the instructions under MXCSR: those that raise no exception that is not recorded already.</summary>
internal static unsafe class FastForms
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ScalarSingle<TOp>(CpuState* s, float* d, float b) where TOp : struct, IFloatOp
    {
        if (!FastFloat.Try<TOp>(s->Mxcsr, typeof(TOp) == typeof(FloatSquareRoot) ? b : *d, b, out float result))
            return false;
        *d = result;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ScalarDouble<TOp>(CpuState* s, double* d, double b) where TOp : struct, IFloatOp
    {
        if (!FastFloat.Try<TOp>(s->Mxcsr, typeof(TOp) == typeof(FloatSquareRoot) ? b : *d, b, out double result))
            return false;
        *d = result;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool PackedSingle<TOp>(CpuState* s, V* d, V b) where TOp : struct, IFloatOp
    {
        if (!FastFloat.TrySilent<TOp>(s->Mxcsr, typeof(TOp) == typeof(FloatSquareRoot) ? b.AsSingle() : d->AsSingle(), b.AsSingle(), out Vector128<float> result))
            return false;
        *d = result.AsByte();
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool PackedDouble<TOp>(CpuState* s, V* d, V b) where TOp : struct, IFloatOp
    {
        if (!FastFloat.TrySilent<TOp>(s->Mxcsr, typeof(TOp) == typeof(FloatSquareRoot) ? b.AsDouble() : d->AsDouble(), b.AsDouble(), out Vector128<double> result))
            return false;
        *d = result.AsByte();
        return true;
    }

    /// <summary>COMISS and UCOMISS of operands that are neither NaN nor denormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool OrderSingle(CpuState* s, float* d, uint source)
    {
        float a = *d, b = BitConverter.UInt32BitsToSingle(source);
        if (!FastFloat.Plain(a) || !FastFloat.Plain(b))
            return false;
        Flags.Write(s, a < b ? Rflags.Cf : a == b ? Rflags.Zf : 0);
        return true;
    }

    /// <summary>COMISD and UCOMISD of operands that are neither NaN nor denormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool OrderDouble(CpuState* s, double* d, ulong source)
    {
        double a = *d, b = BitConverter.UInt64BitsToDouble(source);
        if (!FastFloat.Plain(a) || !FastFloat.Plain(b))
            return false;
        Flags.Write(s, a < b ? Rflags.Cf : a == b ? Rflags.Zf : 0);
        return true;
    }

    /// <summary>CVTSI2SD of 32 bits, which is exact.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IntToDouble(CpuState* s, double* d, int source)
    {
        *d = source;
        return true;
    }

    /// <summary>CVTSI2SD of 64 bits, as far as it is exact.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool LongToDouble(CpuState* s, double* d, long source)
    {
        if (source + (1L << 53) is < 0 or > 1L << 54)
            return false;
        *d = source;
        return true;
    }

    /// <summary>CVTSS2SD of what is neither NaN nor denormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool SingleToDouble(CpuState* s, double* d, uint source)
    {
        float value = BitConverter.UInt32BitsToSingle(source);
        if (!FastFloat.Plain(value))
            return false;
        *d = value;
        return true;
    }

    /// <summary>CVTTSD2SI to 32 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool DoubleToInt(CpuState* s, ulong* d, ulong source)
    {
        double value = BitConverter.UInt64BitsToDouble(source);
        if (!(value is >= int.MinValue and <= int.MaxValue))
            return false;
        int result = (int)value;
        // The rest of a truncation is inexact; a denormal has flags of its own.
        if (result != value && (!FastFloat.InexactIsSilent(s->Mxcsr) || result == 0))
            return false;
        *d = (uint)result;
        return true;
    }

    /// <summary>CVTTSD2SI to 64 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool DoubleToLong(CpuState* s, long* d, ulong source)
    {
        double value = BitConverter.UInt64BitsToDouble(source);
        if (!(Math.Abs(value) < 9.2e18))
            return false;
        long result = (long)value;
        if (result != value && (!FastFloat.InexactIsSilent(s->Mxcsr) || result == 0))
            return false;
        *d = result;
        return true;
    }

    /// <summary>Four or fewer bytes as the low part of a vector.</summary>
    public static V Low32(uint value) => Vector128.CreateScalar(value).AsByte();

    /// <summary>Eight bytes as the low half of a vector.</summary>
    public static V Low64(ulong value) => Vector128.CreateScalar(value).AsByte();

    /// <summary>The low half of a vector.</summary>
    public static ulong LowHalf(V value) => value.AsUInt64().ToScalar();

    public static uint MaskBytes(V value) => value.ExtractMostSignificantBits();
    public static uint MaskSingles(V value) => value.AsSingle().ExtractMostSignificantBits();
    public static uint MaskDoubles(V value) => value.AsDouble().ExtractMostSignificantBits();
}
