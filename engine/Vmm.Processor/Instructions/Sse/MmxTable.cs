using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>MMX, with what SSE to SSSE3 added to it.</summary>
internal static unsafe class MmxTable
{
    /// <summary>Enters all of them.</summary>
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        FillMoves<M>(t);
        FillArithmetic<M>(t);
    }

    private static void FillMoves<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Emms, &Mmx.Leave);
        t.Add(Code.Movd_mm_rm32, &Mmx.FromGeneral<uint>, &Mmx.Load<uint, M>);
        t.Add(Code.Movq_mm_rm64, &Mmx.FromGeneral<ulong>, &Mmx.Load<ulong, M>);
        t.Add(Code.Movq_mm_mmm64, &Mmx.FromGeneral<ulong>, &Mmx.Load<ulong, M>);
        t.Add(Code.Movd_rm32_mm, &Mmx.ToGeneral<uint>, &Mmx.Store<uint, M>);
        t.Add(Code.Movq_rm64_mm, &Mmx.ToGeneral<ulong>, &Mmx.Store<ulong, M>);
        t.Add(Code.Movq_mmm64_mm, &Mmx.FromGeneral<ulong>, &Mmx.Store<ulong, M>);
        t.Add(Code.Movntq_m64_mm, null, &Mmx.Store<ulong, M>);
        t.Add(Code.Movq2dq_xmm_mm, &Mmx.ToXmm, null);
        t.Add(Code.Movdq2q_mm_xmm, &Mmx.FromXmm, null);
        t.Add(Code.Maskmovq_rDI_mm_mm, &Mmx.MaskedStore<M>);
        t.Add(Code.Pmovmskb_r32_mm, &Mmx.ByteMask, null);
        t.Add(Code.Pmovmskb_r64_mm, &Mmx.ByteMask, null);
        t.Add(Code.Pextrw_r32_mm_imm8, &Mmx.ExtractWord, null);
        t.Add(Code.Pextrw_r64_mm_imm8, &Mmx.ExtractWord, null);
        t.Add(Code.Pinsrw_mm_r32m16_imm8, &Mmx.InsertWord, &Mmx.InsertWordMemory<M>);
        t.Add(Code.Pinsrw_mm_r64m16_imm8, &Mmx.InsertWord, &Mmx.InsertWordMemory<M>);
        t.Add(Code.Pshufw_mm_mmm64_imm8, &Mmx.Shuffle, &Mmx.ShuffleMemory<M>);
        t.Add(Code.Palignr_mm_mmm64_imm8, &Mmx.AlignRight, &Mmx.AlignRightMemory<M>);
        t.Add(Code.Punpcklbw_mm_mmm32, &Mmx.Register<Direct<UnpackLowByteOp>>, &Mmx.Memory<Direct<UnpackLowByteOp>, uint, M>);
        t.Add(Code.Punpcklwd_mm_mmm32, &Mmx.Register<Direct<UnpackLowWordOp>>, &Mmx.Memory<Direct<UnpackLowWordOp>, uint, M>);
        t.Add(Code.Punpckldq_mm_mmm32, &Mmx.Register<Direct<UnpackLowDwordOp>>, &Mmx.Memory<Direct<UnpackLowDwordOp>, uint, M>);
        Mmx.Add<UpperOf<UnpackLowByteOp>, M>(t, Code.Punpckhbw_mm_mmm64);
        Mmx.Add<UpperOf<UnpackLowWordOp>, M>(t, Code.Punpckhwd_mm_mmm64);
        Mmx.Add<UpperOf<UnpackLowDwordOp>, M>(t, Code.Punpckhdq_mm_mmm64);
        Mmx.Add<Joined<PackSignedWordOp>, M>(t, Code.Packsswb_mm_mmm64);
        Mmx.Add<Joined<PackSignedDwordOp>, M>(t, Code.Packssdw_mm_mmm64);
        Mmx.Add<Joined<PackUnsignedWordOp>, M>(t, Code.Packuswb_mm_mmm64);
        Mmx.Add<MmxShuffleBytesOp, M>(t, Code.Pshufb_mm_mmm64);
    }

    private static void FillArithmetic<M>(HandlerTable t) where M : struct, IAddressing
    {
        Mmx.Add<Direct<AddOp<byte>>, M>(t, Code.Paddb_mm_mmm64);
        Mmx.Add<Direct<AddOp<ushort>>, M>(t, Code.Paddw_mm_mmm64);
        Mmx.Add<Direct<AddOp<uint>>, M>(t, Code.Paddd_mm_mmm64);
        Mmx.Add<Direct<AddOp<ulong>>, M>(t, Code.Paddq_mm_mmm64);
        Mmx.Add<Direct<SubOp<byte>>, M>(t, Code.Psubb_mm_mmm64);
        Mmx.Add<Direct<SubOp<ushort>>, M>(t, Code.Psubw_mm_mmm64);
        Mmx.Add<Direct<SubOp<uint>>, M>(t, Code.Psubd_mm_mmm64);
        Mmx.Add<Direct<SubOp<ulong>>, M>(t, Code.Psubq_mm_mmm64);
        Mmx.Add<Direct<AddSaturateOp<sbyte>>, M>(t, Code.Paddsb_mm_mmm64);
        Mmx.Add<Direct<AddSaturateOp<short>>, M>(t, Code.Paddsw_mm_mmm64);
        Mmx.Add<Direct<AddSaturateOp<byte>>, M>(t, Code.Paddusb_mm_mmm64);
        Mmx.Add<Direct<AddSaturateOp<ushort>>, M>(t, Code.Paddusw_mm_mmm64);
        Mmx.Add<Direct<SubSaturateOp<sbyte>>, M>(t, Code.Psubsb_mm_mmm64);
        Mmx.Add<Direct<SubSaturateOp<short>>, M>(t, Code.Psubsw_mm_mmm64);
        Mmx.Add<Direct<SubSaturateOp<byte>>, M>(t, Code.Psubusb_mm_mmm64);
        Mmx.Add<Direct<SubSaturateOp<ushort>>, M>(t, Code.Psubusw_mm_mmm64);
        Mmx.Add<Direct<EqualOp<byte>>, M>(t, Code.Pcmpeqb_mm_mmm64);
        Mmx.Add<Direct<EqualOp<ushort>>, M>(t, Code.Pcmpeqw_mm_mmm64);
        Mmx.Add<Direct<EqualOp<uint>>, M>(t, Code.Pcmpeqd_mm_mmm64);
        Mmx.Add<Direct<GreaterOp<sbyte>>, M>(t, Code.Pcmpgtb_mm_mmm64);
        Mmx.Add<Direct<GreaterOp<short>>, M>(t, Code.Pcmpgtw_mm_mmm64);
        Mmx.Add<Direct<GreaterOp<int>>, M>(t, Code.Pcmpgtd_mm_mmm64);
        Mmx.Add<Direct<MinOp<byte>>, M>(t, Code.Pminub_mm_mmm64);
        Mmx.Add<Direct<MinOp<short>>, M>(t, Code.Pminsw_mm_mmm64);
        Mmx.Add<Direct<MaxOp<byte>>, M>(t, Code.Pmaxub_mm_mmm64);
        Mmx.Add<Direct<MaxOp<short>>, M>(t, Code.Pmaxsw_mm_mmm64);
        Mmx.Add<Direct<AverageOp<byte>>, M>(t, Code.Pavgb_mm_mmm64);
        Mmx.Add<Direct<AverageOp<ushort>>, M>(t, Code.Pavgw_mm_mmm64);
        Mmx.Add<Direct<AbsOp<sbyte>>, M>(t, Code.Pabsb_mm_mmm64);
        Mmx.Add<Direct<AbsOp<short>>, M>(t, Code.Pabsw_mm_mmm64);
        Mmx.Add<Direct<AbsOp<int>>, M>(t, Code.Pabsd_mm_mmm64);
        Mmx.Add<Direct<SignOp<sbyte>>, M>(t, Code.Psignb_mm_mmm64);
        Mmx.Add<Direct<SignOp<short>>, M>(t, Code.Psignw_mm_mmm64);
        Mmx.Add<Direct<SignOp<int>>, M>(t, Code.Psignd_mm_mmm64);
        Mmx.Add<Direct<MulLowOp<ushort>>, M>(t, Code.Pmullw_mm_mmm64);
        Mmx.Add<Direct<MulHighOp>, M>(t, Code.Pmulhw_mm_mmm64);
        Mmx.Add<Direct<MulHighUnsignedOp>, M>(t, Code.Pmulhuw_mm_mmm64);
        Mmx.Add<Direct<MulHighRoundOp>, M>(t, Code.Pmulhrsw_mm_mmm64);
        Mmx.Add<Direct<MulAddOp>, M>(t, Code.Pmaddwd_mm_mmm64);
        Mmx.Add<Direct<MulAddUnsignedOp>, M>(t, Code.Pmaddubsw_mm_mmm64);
        Mmx.Add<Direct<MulUnsignedWideOp>, M>(t, Code.Pmuludq_mm_mmm64);
        Mmx.Add<Direct<SadOp>, M>(t, Code.Psadbw_mm_mmm64);
        Mmx.Add<Joined<HorizontalAddWordOp>, M>(t, Code.Phaddw_mm_mmm64);
        Mmx.Add<Joined<HorizontalAddDwordOp>, M>(t, Code.Phaddd_mm_mmm64);
        Mmx.Add<Joined<HorizontalAddSaturateOp>, M>(t, Code.Phaddsw_mm_mmm64);
        Mmx.Add<Joined<HorizontalSubWordOp>, M>(t, Code.Phsubw_mm_mmm64);
        Mmx.Add<Joined<HorizontalSubDwordOp>, M>(t, Code.Phsubd_mm_mmm64);
        Mmx.Add<Joined<HorizontalSubSaturateOp>, M>(t, Code.Phsubsw_mm_mmm64);
        Mmx.Add<Direct<AndOp>, M>(t, Code.Pand_mm_mmm64);
        Mmx.Add<Direct<AndNotOp>, M>(t, Code.Pandn_mm_mmm64);
        Mmx.Add<Direct<OrOp>, M>(t, Code.Por_mm_mmm64);
        Mmx.Add<Direct<XorOp>, M>(t, Code.Pxor_mm_mmm64);
        Mmx.AddShift<ShiftLeftOp<ushort>, M>(t, Code.Psllw_mm_mmm64, Code.Psllw_mm_imm8);
        Mmx.AddShift<ShiftLeftOp<uint>, M>(t, Code.Pslld_mm_mmm64, Code.Pslld_mm_imm8);
        Mmx.AddShift<ShiftLeftOp<ulong>, M>(t, Code.Psllq_mm_mmm64, Code.Psllq_mm_imm8);
        Mmx.AddShift<ShiftRightOp<ushort>, M>(t, Code.Psrlw_mm_mmm64, Code.Psrlw_mm_imm8);
        Mmx.AddShift<ShiftRightOp<uint>, M>(t, Code.Psrld_mm_mmm64, Code.Psrld_mm_imm8);
        Mmx.AddShift<ShiftRightOp<ulong>, M>(t, Code.Psrlq_mm_mmm64, Code.Psrlq_mm_imm8);
        Mmx.AddShift<ShiftArithmeticOp<short>, M>(t, Code.Psraw_mm_mmm64, Code.Psraw_mm_imm8);
        Mmx.AddShift<ShiftArithmeticOp<int>, M>(t, Code.Psrad_mm_mmm64, Code.Psrad_mm_imm8);
    }
}
