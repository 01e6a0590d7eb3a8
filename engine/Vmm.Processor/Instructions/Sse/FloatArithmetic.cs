using System.Runtime.CompilerServices;
using Iced.Intel;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>ADD, SUB, MUL, DIV and SQRT in their four shapes, and the horizontal ones built from them.</summary>
internal static unsafe class FloatArithmetic
{
    public static Insn* ScalarSingle<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        ScalarSingle<TOp>(s, i, *(float*)Xmm.At(s, i->Operand1));

    public static Insn* ScalarSingleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.Read<float, M>(s, i, out float b) ? ScalarSingle<TOp>(s, i, b) : null;

    public static Insn* ScalarDouble<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        ScalarDouble<TOp>(s, i, *(double*)Xmm.At(s, i->Operand1));

    public static Insn* ScalarDoubleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.Read<double, M>(s, i, out double b) ? ScalarDouble<TOp>(s, i, b) : null;

    public static Insn* PackedSingle<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        PackedSingle<TOp>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* PackedSingleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? PackedSingle<TOp>(s, i, b) : null;

    public static Insn* PackedDouble<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        PackedDouble<TOp>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* PackedDoubleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? PackedDouble<TOp>(s, i, b) : null;

    public static Insn* HorizontalSingle<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        HorizontalSingle<TOp>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* HorizontalSingleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? HorizontalSingle<TOp>(s, i, b) : null;

    public static Insn* HorizontalDouble<TOp>(CpuState* s, Insn* i) where TOp : struct, IFloatOp =>
        HorizontalDouble<TOp>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* HorizontalDoubleMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IFloatOp where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? HorizontalDouble<TOp>(s, i, b) : null;

    public static Insn* AlternateSingle(CpuState* s, Insn* i) => AlternateSingle(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* AlternateSingleMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? AlternateSingle(s, i, b) : null;

    public static Insn* AlternateDouble(CpuState* s, Insn* i) => AlternateDouble(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* AlternateDoubleMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? AlternateDouble(s, i, b) : null;

    public static Insn* DotSingle(CpuState* s, Insn* i) => DotSingle(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* DotSingleMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? DotSingle(s, i, b) : null;

    public static Insn* DotDouble(CpuState* s, Insn* i) => DotDouble(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* DotDoubleMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? DotDouble(s, i, b) : null;

    /// <summary>Enters the four shapes of an operation.</summary>
    public static void Add<TOp, M>(HandlerTable t, Code ss, Code sd, Code ps, Code pd) where TOp : struct, IFloatOp where M : struct, IAddressing
    {
        t.Add(ss, &ScalarSingle<TOp>, &ScalarSingleMemory<TOp, M>);
        t.Add(sd, &ScalarDouble<TOp>, &ScalarDoubleMemory<TOp, M>);
        t.Add(ps, &PackedSingle<TOp>, &PackedSingleMemory<TOp, M>);
        t.Add(pd, &PackedDouble<TOp>, &PackedDoubleMemory<TOp, M>);
        t.Describe(ss, new FloatForm((nint)(delegate*<CpuState*, Insn*, float, Insn*>)&ScalarSingle<TOp>, typeof(float), nameof(FastForms.ScalarSingle), typeof(TOp)));
        t.Describe(sd, new FloatForm((nint)(delegate*<CpuState*, Insn*, double, Insn*>)&ScalarDouble<TOp>, typeof(double), nameof(FastForms.ScalarDouble), typeof(TOp)));
        t.Describe(ps, new FloatForm((nint)(delegate*<CpuState*, Insn*, Vector128<byte>, Insn*>)&PackedSingle<TOp>, typeof(Vector128<byte>), nameof(FastForms.PackedSingle), typeof(TOp)));
        t.Describe(pd, new FloatForm((nint)(delegate*<CpuState*, Insn*, Vector128<byte>, Insn*>)&PackedDouble<TOp>, typeof(Vector128<byte>), nameof(FastForms.PackedDouble), typeof(TOp)));
    }

    /// <summary>Enters the packed shapes of a horizontal operation.</summary>
    public static void AddHorizontal<TOp, M>(HandlerTable t, Code ps, Code pd) where TOp : struct, IFloatOp where M : struct, IAddressing
    {
        t.Add(ps, &HorizontalSingle<TOp>, &HorizontalSingleMemory<TOp, M>);
        t.Add(pd, &HorizontalDouble<TOp>, &HorizontalDoubleMemory<TOp, M>);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* ScalarSingle<TOp>(CpuState* s, Insn* i, float b) where TOp : struct, IFloatOp
    {
        float* d = (float*)Xmm.At(s, i->Operand0);
        float a = typeof(TOp) == typeof(FloatSquareRoot) ? b : *d;
        if (!FastFloat.Try<TOp>(s->Mxcsr, a, b, out float result) && !SlowSingle<TOp>(s, i, a, b, out result))
            return null;
        *d = result;
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* ScalarDouble<TOp>(CpuState* s, Insn* i, double b) where TOp : struct, IFloatOp
    {
        double* d = (double*)Xmm.At(s, i->Operand0);
        double a = typeof(TOp) == typeof(FloatSquareRoot) ? b : *d;
        if (!FastFloat.Try<TOp>(s->Mxcsr, a, b, out double result) && !SlowDouble<TOp>(s, i, a, b, out result))
            return null;
        *d = result;
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* PackedSingle<TOp>(CpuState* s, Insn* i, Vector128<byte> right) where TOp : struct, IFloatOp =>
        PackedSingle<TOp>(s, i, *Xmm.At(s, i->Operand0), right);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* PackedDouble<TOp>(CpuState* s, Insn* i, Vector128<byte> right) where TOp : struct, IFloatOp =>
        PackedDouble<TOp>(s, i, *Xmm.At(s, i->Operand0), right);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* PackedSingle<TOp>(CpuState* s, Insn* i, Vector128<byte> left, Vector128<byte> right) where TOp : struct, IFloatOp
    {
        Vector128<float> b = right.AsSingle(), a = typeof(TOp) == typeof(FloatSquareRoot) ? b : left.AsSingle();
        if (!FastFloat.Try<TOp>(s->Mxcsr, a, b, out Vector128<float> result) && !SlowSingles<TOp, TOp>(s, i, a, b, out result))
            return null;
        *Xmm.At(s, i->Operand0) = result.AsByte();
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* PackedDouble<TOp>(CpuState* s, Insn* i, Vector128<byte> left, Vector128<byte> right) where TOp : struct, IFloatOp
    {
        Vector128<double> b = right.AsDouble(), a = typeof(TOp) == typeof(FloatSquareRoot) ? b : left.AsDouble();
        if (!FastFloat.Try<TOp>(s->Mxcsr, a, b, out Vector128<double> result) && !SlowDoubles<TOp, TOp>(s, i, a, b, out result))
            return null;
        *Xmm.At(s, i->Operand0) = result.AsByte();
        return i + 1;
    }

    private static Insn* HorizontalSingle<TOp>(CpuState* s, Insn* i, Vector128<byte> right) where TOp : struct, IFloatOp
    {
        Vector128<byte> left = *Xmm.At(s, i->Operand0);
        return PackedSingle<TOp>(s, i, Pairs.EvenDwords(left, right).AsByte(), Pairs.OddDwords(left, right).AsByte());
    }

    private static Insn* HorizontalDouble<TOp>(CpuState* s, Insn* i, Vector128<byte> right) where TOp : struct, IFloatOp
    {
        Vector128<byte> left = *Xmm.At(s, i->Operand0);
        return PackedDouble<TOp>(s, i, UnpackLowQwordOp.Apply(left, right), UnpackHighQwordOp.Apply(left, right));
    }

    private static Insn* AlternateSingle(CpuState* s, Insn* i, Vector128<byte> right)
    {
        Vector128<float> a = Xmm.At(s, i->Operand0)->AsSingle(), b = right.AsSingle();
        Vector128<float> signed = b ^ Vector128.Create(-0f, 0f, -0f, 0f);
        if (!FastFloat.Try<FloatAdd>(s->Mxcsr, a, signed, out Vector128<float> result)
            && !SlowSingles<FloatSubtract, FloatAdd>(s, i, a, b, out result))
            return null;
        *Xmm.At(s, i->Operand0) = result.AsByte();
        return i + 1;
    }

    private static Insn* AlternateDouble(CpuState* s, Insn* i, Vector128<byte> right)
    {
        Vector128<double> a = Xmm.At(s, i->Operand0)->AsDouble(), b = right.AsDouble();
        Vector128<double> signed = b ^ Vector128.Create(-0.0, 0.0);
        if (!FastFloat.Try<FloatAdd>(s->Mxcsr, a, signed, out Vector128<double> result)
            && !SlowDoubles<FloatSubtract, FloatAdd>(s, i, a, b, out result))
            return null;
        *Xmm.At(s, i->Operand0) = result.AsByte();
        return i + 1;
    }

    /// <summary>DPPS: the products that bits 7:4 select, added pairwise, to the elements that bits 3:0 select. Each step is rounded and may fault.</summary>
    private static Insn* DotSingle(CpuState* s, Insn* i, Vector128<byte> right)
    {
        Vector128<float> a = Xmm.At(s, i->Operand0)->AsSingle(), b = right.AsSingle();
        byte control = (byte)i->Immediate;
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        Span<float> products = stackalloc float[4];
        products.Clear();
        for (int n = 0; n < 4; n++)
        {
            if ((control >> (4 + n) & 1) != 0)
                products[n] = Apply<FloatMultiply>(ref c, a[n], b[n]);
        }
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        // The manual has one sum for all elements. Intel's processors begin each one's with its neighbour's product, which tells where
        // several products are NaNs. The exceptions are the same, as they are for either order of two operands.
        Span<float> pairs = stackalloc float[4];
        for (int n = 0; n < 4; n++)
            pairs[n] = Apply<FloatAdd>(ref c, products[n ^ 1], products[n]);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        Span<float> sums = stackalloc float[4];
        for (int n = 0; n < 4; n++)
            sums[n] = Apply<FloatAdd>(ref c, pairs[n], pairs[n ^ 2]);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *Xmm.At(s, i->Operand0) = Vector128.Create((control & 1) != 0 ? sums[0] : 0, (control & 2) != 0 ? sums[1] : 0,
            (control & 4) != 0 ? sums[2] : 0, (control & 8) != 0 ? sums[3] : 0).AsByte();
        return i + 1;
    }

    /// <summary>DPPD: the products that bits 5:4 select, added, to the elements that bits 1:0 select.</summary>
    private static Insn* DotDouble(CpuState* s, Insn* i, Vector128<byte> right)
    {
        Vector128<double> a = Xmm.At(s, i->Operand0)->AsDouble(), b = right.AsDouble();
        byte control = (byte)i->Immediate;
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        double first = (control & 16) != 0 ? Apply<FloatMultiply>(ref c, a[0], b[0]) : 0;
        double second = (control & 32) != 0 ? Apply<FloatMultiply>(ref c, a[1], b[1]) : 0;
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        double low = Apply<FloatAdd>(ref c, first, second), high = Apply<FloatAdd>(ref c, second, first);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *Xmm.At(s, i->Operand0) = Vector128.Create((control & 1) != 0 ? low : 0, (control & 2) != 0 ? high : 0).AsByte();
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool SlowSingle<TOp>(CpuState* s, Insn* i, float a, float b, out float result) where TOp : struct, IFloatOp
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        result = Apply<TOp>(ref c, a, b);
        return SseExceptions.Settle(s, i, ref c);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool SlowDouble<TOp>(CpuState* s, Insn* i, double a, double b, out double result) where TOp : struct, IFloatOp
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        result = Apply<TOp>(ref c, a, b);
        return SseExceptions.Settle(s, i, ref c);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool SlowSingles<TEven, TOdd>(CpuState* s, Insn* i, Vector128<float> a, Vector128<float> b, out Vector128<float> result)
        where TEven : struct, IFloatOp where TOdd : struct, IFloatOp
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        result = Vector128.Create(Apply<TEven>(ref c, a[0], b[0]), Apply<TOdd>(ref c, a[1], b[1]),
            Apply<TEven>(ref c, a[2], b[2]), Apply<TOdd>(ref c, a[3], b[3]));
        return SseExceptions.Settle(s, i, ref c);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool SlowDoubles<TEven, TOdd>(CpuState* s, Insn* i, Vector128<double> a, Vector128<double> b, out Vector128<double> result)
        where TEven : struct, IFloatOp where TOdd : struct, IFloatOp
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        result = Vector128.Create(Apply<TEven>(ref c, a[0], b[0]), Apply<TOdd>(ref c, a[1], b[1]));
        return SseExceptions.Settle(s, i, ref c);
    }

    private static float Apply<TOp>(ref FloatContext c, float a, float b) where TOp : struct, IFloatOp
    {
        Real x = Real.FromSingle(BitConverter.SingleToUInt32Bits(a), c.DenormalsAreZero);
        Real y = Real.FromSingle(BitConverter.SingleToUInt32Bits(b), c.DenormalsAreZero);
        return BitConverter.UInt32BitsToSingle(TOp.Soft(ref c, x, y, RealFormat.Single).ToSingle());
    }

    private static double Apply<TOp>(ref FloatContext c, double a, double b) where TOp : struct, IFloatOp
    {
        Real x = Real.FromDouble(BitConverter.DoubleToUInt64Bits(a), c.DenormalsAreZero);
        Real y = Real.FromDouble(BitConverter.DoubleToUInt64Bits(b), c.DenormalsAreZero);
        return BitConverter.UInt64BitsToDouble(TOp.Soft(ref c, x, y, RealFormat.Double).ToDouble());
    }
}
