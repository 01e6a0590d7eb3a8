using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>The floating-point instructions of SSE to SSE4.1.</summary>
internal static unsafe class SseFloatTable
{
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        FillArithmetic<M>(t);
        FillCompare<M>(t);
        FillConvert<M>(t);
        t.Add(Code.Ldmxcsr_m32, null, &LoadControl<M>);
        t.Add(Code.Stmxcsr_m32, null, &StoreControl<M>);
    }

    private static void FillArithmetic<M>(HandlerTable t) where M : struct, IAddressing
    {
        FloatArithmetic.Add<FloatAdd, M>(t, Code.Addss_xmm_xmmm32, Code.Addsd_xmm_xmmm64, Code.Addps_xmm_xmmm128, Code.Addpd_xmm_xmmm128);
        FloatArithmetic.Add<FloatSubtract, M>(t, Code.Subss_xmm_xmmm32, Code.Subsd_xmm_xmmm64, Code.Subps_xmm_xmmm128, Code.Subpd_xmm_xmmm128);
        FloatArithmetic.Add<FloatMultiply, M>(t, Code.Mulss_xmm_xmmm32, Code.Mulsd_xmm_xmmm64, Code.Mulps_xmm_xmmm128, Code.Mulpd_xmm_xmmm128);
        FloatArithmetic.Add<FloatDivide, M>(t, Code.Divss_xmm_xmmm32, Code.Divsd_xmm_xmmm64, Code.Divps_xmm_xmmm128, Code.Divpd_xmm_xmmm128);
        FloatArithmetic.Add<FloatSquareRoot, M>(t, Code.Sqrtss_xmm_xmmm32, Code.Sqrtsd_xmm_xmmm64, Code.Sqrtps_xmm_xmmm128, Code.Sqrtpd_xmm_xmmm128);
        FloatArithmetic.AddHorizontal<FloatAdd, M>(t, Code.Haddps_xmm_xmmm128, Code.Haddpd_xmm_xmmm128);
        FloatArithmetic.AddHorizontal<FloatSubtract, M>(t, Code.Hsubps_xmm_xmmm128, Code.Hsubpd_xmm_xmmm128);
        t.Add(Code.Addsubps_xmm_xmmm128, &FloatArithmetic.AlternateSingle, &FloatArithmetic.AlternateSingleMemory<M>);
        t.Add(Code.Addsubpd_xmm_xmmm128, &FloatArithmetic.AlternateDouble, &FloatArithmetic.AlternateDoubleMemory<M>);
        t.Add(Code.Dpps_xmm_xmmm128_imm8, &FloatArithmetic.DotSingle, &FloatArithmetic.DotSingleMemory<M>);
        t.Add(Code.Dppd_xmm_xmmm128_imm8, &FloatArithmetic.DotDouble, &FloatArithmetic.DotDoubleMemory<M>);
        t.Add(Code.Rcpss_xmm_xmmm32, &Reciprocal.Scalar<ReciprocalOp>, &Reciprocal.ScalarMemory<ReciprocalOp, M>);
        t.Add(Code.Rcpps_xmm_xmmm128, &Reciprocal.Packed<ReciprocalOp>, &Reciprocal.PackedMemory<ReciprocalOp, M>);
        t.Add(Code.Rsqrtss_xmm_xmmm32, &Reciprocal.Scalar<ReciprocalRootOp>, &Reciprocal.ScalarMemory<ReciprocalRootOp, M>);
        t.Add(Code.Rsqrtps_xmm_xmmm128, &Reciprocal.Packed<ReciprocalRootOp>, &Reciprocal.PackedMemory<ReciprocalRootOp, M>);
        Elements.Add<FloatMin, M>(t, Code.Minss_xmm_xmmm32, Code.Minsd_xmm_xmmm64, Code.Minps_xmm_xmmm128, Code.Minpd_xmm_xmmm128);
        Elements.Add<FloatMax, M>(t, Code.Maxss_xmm_xmmm32, Code.Maxsd_xmm_xmmm64, Code.Maxps_xmm_xmmm128, Code.Maxpd_xmm_xmmm128);
        Elements.Add<RoundIntegral, M>(t, Code.Roundss_xmm_xmmm32_imm8, Code.Roundsd_xmm_xmmm64_imm8, Code.Roundps_xmm_xmmm128_imm8, Code.Roundpd_xmm_xmmm128_imm8);
    }

    private static void FillCompare<M>(HandlerTable t) where M : struct, IAddressing
    {
        Elements.Add<ComparePredicate, M>(t, Code.Cmpss_xmm_xmmm32_imm8, Code.Cmpsd_xmm_xmmm64_imm8, Code.Cmpps_xmm_xmmm128_imm8, Code.Cmppd_xmm_xmmm128_imm8);
        Elements.AddOrder<uint, Binary32, SignalsQuiet, M>(t, Code.Comiss_xmm_xmmm32, nameof(FastForms.OrderSingle));
        Elements.AddOrder<ulong, Binary64, SignalsQuiet, M>(t, Code.Comisd_xmm_xmmm64, nameof(FastForms.OrderDouble));
        Elements.AddOrder<uint, Binary32, KeepsQuiet, M>(t, Code.Ucomiss_xmm_xmmm32, nameof(FastForms.OrderSingle));
        Elements.AddOrder<ulong, Binary64, KeepsQuiet, M>(t, Code.Ucomisd_xmm_xmmm64, nameof(FastForms.OrderDouble));
    }

    private static void FillConvert<M>(HandlerTable t) where M : struct, IAddressing
    {
        ToLow<IntToSingle, int, uint, M>(t, Code.Cvtsi2ss_xmm_rm32);
        ToLow<LongToSingle, long, uint, M>(t, Code.Cvtsi2ss_xmm_rm64);
        ToLow<IntToDouble, int, ulong, M>(t, Code.Cvtsi2sd_xmm_rm32, nameof(FastForms.IntToDouble));
        ToLow<LongToDouble, long, ulong, M>(t, Code.Cvtsi2sd_xmm_rm64, nameof(FastForms.LongToDouble));
        ToLow<SingleToDouble, uint, ulong, M>(t, Code.Cvtss2sd_xmm_xmmm32, nameof(FastForms.SingleToDouble));
        ToLow<DoubleToSingle, ulong, uint, M>(t, Code.Cvtsd2ss_xmm_xmmm64);
        ToGeneral<SingleToInt<Current>, uint, int, M>(t, Code.Cvtss2si_r32_xmmm32);
        ToGeneral<SingleToLong<Current>, uint, long, M>(t, Code.Cvtss2si_r64_xmmm32);
        ToGeneral<SingleToInt<Truncated>, uint, int, M>(t, Code.Cvttss2si_r32_xmmm32);
        ToGeneral<SingleToLong<Truncated>, uint, long, M>(t, Code.Cvttss2si_r64_xmmm32);
        ToGeneral<DoubleToInt<Current>, ulong, int, M>(t, Code.Cvtsd2si_r32_xmmm64);
        ToGeneral<DoubleToLong<Current>, ulong, long, M>(t, Code.Cvtsd2si_r64_xmmm64);
        ToGeneral<DoubleToInt<Truncated>, ulong, int, M>(t, Code.Cvttsd2si_r32_xmmm64, nameof(FastForms.DoubleToInt));
        ToGeneral<DoubleToLong<Truncated>, ulong, long, M>(t, Code.Cvttsd2si_r64_xmmm64, nameof(FastForms.DoubleToLong));
        Packed<IntToSingle, int, uint, M>(t, Code.Cvtdq2ps_xmm_xmmm128);
        Packed<SingleToInt<Current>, uint, int, M>(t, Code.Cvtps2dq_xmm_xmmm128);
        Packed<SingleToInt<Truncated>, uint, int, M>(t, Code.Cvttps2dq_xmm_xmmm128);
        Packed<DoubleToInt<Current>, ulong, int, M>(t, Code.Cvtpd2dq_xmm_xmmm128);
        Packed<DoubleToInt<Truncated>, ulong, int, M>(t, Code.Cvttpd2dq_xmm_xmmm128);
        Packed<DoubleToSingle, ulong, uint, M>(t, Code.Cvtpd2ps_xmm_xmmm128);
        t.Add(Code.Cvtps2pd_xmm_xmmm64, &FloatConvert.Packed<SingleToDouble, uint, ulong>, &FloatConvert.PackedHalfMemory<SingleToDouble, uint, ulong, M>);
        t.Add(Code.Cvtdq2pd_xmm_xmmm64, &FloatConvert.Packed<IntToDouble, int, ulong>, &FloatConvert.PackedHalfMemory<IntToDouble, int, ulong, M>);
        t.Add(Code.Cvtpi2ps_xmm_mmm64, &FloatConvert.MmxToSingles, &FloatConvert.MmxToSinglesMemory<M>);
        t.Add(Code.Cvtpi2pd_xmm_mmm64, &FloatConvert.MmxToDoubles, &FloatConvert.PackedHalfMemory<IntToDouble, int, ulong, M>);
        t.Add(Code.Cvtps2pi_mm_xmmm64, &FloatConvert.ToMmx<SingleToInt<Current>, uint>, &FloatConvert.ToMmxHalfMemory<SingleToInt<Current>, uint, M>);
        t.Add(Code.Cvttps2pi_mm_xmmm64, &FloatConvert.ToMmx<SingleToInt<Truncated>, uint>, &FloatConvert.ToMmxHalfMemory<SingleToInt<Truncated>, uint, M>);
        t.Add(Code.Cvtpd2pi_mm_xmmm128, &FloatConvert.ToMmx<DoubleToInt<Current>, ulong>, &FloatConvert.ToMmxMemory<DoubleToInt<Current>, ulong, M>);
        t.Add(Code.Cvttpd2pi_mm_xmmm128, &FloatConvert.ToMmx<DoubleToInt<Truncated>, ulong>, &FloatConvert.ToMmxMemory<DoubleToInt<Truncated>, ulong, M>);
    }

    private static void ToLow<K, A, B, M>(HandlerTable t, Code code, string? fast = null)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing
    {
        t.Add(code, &FloatConvert.ToLow<K, A, B>, &FloatConvert.ToLowMemory<K, A, B, M>);
        t.Describe(code, new FloatForm((nint)(delegate*<CpuState*, Insn*, A, Insn*>)&FloatConvert.ToLow<K, A, B>, typeof(A), fast));
    }

    private static void ToGeneral<K, A, B, M>(HandlerTable t, Code code, string? fast = null)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing
    {
        t.Add(code, &FloatConvert.ToGeneral<K, A, B>, &FloatConvert.ToGeneralMemory<K, A, B, M>);
        t.Describe(code, new FloatForm((nint)(delegate*<CpuState*, Insn*, A, Insn*>)&FloatConvert.ToGeneral<K, A, B>, typeof(A), fast));
    }

    private static void Packed<K, A, B, M>(HandlerTable t, Code code)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing
    {
        t.Add(code, &FloatConvert.Packed<K, A, B>, &FloatConvert.PackedMemory<K, A, B, M>);
        t.Describe(code, new FloatForm((nint)(delegate*<CpuState*, Insn*, Vector128<byte>, Insn*>)&FloatConvert.Packed<K, A, B>, typeof(Vector128<byte>)));
    }

    /// <summary>LDMXCSR: a reserved bit is #GP(0).</summary>
    private static Insn* LoadControl<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.Read<uint, M>(s, i, out uint value))
            return null;
        if ((value & ~Mxcsr.Writable) != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        s->Mxcsr = value;
        return i + 1;
    }

    private static Insn* StoreControl<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Write<uint, M>(s, i, s->Mxcsr) ? i + 1 : null;
}
