using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>
/// BMI1, BMI2, LZCNT and ADX: beyond x86-64-v2, for processor models that advertise them. Without BMI1 and LZCNT the decoder
/// must be told to take the encodings of TZCNT and LZCNT for BSF and BSR.
/// </summary>
public static unsafe class BmiTable
{
    /// <summary>Adds the handlers.</summary>
    public static void Fill<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Tzcnt_r16_rm16, &BitCount.Reg<TrailingZeros, ushort>, &BitCount.Mem<TrailingZeros, ushort, M>);
        table.Add(Code.Tzcnt_r32_rm32, &BitCount.Reg<TrailingZeros, uint>, &BitCount.Mem<TrailingZeros, uint, M>);
        table.Add(Code.Tzcnt_r64_rm64, &BitCount.Reg<TrailingZeros, ulong>, &BitCount.Mem<TrailingZeros, ulong, M>);
        table.Add(Code.Lzcnt_r16_rm16, &BitCount.Reg<LeadingZeros, ushort>, &BitCount.Mem<LeadingZeros, ushort, M>);
        table.Add(Code.Lzcnt_r32_rm32, &BitCount.Reg<LeadingZeros, uint>, &BitCount.Mem<LeadingZeros, uint, M>);
        table.Add(Code.Lzcnt_r64_rm64, &BitCount.Reg<LeadingZeros, ulong>, &BitCount.Mem<LeadingZeros, ulong, M>);
        table.Add(Code.VEX_Andn_r32_r32_rm32, &Bmi.Reg<AndNot, uint>, &Bmi.SecondMem<AndNot, uint, M>);
        table.Add(Code.VEX_Blsr_r32_rm32, &Bmi.OneReg<ResetLowest, uint>, &Bmi.OneMem<ResetLowest, uint, M>);
        table.Add(Code.VEX_Blsmsk_r32_rm32, &Bmi.OneReg<MaskToLowest, uint>, &Bmi.OneMem<MaskToLowest, uint, M>);
        table.Add(Code.VEX_Blsi_r32_rm32, &Bmi.OneReg<IsolateLowest, uint>, &Bmi.OneMem<IsolateLowest, uint, M>);
        table.Add(Code.VEX_Bextr_r32_rm32_r32, &Bmi.Reg<ExtractField, uint>, &Bmi.FirstMem<ExtractField, uint, M>);
        table.Add(Code.VEX_Bzhi_r32_rm32_r32, &Bmi.Reg<ZeroHigh, uint>, &Bmi.FirstMem<ZeroHigh, uint, M>);
        table.Add(Code.VEX_Shlx_r32_rm32_r32, &Bmi.Reg<PlainShl, uint>, &Bmi.FirstMem<PlainShl, uint, M>);
        table.Add(Code.VEX_Shrx_r32_rm32_r32, &Bmi.Reg<PlainShr, uint>, &Bmi.FirstMem<PlainShr, uint, M>);
        table.Add(Code.VEX_Sarx_r32_rm32_r32, &Bmi.Reg<PlainSar, uint>, &Bmi.FirstMem<PlainSar, uint, M>);
        table.Add(Code.VEX_Pdep_r32_r32_rm32, &Bmi.Reg<Deposit, uint>, &Bmi.SecondMem<Deposit, uint, M>);
        table.Add(Code.VEX_Pext_r32_r32_rm32, &Bmi.Reg<Extract, uint>, &Bmi.SecondMem<Extract, uint, M>);
        table.Add(Code.VEX_Rorx_r32_rm32_imm8, &Bmi.ImmReg<PlainRor, uint>, &Bmi.ImmMem<PlainRor, uint, M>);
        table.Add(Code.VEX_Mulx_r32_r32_rm32, &Bmi.MulxReg<uint>, &Bmi.MulxMem<uint, M>);
        table.Add(Code.Adcx_r32_rm32, &Bmi.TwoReg<AddCarry, uint>, &Bmi.TwoMem<AddCarry, uint, M>);
        table.Add(Code.Adox_r32_rm32, &Bmi.TwoReg<AddOverflow, uint>, &Bmi.TwoMem<AddOverflow, uint, M>);
        table.Add(Code.VEX_Andn_r64_r64_rm64, &Bmi.Reg<AndNot, ulong>, &Bmi.SecondMem<AndNot, ulong, M>);
        table.Add(Code.VEX_Blsr_r64_rm64, &Bmi.OneReg<ResetLowest, ulong>, &Bmi.OneMem<ResetLowest, ulong, M>);
        table.Add(Code.VEX_Blsmsk_r64_rm64, &Bmi.OneReg<MaskToLowest, ulong>, &Bmi.OneMem<MaskToLowest, ulong, M>);
        table.Add(Code.VEX_Blsi_r64_rm64, &Bmi.OneReg<IsolateLowest, ulong>, &Bmi.OneMem<IsolateLowest, ulong, M>);
        table.Add(Code.VEX_Bextr_r64_rm64_r64, &Bmi.Reg<ExtractField, ulong>, &Bmi.FirstMem<ExtractField, ulong, M>);
        table.Add(Code.VEX_Bzhi_r64_rm64_r64, &Bmi.Reg<ZeroHigh, ulong>, &Bmi.FirstMem<ZeroHigh, ulong, M>);
        table.Add(Code.VEX_Shlx_r64_rm64_r64, &Bmi.Reg<PlainShl, ulong>, &Bmi.FirstMem<PlainShl, ulong, M>);
        table.Add(Code.VEX_Shrx_r64_rm64_r64, &Bmi.Reg<PlainShr, ulong>, &Bmi.FirstMem<PlainShr, ulong, M>);
        table.Add(Code.VEX_Sarx_r64_rm64_r64, &Bmi.Reg<PlainSar, ulong>, &Bmi.FirstMem<PlainSar, ulong, M>);
        table.Add(Code.VEX_Pdep_r64_r64_rm64, &Bmi.Reg<Deposit, ulong>, &Bmi.SecondMem<Deposit, ulong, M>);
        table.Add(Code.VEX_Pext_r64_r64_rm64, &Bmi.Reg<Extract, ulong>, &Bmi.SecondMem<Extract, ulong, M>);
        table.Add(Code.VEX_Rorx_r64_rm64_imm8, &Bmi.ImmReg<PlainRor, ulong>, &Bmi.ImmMem<PlainRor, ulong, M>);
        table.Add(Code.VEX_Mulx_r64_r64_rm64, &Bmi.MulxReg<ulong>, &Bmi.MulxMem<ulong, M>);
        table.Add(Code.Adcx_r64_rm64, &Bmi.TwoReg<AddCarry, ulong>, &Bmi.TwoMem<AddCarry, ulong, M>);
        table.Add(Code.Adox_r64_rm64, &Bmi.TwoReg<AddOverflow, ulong>, &Bmi.TwoMem<AddOverflow, ulong, M>);
    }
}
