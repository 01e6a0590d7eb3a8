using Iced.Intel;
using Vmm.Processor.Instructions.Sse;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>The x87 instructions.</summary>
internal static unsafe class FpuTable
{
    /// <summary>Enters all of them.</summary>
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        FillArithmetic<M>(t);
        FillCompare<M>(t);
        FillMoves<M>(t);
        FillControl<M>(t);
        FillFunctions(t);
    }

    private static void FillArithmetic<M>(HandlerTable t) where M : struct, IAddressing
    {
        Arithmetic<X87Add, M>(t, Code.Fadd_st0_sti, Code.Fadd_sti_st0, Code.Faddp_sti_st0, Code.Fadd_m32fp, Code.Fadd_m64fp, Code.Fiadd_m16int, Code.Fiadd_m32int);
        Arithmetic<X87Multiply, M>(t, Code.Fmul_st0_sti, Code.Fmul_sti_st0, Code.Fmulp_sti_st0, Code.Fmul_m32fp, Code.Fmul_m64fp, Code.Fimul_m16int, Code.Fimul_m32int);
        Arithmetic<X87Subtract, M>(t, Code.Fsub_st0_sti, Code.Fsub_sti_st0, Code.Fsubp_sti_st0, Code.Fsub_m32fp, Code.Fsub_m64fp, Code.Fisub_m16int, Code.Fisub_m32int);
        Arithmetic<X87SubtractReverse, M>(t, Code.Fsubr_st0_sti, Code.Fsubr_sti_st0, Code.Fsubrp_sti_st0, Code.Fsubr_m32fp, Code.Fsubr_m64fp, Code.Fisubr_m16int, Code.Fisubr_m32int);
        Arithmetic<X87Divide, M>(t, Code.Fdiv_st0_sti, Code.Fdiv_sti_st0, Code.Fdivp_sti_st0, Code.Fdiv_m32fp, Code.Fdiv_m64fp, Code.Fidiv_m16int, Code.Fidiv_m32int);
        Arithmetic<X87DivideReverse, M>(t, Code.Fdivr_st0_sti, Code.Fdivr_sti_st0, Code.Fdivrp_sti_st0, Code.Fdivr_m32fp, Code.Fdivr_m64fp, Code.Fidivr_m16int, Code.Fidivr_m32int);
        t.Add(Code.Fsqrt, &FpuArithmetic.SquareRoot);
        t.Add(Code.Frndint, &FpuArithmetic.RoundToInteger);
        t.Add(Code.Fscale, &FpuArithmetic.Scale);
        t.Add(Code.Fxtract, &FpuArithmetic.Extract);
        t.Add(Code.Fprem, &FpuArithmetic.Remainder<TruncatedRemainder>);
        t.Add(Code.Fprem1, &FpuArithmetic.Remainder<NearestRemainder>);
        t.Add(Code.Fchs, &FpuArithmetic.Sign<ChangeSign>);
        t.Add(Code.Fabs, &FpuArithmetic.Sign<ClearSign>);
    }

    private static void Arithmetic<TOp, M>(HandlerTable t, Code st0, Code sti, Code pop, Code m32, Code m64, Code i16, Code i32)
        where TOp : struct, IX87Op where M : struct, IAddressing
    {
        t.Add(st0, &FpuArithmetic.Register<TOp>);
        t.Add(sti, &FpuArithmetic.Register<TOp>);
        t.Add(pop, &FpuArithmetic.RegisterPop<TOp>);
        t.Add(m32, null, &FpuArithmetic.Memory<TOp, uint, SingleSource, M>);
        t.Add(m64, null, &FpuArithmetic.Memory<TOp, ulong, DoubleSource, M>);
        t.Add(i16, null, &FpuArithmetic.Memory<TOp, short, Int16Source, M>);
        t.Add(i32, null, &FpuArithmetic.Memory<TOp, int, Int32Source, M>);
    }

    private static void FillCompare<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Fcom_st0_sti, &FpuCompare.Register<SignalsQuiet, PopNone>);
        t.Add(Code.Fcom_st0_sti_DCD0, &FpuCompare.Register<SignalsQuiet, PopNone>);
        t.Add(Code.Fcomp_st0_sti, &FpuCompare.Register<SignalsQuiet, PopOne>);
        t.Add(Code.Fcomp_st0_sti_DCD8, &FpuCompare.Register<SignalsQuiet, PopOne>);
        t.Add(Code.Fcomp_st0_sti_DED0, &FpuCompare.Register<SignalsQuiet, PopOne>);
        t.Add(Code.Fcompp, &FpuCompare.Register<SignalsQuiet, PopTwo>);
        t.Add(Code.Fucom_st0_sti, &FpuCompare.Register<KeepsQuiet, PopNone>);
        t.Add(Code.Fucomp_st0_sti, &FpuCompare.Register<KeepsQuiet, PopOne>);
        t.Add(Code.Fucompp, &FpuCompare.Register<KeepsQuiet, PopTwo>);
        t.Add(Code.Fcomi_st0_sti, &FpuCompare.ToFlags<SignalsQuiet, PopNone>);
        t.Add(Code.Fcomip_st0_sti, &FpuCompare.ToFlags<SignalsQuiet, PopOne>);
        t.Add(Code.Fucomi_st0_sti, &FpuCompare.ToFlags<KeepsQuiet, PopNone>);
        t.Add(Code.Fucomip_st0_sti, &FpuCompare.ToFlags<KeepsQuiet, PopOne>);
        t.Add(Code.Fcom_m32fp, null, &FpuCompare.Memory<uint, SingleSource, PopNone, M>);
        t.Add(Code.Fcomp_m32fp, null, &FpuCompare.Memory<uint, SingleSource, PopOne, M>);
        t.Add(Code.Fcom_m64fp, null, &FpuCompare.Memory<ulong, DoubleSource, PopNone, M>);
        t.Add(Code.Fcomp_m64fp, null, &FpuCompare.Memory<ulong, DoubleSource, PopOne, M>);
        t.Add(Code.Ficom_m16int, null, &FpuCompare.Memory<short, Int16Source, PopNone, M>);
        t.Add(Code.Ficomp_m16int, null, &FpuCompare.Memory<short, Int16Source, PopOne, M>);
        t.Add(Code.Ficom_m32int, null, &FpuCompare.Memory<int, Int32Source, PopNone, M>);
        t.Add(Code.Ficomp_m32int, null, &FpuCompare.Memory<int, Int32Source, PopOne, M>);
        t.Add(Code.Ftst, &FpuCompare.Test);
        t.Add(Code.Fxam, &FpuCompare.Examine);
    }

    private static void FillMoves<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Fld_m32fp, null, &FpuMoves.LoadReal<uint, SingleSource, M>);
        t.Add(Code.Fld_m64fp, null, &FpuMoves.LoadReal<ulong, DoubleSource, M>);
        t.Add(Code.Fild_m16int, null, &FpuMoves.LoadReal<short, Int16Source, M>);
        t.Add(Code.Fild_m32int, null, &FpuMoves.LoadReal<int, Int32Source, M>);
        t.Add(Code.Fild_m64int, null, &FpuMoves.LoadReal<long, Int64Source, M>);
        t.Add(Code.Fld_m80fp, null, &FpuMoves.LoadExtended<M>);
        t.Add(Code.Fbld_m80bcd, null, &FpuMoves.LoadDecimal<M>);
        t.Add(Code.Fld_sti, &FpuMoves.LoadRegister);
        t.Add(Code.Fld1, &FpuMoves.LoadConstant<One>);
        t.Add(Code.Fldl2t, &FpuMoves.LoadConstant<Log2Ten>);
        t.Add(Code.Fldl2e, &FpuMoves.LoadConstant<Log2E>);
        t.Add(Code.Fldpi, &FpuMoves.LoadConstant<Pi>);
        t.Add(Code.Fldlg2, &FpuMoves.LoadConstant<Log10Two>);
        t.Add(Code.Fldln2, &FpuMoves.LoadConstant<LnTwo>);
        t.Add(Code.Fldz, &FpuMoves.LoadConstant<PositiveZero>);
        t.Add(Code.Fst_m32fp, null, &FpuMoves.StoreSingle<PopNone, M>);
        t.Add(Code.Fstp_m32fp, null, &FpuMoves.StoreSingle<PopOne, M>);
        t.Add(Code.Fst_m64fp, null, &FpuMoves.StoreDouble<PopNone, M>);
        t.Add(Code.Fstp_m64fp, null, &FpuMoves.StoreDouble<PopOne, M>);
        t.Add(Code.Fstp_m80fp, null, &FpuMoves.StoreExtended<M>);
        t.Add(Code.Fbstp_m80bcd, null, &FpuMoves.StoreDecimal<M>);
        t.Add(Code.Fist_m16int, null, &FpuMoves.StoreInteger<short, Current, PopNone, M>);
        t.Add(Code.Fist_m32int, null, &FpuMoves.StoreInteger<int, Current, PopNone, M>);
        t.Add(Code.Fistp_m16int, null, &FpuMoves.StoreInteger<short, Current, PopOne, M>);
        t.Add(Code.Fistp_m32int, null, &FpuMoves.StoreInteger<int, Current, PopOne, M>);
        t.Add(Code.Fistp_m64int, null, &FpuMoves.StoreInteger<long, Current, PopOne, M>);
        t.Add(Code.Fisttp_m16int, null, &FpuMoves.StoreInteger<short, Truncated, PopOne, M>);
        t.Add(Code.Fisttp_m32int, null, &FpuMoves.StoreInteger<int, Truncated, PopOne, M>);
        t.Add(Code.Fisttp_m64int, null, &FpuMoves.StoreInteger<long, Truncated, PopOne, M>);
        t.Add(Code.Fst_sti, &FpuMoves.StoreRegister<PopNone>);
        t.Add(Code.Fstp_sti, &FpuMoves.StoreRegister<PopOne>);
        t.Add(Code.Fstpnce_sti, &FpuMoves.StoreUnchecked);
        t.Add(Code.Fstp_sti_DFD0, &FpuMoves.StoreRegister<PopOne>);
        t.Add(Code.Fstp_sti_DFD8, &FpuMoves.StoreRegister<PopOne>);
        t.Add(Code.Fxch_st0_sti, &FpuMoves.Exchange);
        t.Add(Code.Fxch_st0_sti_DDC8, &FpuMoves.Exchange);
        t.Add(Code.Fxch_st0_sti_DFC8, &FpuMoves.Exchange);
        t.Add(Code.Fcmovb_st0_sti, &FpuMoves.Conditional<IfBelow>);
        t.Add(Code.Fcmove_st0_sti, &FpuMoves.Conditional<IfEqual>);
        t.Add(Code.Fcmovbe_st0_sti, &FpuMoves.Conditional<IfBelowOrEqual>);
        t.Add(Code.Fcmovu_st0_sti, &FpuMoves.Conditional<IfUnordered>);
        t.Add(Code.Fcmovnb_st0_sti, &FpuMoves.Conditional<IfNot<IfBelow>>);
        t.Add(Code.Fcmovne_st0_sti, &FpuMoves.Conditional<IfNot<IfEqual>>);
        t.Add(Code.Fcmovnbe_st0_sti, &FpuMoves.Conditional<IfNot<IfBelowOrEqual>>);
        t.Add(Code.Fcmovnu_st0_sti, &FpuMoves.Conditional<IfNot<IfUnordered>>);
    }

    private static void FillControl<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Wait, &FpuControl.Wait);
        t.Add(Code.Fnop, &FpuControl.NoOperation);
        t.Add(Code.Fninit, &FpuControl.Initialise);
        t.Add(Code.Fnclex, &FpuControl.ClearExceptions);
        t.Add(Code.Fneni, &FpuControl.Ignored);
        t.Add(Code.Fndisi, &FpuControl.Ignored);
        t.Add(Code.Fnsetpm, &FpuControl.Ignored);
        t.Add(Code.Fldcw_m2byte, null, &FpuControl.LoadControl<M>);
        t.Add(Code.Fnstcw_m2byte, null, &FpuControl.StoreControl<M>);
        t.Add(Code.Fnstsw_m2byte, null, &FpuControl.StoreStatus<M>);
        t.Add(Code.Fnstsw_AX, &FpuControl.StoreStatusAx);
        t.Add(Code.Fincstp, &FpuControl.IncrementTop);
        t.Add(Code.Fdecstp, &FpuControl.DecrementTop);
        t.Add(Code.Ffree_sti, &FpuControl.Free<PopNone>);
        t.Add(Code.Ffreep_sti, &FpuControl.Free<PopOne>);
        t.Add(Code.Fnstenv_m14byte, null, &FpuEnvironment.StoreEnvironment<Narrow14, M>);
        t.Add(Code.Fnstenv_m28byte, null, &FpuEnvironment.StoreEnvironment<Wide28, M>);
        t.Add(Code.Fldenv_m14byte, null, &FpuEnvironment.LoadEnvironment<Narrow14, M>);
        t.Add(Code.Fldenv_m28byte, null, &FpuEnvironment.LoadEnvironment<Wide28, M>);
        t.Add(Code.Fnsave_m94byte, null, &FpuEnvironment.Save<Narrow14, M>);
        t.Add(Code.Fnsave_m108byte, null, &FpuEnvironment.Save<Wide28, M>);
        t.Add(Code.Frstor_m94byte, null, &FpuEnvironment.Restore<Narrow14, M>);
        t.Add(Code.Frstor_m108byte, null, &FpuEnvironment.Restore<Wide28, M>);
    }

    private static void FillFunctions(HandlerTable t)
    {
        t.Add(Code.F2xm1, &FpuFunctions.Unary<PowerMinusOne>);
        t.Add(Code.Fyl2x, &FpuFunctions.BinaryPop<YLog2X>);
        t.Add(Code.Fyl2xp1, &FpuFunctions.BinaryPop<YLog2XPlusOne>);
        t.Add(Code.Fpatan, &FpuFunctions.BinaryPop<ArcTangent>);
        t.Add(Code.Fsin, &FpuFunctions.Circular<Sine>);
        t.Add(Code.Fcos, &FpuFunctions.Circular<Cosine>);
        t.Add(Code.Fsincos, &FpuFunctions.Circular<SineCosine>);
        t.Add(Code.Fptan, &FpuFunctions.Circular<Tangent>);
    }
}
