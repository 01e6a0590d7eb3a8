using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>SSE to SSE4.2, AES and PCLMULQDQ in their legacy encodings.</summary>
internal static unsafe class SseTable
{
    /// <summary>Enters all of them.</summary>
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        FillMoves<M>(t);
        FillElements<M>(t);
        FillInteger<M>(t);
        FillShuffles<M>(t);
        FillShifts<M>(t);
        FillCipher<M>(t);
        SseFloatTable.Fill<M>(t);
        StringTable.Fill<M>(t);
    }

    private static void FillMoves<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Movups_xmm_xmmm128, &Moves.Copy, &Moves.Load<M>);
        t.Add(Code.Movupd_xmm_xmmm128, &Moves.Copy, &Moves.Load<M>);
        t.Add(Code.Movdqu_xmm_xmmm128, &Moves.Copy, &Moves.Load<M>);
        t.Add(Code.Lddqu_xmm_m128, null, &Moves.Load<M>);
        t.Add(Code.Movaps_xmm_xmmm128, &Moves.Copy, &Moves.LoadAligned<M>);
        t.Add(Code.Movapd_xmm_xmmm128, &Moves.Copy, &Moves.LoadAligned<M>);
        t.Add(Code.Movdqa_xmm_xmmm128, &Moves.Copy, &Moves.LoadAligned<M>);
        t.Add(Code.Movntdqa_xmm_m128, null, &Moves.LoadAligned<M>);
        t.Add(Code.Movups_xmmm128_xmm, &Moves.Copy, &Moves.Store<M>);
        t.Add(Code.Movupd_xmmm128_xmm, &Moves.Copy, &Moves.Store<M>);
        t.Add(Code.Movdqu_xmmm128_xmm, &Moves.Copy, &Moves.Store<M>);
        t.Add(Code.Movaps_xmmm128_xmm, &Moves.Copy, &Moves.StoreAligned<M>);
        t.Add(Code.Movapd_xmmm128_xmm, &Moves.Copy, &Moves.StoreAligned<M>);
        t.Add(Code.Movdqa_xmmm128_xmm, &Moves.Copy, &Moves.StoreAligned<M>);
        t.Add(Code.Movntps_m128_xmm, null, &Moves.StoreAligned<M>);
        t.Add(Code.Movntpd_m128_xmm, null, &Moves.StoreAligned<M>);
        t.Add(Code.Movntdq_m128_xmm, null, &Moves.StoreAligned<M>);

        t.Add(Code.Movss_xmm_xmmm32, &Moves.CopyLow<uint>, &Moves.LoadLowZero<uint, M>);
        t.Add(Code.Movsd_xmm_xmmm64, &Moves.CopyLow<ulong>, &Moves.LoadLowZero<ulong, M>);
        t.Add(Code.Movss_xmmm32_xmm, &Moves.CopyLow<uint>, &Moves.StoreLow<uint, M>);
        t.Add(Code.Movsd_xmmm64_xmm, &Moves.CopyLow<ulong>, &Moves.StoreLow<ulong, M>);
        t.Add(Code.Movq_xmm_xmmm64, &Moves.CopyLowZero, &Moves.LoadLowZero<ulong, M>);
        t.Add(Code.Movq_xmmm64_xmm, &Moves.CopyLowZero, &Moves.StoreLow<ulong, M>);
        t.Add(Code.Movd_xmm_rm32, &Moves.FromGeneral<uint>, &Moves.LoadLowZero<uint, M>);
        t.Add(Code.Movq_xmm_rm64, &Moves.FromGeneral<ulong>, &Moves.LoadLowZero<ulong, M>);
        t.Add(Code.Movd_rm32_xmm, &Moves.ToGeneral<uint>, &Moves.StoreLow<uint, M>);
        t.Add(Code.Movq_rm64_xmm, &Moves.ToGeneral<ulong>, &Moves.StoreLow<ulong, M>);
        t.Add(Code.Movnti_m32_r32, null, &Moves.StoreLow<uint, M>);
        t.Add(Code.Movnti_m64_r64, null, &Moves.StoreLow<ulong, M>);

        t.Add(Code.Movhlps_xmm_xmm, &Moves.HighToLow, null);
        t.Add(Code.Movlhps_xmm_xmm, &Moves.LowToHigh, null);
        t.Add(Code.Movlps_xmm_m64, null, &Moves.LoadLowHalf<M>);
        t.Add(Code.Movlpd_xmm_m64, null, &Moves.LoadLowHalf<M>);
        t.Add(Code.Movhps_xmm_m64, null, &Moves.LoadHighHalf<M>);
        t.Add(Code.Movhpd_xmm_m64, null, &Moves.LoadHighHalf<M>);
        t.Add(Code.Movlps_m64_xmm, null, &Moves.StoreLow<ulong, M>);
        t.Add(Code.Movlpd_m64_xmm, null, &Moves.StoreLow<ulong, M>);
        t.Add(Code.Movhps_m64_xmm, null, &Moves.StoreHighHalf<M>);
        t.Add(Code.Movhpd_m64_xmm, null, &Moves.StoreHighHalf<M>);
        Packed.Add<DuplicateEvenOp, M>(t, Code.Movsldup_xmm_xmmm128);
        Packed.Add<DuplicateOddOp, M>(t, Code.Movshdup_xmm_xmmm128);
        Packed.AddLow<DuplicateLowOp, ulong, M>(t, Code.Movddup_xmm_xmmm64);
        t.Add(Code.Maskmovdqu_rDI_xmm_xmm, &Moves.MaskedStore<M>);
    }

    private static void FillElements<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Movmskps_r32_xmm, &Moves.Mask<float>, null);
        t.Add(Code.Movmskps_r64_xmm, &Moves.Mask<float>, null);
        t.Add(Code.Movmskpd_r32_xmm, &Moves.Mask<double>, null);
        t.Add(Code.Movmskpd_r64_xmm, &Moves.Mask<double>, null);
        t.Add(Code.Pmovmskb_r32_xmm, &Moves.Mask<byte>, null);
        t.Add(Code.Pmovmskb_r64_xmm, &Moves.Mask<byte>, null);
        t.Add(Code.Pextrw_r32_xmm_imm8, &Moves.Extract<ushort>, null);
        t.Add(Code.Pextrw_r64_xmm_imm8, &Moves.Extract<ushort>, null);
        t.Add(Code.Pextrb_r32m8_xmm_imm8, &Moves.Extract<byte>, &Moves.ExtractMemory<byte, M>);
        t.Add(Code.Pextrb_r64m8_xmm_imm8, &Moves.Extract<byte>, &Moves.ExtractMemory<byte, M>);
        t.Add(Code.Pextrw_r32m16_xmm_imm8, &Moves.Extract<ushort>, &Moves.ExtractMemory<ushort, M>);
        t.Add(Code.Pextrw_r64m16_xmm_imm8, &Moves.Extract<ushort>, &Moves.ExtractMemory<ushort, M>);
        t.Add(Code.Pextrd_rm32_xmm_imm8, &Moves.Extract<uint>, &Moves.ExtractMemory<uint, M>);
        t.Add(Code.Pextrq_rm64_xmm_imm8, &Moves.Extract<ulong>, &Moves.ExtractMemory<ulong, M>);
        t.Add(Code.Extractps_rm32_xmm_imm8, &Moves.Extract<uint>, &Moves.ExtractMemory<uint, M>);
        t.Add(Code.Extractps_r64m32_xmm_imm8, &Moves.Extract<uint>, &Moves.ExtractMemory<uint, M>);
        t.Add(Code.Pinsrb_xmm_r32m8_imm8, &Moves.Insert<byte>, &Moves.InsertMemory<byte, M>);
        t.Add(Code.Pinsrb_xmm_r64m8_imm8, &Moves.Insert<byte>, &Moves.InsertMemory<byte, M>);
        t.Add(Code.Pinsrw_xmm_r32m16_imm8, &Moves.Insert<ushort>, &Moves.InsertMemory<ushort, M>);
        t.Add(Code.Pinsrw_xmm_r64m16_imm8, &Moves.Insert<ushort>, &Moves.InsertMemory<ushort, M>);
        t.Add(Code.Pinsrd_xmm_rm32_imm8, &Moves.Insert<uint>, &Moves.InsertMemory<uint, M>);
        t.Add(Code.Pinsrq_xmm_rm64_imm8, &Moves.Insert<ulong>, &Moves.InsertMemory<ulong, M>);
        t.Add(Code.Insertps_xmm_xmmm32_imm8, &Packed.RegisterImmediate<InsertSingleOp>, &Packed.MemoryLowImmediate<InsertSingleMemoryOp, uint, M>);
        t.Add(Code.Pblendvb_xmm_xmmm128, &Blends.Register<sbyte>, &Blends.Memory<sbyte, M>);
        t.Add(Code.Blendvps_xmm_xmmm128, &Blends.Register<int>, &Blends.Memory<int, M>);
        t.Add(Code.Blendvpd_xmm_xmmm128, &Blends.Register<long>, &Blends.Memory<long, M>);
        t.Add(Code.Ptest_xmm_xmmm128, &Blends.Test, &Blends.TestMemory<M>);
    }

    private static void FillInteger<M>(HandlerTable t) where M : struct, IAddressing
    {
        Packed.Add<AddOp<byte>, M>(t, Code.Paddb_xmm_xmmm128);
        Packed.Add<AddOp<ushort>, M>(t, Code.Paddw_xmm_xmmm128);
        Packed.Add<AddOp<uint>, M>(t, Code.Paddd_xmm_xmmm128);
        Packed.Add<AddOp<ulong>, M>(t, Code.Paddq_xmm_xmmm128);
        Packed.Add<SubOp<byte>, M>(t, Code.Psubb_xmm_xmmm128);
        Packed.Add<SubOp<ushort>, M>(t, Code.Psubw_xmm_xmmm128);
        Packed.Add<SubOp<uint>, M>(t, Code.Psubd_xmm_xmmm128);
        Packed.Add<SubOp<ulong>, M>(t, Code.Psubq_xmm_xmmm128);
        Packed.Add<AddSaturateOp<sbyte>, M>(t, Code.Paddsb_xmm_xmmm128);
        Packed.Add<AddSaturateOp<short>, M>(t, Code.Paddsw_xmm_xmmm128);
        Packed.Add<AddSaturateOp<byte>, M>(t, Code.Paddusb_xmm_xmmm128);
        Packed.Add<AddSaturateOp<ushort>, M>(t, Code.Paddusw_xmm_xmmm128);
        Packed.Add<SubSaturateOp<sbyte>, M>(t, Code.Psubsb_xmm_xmmm128);
        Packed.Add<SubSaturateOp<short>, M>(t, Code.Psubsw_xmm_xmmm128);
        Packed.Add<SubSaturateOp<byte>, M>(t, Code.Psubusb_xmm_xmmm128);
        Packed.Add<SubSaturateOp<ushort>, M>(t, Code.Psubusw_xmm_xmmm128);
        Packed.Add<EqualOp<byte>, M>(t, Code.Pcmpeqb_xmm_xmmm128);
        Packed.Add<EqualOp<ushort>, M>(t, Code.Pcmpeqw_xmm_xmmm128);
        Packed.Add<EqualOp<uint>, M>(t, Code.Pcmpeqd_xmm_xmmm128);
        Packed.Add<EqualOp<ulong>, M>(t, Code.Pcmpeqq_xmm_xmmm128);
        Packed.Add<GreaterOp<sbyte>, M>(t, Code.Pcmpgtb_xmm_xmmm128);
        Packed.Add<GreaterOp<short>, M>(t, Code.Pcmpgtw_xmm_xmmm128);
        Packed.Add<GreaterOp<int>, M>(t, Code.Pcmpgtd_xmm_xmmm128);
        Packed.Add<GreaterOp<long>, M>(t, Code.Pcmpgtq_xmm_xmmm128);
        Packed.Add<MinOp<byte>, M>(t, Code.Pminub_xmm_xmmm128);
        Packed.Add<MinOp<sbyte>, M>(t, Code.Pminsb_xmm_xmmm128);
        Packed.Add<MinOp<short>, M>(t, Code.Pminsw_xmm_xmmm128);
        Packed.Add<MinOp<ushort>, M>(t, Code.Pminuw_xmm_xmmm128);
        Packed.Add<MinOp<int>, M>(t, Code.Pminsd_xmm_xmmm128);
        Packed.Add<MinOp<uint>, M>(t, Code.Pminud_xmm_xmmm128);
        Packed.Add<MaxOp<byte>, M>(t, Code.Pmaxub_xmm_xmmm128);
        Packed.Add<MaxOp<sbyte>, M>(t, Code.Pmaxsb_xmm_xmmm128);
        Packed.Add<MaxOp<short>, M>(t, Code.Pmaxsw_xmm_xmmm128);
        Packed.Add<MaxOp<ushort>, M>(t, Code.Pmaxuw_xmm_xmmm128);
        Packed.Add<MaxOp<int>, M>(t, Code.Pmaxsd_xmm_xmmm128);
        Packed.Add<MaxOp<uint>, M>(t, Code.Pmaxud_xmm_xmmm128);
        Packed.Add<AverageOp<byte>, M>(t, Code.Pavgb_xmm_xmmm128);
        Packed.Add<AverageOp<ushort>, M>(t, Code.Pavgw_xmm_xmmm128);
        Packed.Add<AbsOp<sbyte>, M>(t, Code.Pabsb_xmm_xmmm128);
        Packed.Add<AbsOp<short>, M>(t, Code.Pabsw_xmm_xmmm128);
        Packed.Add<AbsOp<int>, M>(t, Code.Pabsd_xmm_xmmm128);
        Packed.Add<SignOp<sbyte>, M>(t, Code.Psignb_xmm_xmmm128);
        Packed.Add<SignOp<short>, M>(t, Code.Psignw_xmm_xmmm128);
        Packed.Add<SignOp<int>, M>(t, Code.Psignd_xmm_xmmm128);
        Packed.Add<MulLowOp<ushort>, M>(t, Code.Pmullw_xmm_xmmm128);
        Packed.Add<MulLowOp<uint>, M>(t, Code.Pmulld_xmm_xmmm128);
        Packed.Add<MulHighOp, M>(t, Code.Pmulhw_xmm_xmmm128);
        Packed.Add<MulHighUnsignedOp, M>(t, Code.Pmulhuw_xmm_xmmm128);
        Packed.Add<MulHighRoundOp, M>(t, Code.Pmulhrsw_xmm_xmmm128);
        Packed.Add<MulAddOp, M>(t, Code.Pmaddwd_xmm_xmmm128);
        Packed.Add<MulAddUnsignedOp, M>(t, Code.Pmaddubsw_xmm_xmmm128);
        Packed.Add<MulUnsignedWideOp, M>(t, Code.Pmuludq_xmm_xmmm128);
        Packed.Add<MulWideOp, M>(t, Code.Pmuldq_xmm_xmmm128);
        Packed.Add<SadOp, M>(t, Code.Psadbw_xmm_xmmm128);
        Packed.AddImmediate<MultipleSadOp, M>(t, Code.Mpsadbw_xmm_xmmm128_imm8);
        Packed.Add<MinPositionOp, M>(t, Code.Phminposuw_xmm_xmmm128);
        Packed.Add<HorizontalAddWordOp, M>(t, Code.Phaddw_xmm_xmmm128);
        Packed.Add<HorizontalAddDwordOp, M>(t, Code.Phaddd_xmm_xmmm128);
        Packed.Add<HorizontalAddSaturateOp, M>(t, Code.Phaddsw_xmm_xmmm128);
        Packed.Add<HorizontalSubWordOp, M>(t, Code.Phsubw_xmm_xmmm128);
        Packed.Add<HorizontalSubDwordOp, M>(t, Code.Phsubd_xmm_xmmm128);
        Packed.Add<HorizontalSubSaturateOp, M>(t, Code.Phsubsw_xmm_xmmm128);
        Packed.Add<AndOp, M>(t, Code.Pand_xmm_xmmm128);
        Packed.Add<AndNotOp, M>(t, Code.Pandn_xmm_xmmm128);
        Packed.Add<OrOp, M>(t, Code.Por_xmm_xmmm128);
        Packed.Add<XorOp, M>(t, Code.Pxor_xmm_xmmm128);
        Packed.Add<AndOp, M>(t, Code.Andps_xmm_xmmm128);
        Packed.Add<AndOp, M>(t, Code.Andpd_xmm_xmmm128);
        Packed.Add<AndNotOp, M>(t, Code.Andnps_xmm_xmmm128);
        Packed.Add<AndNotOp, M>(t, Code.Andnpd_xmm_xmmm128);
        Packed.Add<OrOp, M>(t, Code.Orps_xmm_xmmm128);
        Packed.Add<OrOp, M>(t, Code.Orpd_xmm_xmmm128);
        Packed.Add<XorOp, M>(t, Code.Xorps_xmm_xmmm128);
        Packed.Add<XorOp, M>(t, Code.Xorpd_xmm_xmmm128);
    }

    private static void FillShuffles<M>(HandlerTable t) where M : struct, IAddressing
    {
        Packed.Add<PackSignedWordOp, M>(t, Code.Packsswb_xmm_xmmm128);
        Packed.Add<PackSignedDwordOp, M>(t, Code.Packssdw_xmm_xmmm128);
        Packed.Add<PackUnsignedWordOp, M>(t, Code.Packuswb_xmm_xmmm128);
        Packed.Add<PackUnsignedDwordOp, M>(t, Code.Packusdw_xmm_xmmm128);
        Packed.Add<UnpackLowByteOp, M>(t, Code.Punpcklbw_xmm_xmmm128);
        Packed.Add<UnpackLowWordOp, M>(t, Code.Punpcklwd_xmm_xmmm128);
        Packed.Add<UnpackLowDwordOp, M>(t, Code.Punpckldq_xmm_xmmm128);
        Packed.Add<UnpackLowQwordOp, M>(t, Code.Punpcklqdq_xmm_xmmm128);
        Packed.Add<UnpackHighByteOp, M>(t, Code.Punpckhbw_xmm_xmmm128);
        Packed.Add<UnpackHighWordOp, M>(t, Code.Punpckhwd_xmm_xmmm128);
        Packed.Add<UnpackHighDwordOp, M>(t, Code.Punpckhdq_xmm_xmmm128);
        Packed.Add<UnpackHighQwordOp, M>(t, Code.Punpckhqdq_xmm_xmmm128);
        Packed.Add<UnpackLowDwordOp, M>(t, Code.Unpcklps_xmm_xmmm128);
        Packed.Add<UnpackLowQwordOp, M>(t, Code.Unpcklpd_xmm_xmmm128);
        Packed.Add<UnpackHighDwordOp, M>(t, Code.Unpckhps_xmm_xmmm128);
        Packed.Add<UnpackHighQwordOp, M>(t, Code.Unpckhpd_xmm_xmmm128);
        Packed.Add<ShuffleBytesOp, M>(t, Code.Pshufb_xmm_xmmm128);
        Packed.AddImmediate<ShuffleDwordsOp, M>(t, Code.Pshufd_xmm_xmmm128_imm8);
        Packed.AddImmediate<ShuffleLowWordsOp, M>(t, Code.Pshuflw_xmm_xmmm128_imm8);
        Packed.AddImmediate<ShuffleHighWordsOp, M>(t, Code.Pshufhw_xmm_xmmm128_imm8);
        Packed.AddImmediate<ShuffleSinglesOp, M>(t, Code.Shufps_xmm_xmmm128_imm8);
        Packed.AddImmediate<ShuffleDoublesOp, M>(t, Code.Shufpd_xmm_xmmm128_imm8);
        Packed.AddImmediate<AlignRightOp, M>(t, Code.Palignr_xmm_xmmm128_imm8);
        Packed.AddImmediate<BlendSinglesOp, M>(t, Code.Blendps_xmm_xmmm128_imm8);
        Packed.AddImmediate<BlendDoublesOp, M>(t, Code.Blendpd_xmm_xmmm128_imm8);
        Packed.AddImmediate<BlendWordsOp, M>(t, Code.Pblendw_xmm_xmmm128_imm8);
        Packed.AddLow<ExtendByteWordOp, ulong, M>(t, Code.Pmovsxbw_xmm_xmmm64);
        Packed.AddLow<ExtendByteDwordOp, uint, M>(t, Code.Pmovsxbd_xmm_xmmm32);
        Packed.AddLow<ExtendByteQwordOp, ushort, M>(t, Code.Pmovsxbq_xmm_xmmm16);
        Packed.AddLow<ExtendWordDwordOp, ulong, M>(t, Code.Pmovsxwd_xmm_xmmm64);
        Packed.AddLow<ExtendWordQwordOp, uint, M>(t, Code.Pmovsxwq_xmm_xmmm32);
        Packed.AddLow<ExtendDwordQwordOp, ulong, M>(t, Code.Pmovsxdq_xmm_xmmm64);
        Packed.AddLow<ZeroByteWordOp, ulong, M>(t, Code.Pmovzxbw_xmm_xmmm64);
        Packed.AddLow<ZeroByteDwordOp, uint, M>(t, Code.Pmovzxbd_xmm_xmmm32);
        Packed.AddLow<ZeroByteQwordOp, ushort, M>(t, Code.Pmovzxbq_xmm_xmmm16);
        Packed.AddLow<ZeroWordDwordOp, ulong, M>(t, Code.Pmovzxwd_xmm_xmmm64);
        Packed.AddLow<ZeroWordQwordOp, uint, M>(t, Code.Pmovzxwq_xmm_xmmm32);
        Packed.AddLow<ZeroDwordQwordOp, ulong, M>(t, Code.Pmovzxdq_xmm_xmmm64);
    }

    private static void FillShifts<M>(HandlerTable t) where M : struct, IAddressing
    {
        Packed.AddShift<ShiftLeftOp<ushort>, M>(t, Code.Psllw_xmm_xmmm128, Code.Psllw_xmm_imm8);
        Packed.AddShift<ShiftLeftOp<uint>, M>(t, Code.Pslld_xmm_xmmm128, Code.Pslld_xmm_imm8);
        Packed.AddShift<ShiftLeftOp<ulong>, M>(t, Code.Psllq_xmm_xmmm128, Code.Psllq_xmm_imm8);
        Packed.AddShift<ShiftRightOp<ushort>, M>(t, Code.Psrlw_xmm_xmmm128, Code.Psrlw_xmm_imm8);
        Packed.AddShift<ShiftRightOp<uint>, M>(t, Code.Psrld_xmm_xmmm128, Code.Psrld_xmm_imm8);
        Packed.AddShift<ShiftRightOp<ulong>, M>(t, Code.Psrlq_xmm_xmmm128, Code.Psrlq_xmm_imm8);
        Packed.AddShift<ShiftArithmeticOp<short>, M>(t, Code.Psraw_xmm_xmmm128, Code.Psraw_xmm_imm8);
        Packed.AddShift<ShiftArithmeticOp<int>, M>(t, Code.Psrad_xmm_xmmm128, Code.Psrad_xmm_imm8);
        Packed.AddShift<ShiftLeftBytesOp>(t, Code.Pslldq_xmm_imm8);
        Packed.AddShift<ShiftRightBytesOp>(t, Code.Psrldq_xmm_imm8);
    }

    private static void FillCipher<M>(HandlerTable t) where M : struct, IAddressing
    {
        Packed.Add<AesEncryptOp, M>(t, Code.Aesenc_xmm_xmmm128);
        Packed.Add<AesEncryptLastOp, M>(t, Code.Aesenclast_xmm_xmmm128);
        Packed.Add<AesDecryptOp, M>(t, Code.Aesdec_xmm_xmmm128);
        Packed.Add<AesDecryptLastOp, M>(t, Code.Aesdeclast_xmm_xmmm128);
        Packed.Add<AesInverseMixOp, M>(t, Code.Aesimc_xmm_xmmm128);
        Packed.AddImmediate<AesKeyAssistOp, M>(t, Code.Aeskeygenassist_xmm_xmmm128_imm8);
        Packed.AddImmediate<CarrylessMultiplyOp, M>(t, Code.Pclmulqdq_xmm_xmmm128_imm8);
    }
}

internal readonly struct DuplicateEvenOp : IPackedOp
{
    public static Vector128<byte> Apply(Vector128<byte> a, Vector128<byte> b) => Vector128.Shuffle(b.AsUInt32(), Vector128.Create(0u, 0u, 2u, 2u)).AsByte();
}

internal readonly struct DuplicateOddOp : IPackedOp
{
    public static Vector128<byte> Apply(Vector128<byte> a, Vector128<byte> b) => Vector128.Shuffle(b.AsUInt32(), Vector128.Create(1u, 1u, 3u, 3u)).AsByte();
}

internal readonly struct DuplicateLowOp : IPackedOp
{
    public static Vector128<byte> Apply(Vector128<byte> a, Vector128<byte> b) => Vector128.Create(b.GetLower(), b.GetLower());
}
