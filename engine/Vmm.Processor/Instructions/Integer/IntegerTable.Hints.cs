using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

public static unsafe partial class IntegerTable
{
    /// <summary>What has no effect here: NOPs, hints, fences.</summary>
    private static void FillHints<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Nopw, &Move.Nothing);
        table.Add(Code.Nopd, &Move.Nothing);
        table.Add(Code.Nopq, &Move.Nothing);
        table.Add(Code.Nop_rm16, &Move.Nothing);
        table.Add(Code.Nop_rm32, &Move.Nothing);
        table.Add(Code.Nop_rm64, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F0D, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F0D, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F0D, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F18, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F18, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F18, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F19, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F19, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F19, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1A, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1A, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1A, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1B, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1B, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1B, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1C, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1C, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1C, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1D, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1D, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1D, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1E, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1E, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1E, &Move.Nothing);
        table.Add(Code.Reservednop_rm16_r16_0F1F, &Move.Nothing);
        table.Add(Code.Reservednop_rm32_r32_0F1F, &Move.Nothing);
        table.Add(Code.Reservednop_rm64_r64_0F1F, &Move.Nothing);
        table.Add(Code.Endbr32, &Move.Nothing);
        table.Add(Code.Endbr64, &Move.Nothing);
        table.Add(Code.Rdsspd_r32, &Move.Nothing);
        table.Add(Code.Rdsspq_r64, &Move.Nothing);
        table.Add(Code.Prefetchnta_m8, &Move.Nothing);
        table.Add(Code.Prefetcht0_m8, &Move.Nothing);
        table.Add(Code.Prefetcht1_m8, &Move.Nothing);
        table.Add(Code.Prefetcht2_m8, &Move.Nothing);
        table.Add(Code.Prefetch_m8, &Move.Nothing);
        table.Add(Code.Prefetchw_m8, &Move.Nothing);
        table.Add(Code.Prefetchwt1_m8, &Move.Nothing);
        table.Add(Code.Prefetchreserved3_m8, &Move.Nothing);
        table.Add(Code.Prefetchreserved4_m8, &Move.Nothing);
        table.Add(Code.Prefetchreserved5_m8, &Move.Nothing);
        table.Add(Code.Prefetchreserved6_m8, &Move.Nothing);
        table.Add(Code.Prefetchreserved7_m8, &Move.Nothing);
        table.Add(Code.Prefetchit0_m8, &Move.Nothing);
        table.Add(Code.Prefetchit1_m8, &Move.Nothing);
        table.Add(Code.Cldemote_m8, &Move.Nothing);
        table.Add(Code.Lfence, &Move.Nothing);
        table.Add(Code.Lfence_E9, &Move.Nothing);
        table.Add(Code.Lfence_EA, &Move.Nothing);
        table.Add(Code.Lfence_EB, &Move.Nothing);
        table.Add(Code.Lfence_EC, &Move.Nothing);
        table.Add(Code.Lfence_ED, &Move.Nothing);
        table.Add(Code.Lfence_EE, &Move.Nothing);
        table.Add(Code.Lfence_EF, &Move.Nothing);
        table.Add(Code.Mfence, &Move.Nothing);
        table.Add(Code.Mfence_F1, &Move.Nothing);
        table.Add(Code.Mfence_F2, &Move.Nothing);
        table.Add(Code.Mfence_F3, &Move.Nothing);
        table.Add(Code.Mfence_F4, &Move.Nothing);
        table.Add(Code.Mfence_F5, &Move.Nothing);
        table.Add(Code.Mfence_F6, &Move.Nothing);
        table.Add(Code.Mfence_F7, &Move.Nothing);
        table.Add(Code.Sfence, &Move.Nothing);
        table.Add(Code.Sfence_F9, &Move.Nothing);
        table.Add(Code.Sfence_FA, &Move.Nothing);
        table.Add(Code.Sfence_FB, &Move.Nothing);
        table.Add(Code.Sfence_FC, &Move.Nothing);
        table.Add(Code.Sfence_FD, &Move.Nothing);
        table.Add(Code.Sfence_FE, &Move.Nothing);
        table.Add(Code.Sfence_FF, &Move.Nothing);
        table.Add(Code.Clflush_m8, null, &Move.Touch<M>);
    }
}
