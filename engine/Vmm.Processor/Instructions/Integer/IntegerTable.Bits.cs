using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

public static unsafe partial class IntegerTable
{
    /// <summary>Shifts, rotates, bit tests, scans and counts.</summary>
    private static void FillBits<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Rol_rm8_1, &Shift.RegOne<Rol, byte>, &Shift.MemOne<Rol, byte, M>);
        table.Add(Code.Rol_rm8_imm8, &Shift.RegImm<Rol, byte>, &Shift.MemImm<Rol, byte, M>);
        table.Add(Code.Rol_rm8_CL, &Shift.RegCl<Rol, byte>, &Shift.MemCl<Rol, byte, M>);
        table.Add(Code.Rol_rm16_1, &Shift.RegOne<Rol, ushort>, &Shift.MemOne<Rol, ushort, M>);
        table.Add(Code.Rol_rm16_imm8, &Shift.RegImm<Rol, ushort>, &Shift.MemImm<Rol, ushort, M>);
        table.Add(Code.Rol_rm16_CL, &Shift.RegCl<Rol, ushort>, &Shift.MemCl<Rol, ushort, M>);
        table.Add(Code.Rol_rm32_1, &Shift.RegOne<Rol, uint>, &Shift.MemOne<Rol, uint, M>);
        table.Add(Code.Rol_rm32_imm8, &Shift.RegImm<Rol, uint>, &Shift.MemImm<Rol, uint, M>);
        table.Add(Code.Rol_rm32_CL, &Shift.RegCl<Rol, uint>, &Shift.MemCl<Rol, uint, M>);
        table.Add(Code.Rol_rm64_1, &Shift.RegOne<Rol, ulong>, &Shift.MemOne<Rol, ulong, M>);
        table.Add(Code.Rol_rm64_imm8, &Shift.RegImm<Rol, ulong>, &Shift.MemImm<Rol, ulong, M>);
        table.Add(Code.Rol_rm64_CL, &Shift.RegCl<Rol, ulong>, &Shift.MemCl<Rol, ulong, M>);

        table.Add(Code.Ror_rm8_1, &Shift.RegOne<Ror, byte>, &Shift.MemOne<Ror, byte, M>);
        table.Add(Code.Ror_rm8_imm8, &Shift.RegImm<Ror, byte>, &Shift.MemImm<Ror, byte, M>);
        table.Add(Code.Ror_rm8_CL, &Shift.RegCl<Ror, byte>, &Shift.MemCl<Ror, byte, M>);
        table.Add(Code.Ror_rm16_1, &Shift.RegOne<Ror, ushort>, &Shift.MemOne<Ror, ushort, M>);
        table.Add(Code.Ror_rm16_imm8, &Shift.RegImm<Ror, ushort>, &Shift.MemImm<Ror, ushort, M>);
        table.Add(Code.Ror_rm16_CL, &Shift.RegCl<Ror, ushort>, &Shift.MemCl<Ror, ushort, M>);
        table.Add(Code.Ror_rm32_1, &Shift.RegOne<Ror, uint>, &Shift.MemOne<Ror, uint, M>);
        table.Add(Code.Ror_rm32_imm8, &Shift.RegImm<Ror, uint>, &Shift.MemImm<Ror, uint, M>);
        table.Add(Code.Ror_rm32_CL, &Shift.RegCl<Ror, uint>, &Shift.MemCl<Ror, uint, M>);
        table.Add(Code.Ror_rm64_1, &Shift.RegOne<Ror, ulong>, &Shift.MemOne<Ror, ulong, M>);
        table.Add(Code.Ror_rm64_imm8, &Shift.RegImm<Ror, ulong>, &Shift.MemImm<Ror, ulong, M>);
        table.Add(Code.Ror_rm64_CL, &Shift.RegCl<Ror, ulong>, &Shift.MemCl<Ror, ulong, M>);

        table.Add(Code.Rcl_rm8_1, &Shift.RegOne<Rcl, byte>, &Shift.MemOne<Rcl, byte, M>);
        table.Add(Code.Rcl_rm8_imm8, &Shift.RegImm<Rcl, byte>, &Shift.MemImm<Rcl, byte, M>);
        table.Add(Code.Rcl_rm8_CL, &Shift.RegCl<Rcl, byte>, &Shift.MemCl<Rcl, byte, M>);
        table.Add(Code.Rcl_rm16_1, &Shift.RegOne<Rcl, ushort>, &Shift.MemOne<Rcl, ushort, M>);
        table.Add(Code.Rcl_rm16_imm8, &Shift.RegImm<Rcl, ushort>, &Shift.MemImm<Rcl, ushort, M>);
        table.Add(Code.Rcl_rm16_CL, &Shift.RegCl<Rcl, ushort>, &Shift.MemCl<Rcl, ushort, M>);
        table.Add(Code.Rcl_rm32_1, &Shift.RegOne<Rcl, uint>, &Shift.MemOne<Rcl, uint, M>);
        table.Add(Code.Rcl_rm32_imm8, &Shift.RegImm<Rcl, uint>, &Shift.MemImm<Rcl, uint, M>);
        table.Add(Code.Rcl_rm32_CL, &Shift.RegCl<Rcl, uint>, &Shift.MemCl<Rcl, uint, M>);
        table.Add(Code.Rcl_rm64_1, &Shift.RegOne<Rcl, ulong>, &Shift.MemOne<Rcl, ulong, M>);
        table.Add(Code.Rcl_rm64_imm8, &Shift.RegImm<Rcl, ulong>, &Shift.MemImm<Rcl, ulong, M>);
        table.Add(Code.Rcl_rm64_CL, &Shift.RegCl<Rcl, ulong>, &Shift.MemCl<Rcl, ulong, M>);

        table.Add(Code.Rcr_rm8_1, &Shift.RegOne<Rcr, byte>, &Shift.MemOne<Rcr, byte, M>);
        table.Add(Code.Rcr_rm8_imm8, &Shift.RegImm<Rcr, byte>, &Shift.MemImm<Rcr, byte, M>);
        table.Add(Code.Rcr_rm8_CL, &Shift.RegCl<Rcr, byte>, &Shift.MemCl<Rcr, byte, M>);
        table.Add(Code.Rcr_rm16_1, &Shift.RegOne<Rcr, ushort>, &Shift.MemOne<Rcr, ushort, M>);
        table.Add(Code.Rcr_rm16_imm8, &Shift.RegImm<Rcr, ushort>, &Shift.MemImm<Rcr, ushort, M>);
        table.Add(Code.Rcr_rm16_CL, &Shift.RegCl<Rcr, ushort>, &Shift.MemCl<Rcr, ushort, M>);
        table.Add(Code.Rcr_rm32_1, &Shift.RegOne<Rcr, uint>, &Shift.MemOne<Rcr, uint, M>);
        table.Add(Code.Rcr_rm32_imm8, &Shift.RegImm<Rcr, uint>, &Shift.MemImm<Rcr, uint, M>);
        table.Add(Code.Rcr_rm32_CL, &Shift.RegCl<Rcr, uint>, &Shift.MemCl<Rcr, uint, M>);
        table.Add(Code.Rcr_rm64_1, &Shift.RegOne<Rcr, ulong>, &Shift.MemOne<Rcr, ulong, M>);
        table.Add(Code.Rcr_rm64_imm8, &Shift.RegImm<Rcr, ulong>, &Shift.MemImm<Rcr, ulong, M>);
        table.Add(Code.Rcr_rm64_CL, &Shift.RegCl<Rcr, ulong>, &Shift.MemCl<Rcr, ulong, M>);

        table.Add(Code.Shl_rm8_1, &Shift.RegOne<Shl, byte>, &Shift.MemOne<Shl, byte, M>);
        table.Add(Code.Shl_rm8_imm8, &Shift.RegImm<Shl, byte>, &Shift.MemImm<Shl, byte, M>);
        table.Add(Code.Shl_rm8_CL, &Shift.RegCl<Shl, byte>, &Shift.MemCl<Shl, byte, M>);
        table.Add(Code.Shl_rm16_1, &Shift.RegOne<Shl, ushort>, &Shift.MemOne<Shl, ushort, M>);
        table.Add(Code.Shl_rm16_imm8, &Shift.RegImm<Shl, ushort>, &Shift.MemImm<Shl, ushort, M>);
        table.Add(Code.Shl_rm16_CL, &Shift.RegCl<Shl, ushort>, &Shift.MemCl<Shl, ushort, M>);
        table.Add(Code.Shl_rm32_1, &Shift.RegOne<Shl, uint>, &Shift.MemOne<Shl, uint, M>);
        table.Add(Code.Shl_rm32_imm8, &Shift.RegImm<Shl, uint>, &Shift.MemImm<Shl, uint, M>);
        table.Add(Code.Shl_rm32_CL, &Shift.RegCl<Shl, uint>, &Shift.MemCl<Shl, uint, M>);
        table.Add(Code.Shl_rm64_1, &Shift.RegOne<Shl, ulong>, &Shift.MemOne<Shl, ulong, M>);
        table.Add(Code.Shl_rm64_imm8, &Shift.RegImm<Shl, ulong>, &Shift.MemImm<Shl, ulong, M>);
        table.Add(Code.Shl_rm64_CL, &Shift.RegCl<Shl, ulong>, &Shift.MemCl<Shl, ulong, M>);

        table.Add(Code.Sal_rm8_1, &Shift.RegOne<Shl, byte>, &Shift.MemOne<Shl, byte, M>);
        table.Add(Code.Sal_rm8_imm8, &Shift.RegImm<Shl, byte>, &Shift.MemImm<Shl, byte, M>);
        table.Add(Code.Sal_rm8_CL, &Shift.RegCl<Shl, byte>, &Shift.MemCl<Shl, byte, M>);
        table.Add(Code.Sal_rm16_1, &Shift.RegOne<Shl, ushort>, &Shift.MemOne<Shl, ushort, M>);
        table.Add(Code.Sal_rm16_imm8, &Shift.RegImm<Shl, ushort>, &Shift.MemImm<Shl, ushort, M>);
        table.Add(Code.Sal_rm16_CL, &Shift.RegCl<Shl, ushort>, &Shift.MemCl<Shl, ushort, M>);
        table.Add(Code.Sal_rm32_1, &Shift.RegOne<Shl, uint>, &Shift.MemOne<Shl, uint, M>);
        table.Add(Code.Sal_rm32_imm8, &Shift.RegImm<Shl, uint>, &Shift.MemImm<Shl, uint, M>);
        table.Add(Code.Sal_rm32_CL, &Shift.RegCl<Shl, uint>, &Shift.MemCl<Shl, uint, M>);
        table.Add(Code.Sal_rm64_1, &Shift.RegOne<Shl, ulong>, &Shift.MemOne<Shl, ulong, M>);
        table.Add(Code.Sal_rm64_imm8, &Shift.RegImm<Shl, ulong>, &Shift.MemImm<Shl, ulong, M>);
        table.Add(Code.Sal_rm64_CL, &Shift.RegCl<Shl, ulong>, &Shift.MemCl<Shl, ulong, M>);

        table.Add(Code.Shr_rm8_1, &Shift.RegOne<Shr, byte>, &Shift.MemOne<Shr, byte, M>);
        table.Add(Code.Shr_rm8_imm8, &Shift.RegImm<Shr, byte>, &Shift.MemImm<Shr, byte, M>);
        table.Add(Code.Shr_rm8_CL, &Shift.RegCl<Shr, byte>, &Shift.MemCl<Shr, byte, M>);
        table.Add(Code.Shr_rm16_1, &Shift.RegOne<Shr, ushort>, &Shift.MemOne<Shr, ushort, M>);
        table.Add(Code.Shr_rm16_imm8, &Shift.RegImm<Shr, ushort>, &Shift.MemImm<Shr, ushort, M>);
        table.Add(Code.Shr_rm16_CL, &Shift.RegCl<Shr, ushort>, &Shift.MemCl<Shr, ushort, M>);
        table.Add(Code.Shr_rm32_1, &Shift.RegOne<Shr, uint>, &Shift.MemOne<Shr, uint, M>);
        table.Add(Code.Shr_rm32_imm8, &Shift.RegImm<Shr, uint>, &Shift.MemImm<Shr, uint, M>);
        table.Add(Code.Shr_rm32_CL, &Shift.RegCl<Shr, uint>, &Shift.MemCl<Shr, uint, M>);
        table.Add(Code.Shr_rm64_1, &Shift.RegOne<Shr, ulong>, &Shift.MemOne<Shr, ulong, M>);
        table.Add(Code.Shr_rm64_imm8, &Shift.RegImm<Shr, ulong>, &Shift.MemImm<Shr, ulong, M>);
        table.Add(Code.Shr_rm64_CL, &Shift.RegCl<Shr, ulong>, &Shift.MemCl<Shr, ulong, M>);

        table.Add(Code.Sar_rm8_1, &Shift.RegOne<Sar, byte>, &Shift.MemOne<Sar, byte, M>);
        table.Add(Code.Sar_rm8_imm8, &Shift.RegImm<Sar, byte>, &Shift.MemImm<Sar, byte, M>);
        table.Add(Code.Sar_rm8_CL, &Shift.RegCl<Sar, byte>, &Shift.MemCl<Sar, byte, M>);
        table.Add(Code.Sar_rm16_1, &Shift.RegOne<Sar, ushort>, &Shift.MemOne<Sar, ushort, M>);
        table.Add(Code.Sar_rm16_imm8, &Shift.RegImm<Sar, ushort>, &Shift.MemImm<Sar, ushort, M>);
        table.Add(Code.Sar_rm16_CL, &Shift.RegCl<Sar, ushort>, &Shift.MemCl<Sar, ushort, M>);
        table.Add(Code.Sar_rm32_1, &Shift.RegOne<Sar, uint>, &Shift.MemOne<Sar, uint, M>);
        table.Add(Code.Sar_rm32_imm8, &Shift.RegImm<Sar, uint>, &Shift.MemImm<Sar, uint, M>);
        table.Add(Code.Sar_rm32_CL, &Shift.RegCl<Sar, uint>, &Shift.MemCl<Sar, uint, M>);
        table.Add(Code.Sar_rm64_1, &Shift.RegOne<Sar, ulong>, &Shift.MemOne<Sar, ulong, M>);
        table.Add(Code.Sar_rm64_imm8, &Shift.RegImm<Sar, ulong>, &Shift.MemImm<Sar, ulong, M>);
        table.Add(Code.Sar_rm64_CL, &Shift.RegCl<Sar, ulong>, &Shift.MemCl<Sar, ulong, M>);

        table.Add(Code.Shld_rm16_r16_imm8, &DoubleShift.RegImm<Shld, ushort>, &DoubleShift.MemImm<Shld, ushort, M>);
        table.Add(Code.Shld_rm16_r16_CL, &DoubleShift.RegCl<Shld, ushort>, &DoubleShift.MemCl<Shld, ushort, M>);
        table.Add(Code.Shld_rm32_r32_imm8, &DoubleShift.RegImm<Shld, uint>, &DoubleShift.MemImm<Shld, uint, M>);
        table.Add(Code.Shld_rm32_r32_CL, &DoubleShift.RegCl<Shld, uint>, &DoubleShift.MemCl<Shld, uint, M>);
        table.Add(Code.Shld_rm64_r64_imm8, &DoubleShift.RegImm<Shld, ulong>, &DoubleShift.MemImm<Shld, ulong, M>);
        table.Add(Code.Shld_rm64_r64_CL, &DoubleShift.RegCl<Shld, ulong>, &DoubleShift.MemCl<Shld, ulong, M>);
        table.Add(Code.Shrd_rm16_r16_imm8, &DoubleShift.RegImm<Shrd, ushort>, &DoubleShift.MemImm<Shrd, ushort, M>);
        table.Add(Code.Shrd_rm16_r16_CL, &DoubleShift.RegCl<Shrd, ushort>, &DoubleShift.MemCl<Shrd, ushort, M>);
        table.Add(Code.Shrd_rm32_r32_imm8, &DoubleShift.RegImm<Shrd, uint>, &DoubleShift.MemImm<Shrd, uint, M>);
        table.Add(Code.Shrd_rm32_r32_CL, &DoubleShift.RegCl<Shrd, uint>, &DoubleShift.MemCl<Shrd, uint, M>);
        table.Add(Code.Shrd_rm64_r64_imm8, &DoubleShift.RegImm<Shrd, ulong>, &DoubleShift.MemImm<Shrd, ulong, M>);
        table.Add(Code.Shrd_rm64_r64_CL, &DoubleShift.RegCl<Shrd, ulong>, &DoubleShift.MemCl<Shrd, ulong, M>);

        table.Add(Code.Bt_rm16_r16, &BitTest.RegReg<BitTestOnly, ushort>, &BitTest.MemReg<BitTestOnly, ushort, M>);
        table.Add(Code.Bt_rm16_imm8, &BitTest.RegImm<BitTestOnly, ushort>, &BitTest.MemImm<BitTestOnly, ushort, M>);
        table.Add(Code.Bt_rm32_r32, &BitTest.RegReg<BitTestOnly, uint>, &BitTest.MemReg<BitTestOnly, uint, M>);
        table.Add(Code.Bt_rm32_imm8, &BitTest.RegImm<BitTestOnly, uint>, &BitTest.MemImm<BitTestOnly, uint, M>);
        table.Add(Code.Bt_rm64_r64, &BitTest.RegReg<BitTestOnly, ulong>, &BitTest.MemReg<BitTestOnly, ulong, M>);
        table.Add(Code.Bt_rm64_imm8, &BitTest.RegImm<BitTestOnly, ulong>, &BitTest.MemImm<BitTestOnly, ulong, M>);
        table.Add(Code.Bts_rm16_r16, &BitTest.RegReg<BitSet, ushort>, &BitTest.MemReg<BitSet, ushort, M>);
        table.Add(Code.Bts_rm16_imm8, &BitTest.RegImm<BitSet, ushort>, &BitTest.MemImm<BitSet, ushort, M>);
        table.Add(Code.Bts_rm32_r32, &BitTest.RegReg<BitSet, uint>, &BitTest.MemReg<BitSet, uint, M>);
        table.Add(Code.Bts_rm32_imm8, &BitTest.RegImm<BitSet, uint>, &BitTest.MemImm<BitSet, uint, M>);
        table.Add(Code.Bts_rm64_r64, &BitTest.RegReg<BitSet, ulong>, &BitTest.MemReg<BitSet, ulong, M>);
        table.Add(Code.Bts_rm64_imm8, &BitTest.RegImm<BitSet, ulong>, &BitTest.MemImm<BitSet, ulong, M>);
        table.Add(Code.Btr_rm16_r16, &BitTest.RegReg<BitReset, ushort>, &BitTest.MemReg<BitReset, ushort, M>);
        table.Add(Code.Btr_rm16_imm8, &BitTest.RegImm<BitReset, ushort>, &BitTest.MemImm<BitReset, ushort, M>);
        table.Add(Code.Btr_rm32_r32, &BitTest.RegReg<BitReset, uint>, &BitTest.MemReg<BitReset, uint, M>);
        table.Add(Code.Btr_rm32_imm8, &BitTest.RegImm<BitReset, uint>, &BitTest.MemImm<BitReset, uint, M>);
        table.Add(Code.Btr_rm64_r64, &BitTest.RegReg<BitReset, ulong>, &BitTest.MemReg<BitReset, ulong, M>);
        table.Add(Code.Btr_rm64_imm8, &BitTest.RegImm<BitReset, ulong>, &BitTest.MemImm<BitReset, ulong, M>);
        table.Add(Code.Btc_rm16_r16, &BitTest.RegReg<BitComplement, ushort>, &BitTest.MemReg<BitComplement, ushort, M>);
        table.Add(Code.Btc_rm16_imm8, &BitTest.RegImm<BitComplement, ushort>, &BitTest.MemImm<BitComplement, ushort, M>);
        table.Add(Code.Btc_rm32_r32, &BitTest.RegReg<BitComplement, uint>, &BitTest.MemReg<BitComplement, uint, M>);
        table.Add(Code.Btc_rm32_imm8, &BitTest.RegImm<BitComplement, uint>, &BitTest.MemImm<BitComplement, uint, M>);
        table.Add(Code.Btc_rm64_r64, &BitTest.RegReg<BitComplement, ulong>, &BitTest.MemReg<BitComplement, ulong, M>);
        table.Add(Code.Btc_rm64_imm8, &BitTest.RegImm<BitComplement, ulong>, &BitTest.MemImm<BitComplement, ulong, M>);

        table.Add(Code.Bsf_r16_rm16, &BitCount.ScanReg<ScanForward, ushort>, &BitCount.ScanMem<ScanForward, ushort, M>);
        table.Add(Code.Bsf_r32_rm32, &BitCount.ScanReg<ScanForward, uint>, &BitCount.ScanMem<ScanForward, uint, M>);
        table.Add(Code.Bsf_r64_rm64, &BitCount.ScanReg<ScanForward, ulong>, &BitCount.ScanMem<ScanForward, ulong, M>);
        table.Add(Code.Bsr_r16_rm16, &BitCount.ScanReg<ScanReverse, ushort>, &BitCount.ScanMem<ScanReverse, ushort, M>);
        table.Add(Code.Bsr_r32_rm32, &BitCount.ScanReg<ScanReverse, uint>, &BitCount.ScanMem<ScanReverse, uint, M>);
        table.Add(Code.Bsr_r64_rm64, &BitCount.ScanReg<ScanReverse, ulong>, &BitCount.ScanMem<ScanReverse, ulong, M>);
        table.Add(Code.Popcnt_r16_rm16, &BitCount.Reg<PopulationCount, ushort>, &BitCount.Mem<PopulationCount, ushort, M>);
        table.Add(Code.Popcnt_r32_rm32, &BitCount.Reg<PopulationCount, uint>, &BitCount.Mem<PopulationCount, uint, M>);
        table.Add(Code.Popcnt_r64_rm64, &BitCount.Reg<PopulationCount, ulong>, &BitCount.Mem<PopulationCount, ulong, M>);
        table.Add(Code.Crc32_r32_rm8, &BitCount.CrcReg<byte>, &BitCount.CrcMem<byte, M>);
        table.Add(Code.Crc32_r32_rm16, &BitCount.CrcReg<ushort>, &BitCount.CrcMem<ushort, M>);
        table.Add(Code.Crc32_r32_rm32, &BitCount.CrcReg<uint>, &BitCount.CrcMem<uint, M>);
        table.Add(Code.Crc32_r64_rm8, &BitCount.CrcReg<byte>, &BitCount.CrcMem<byte, M>);
        table.Add(Code.Crc32_r64_rm64, &BitCount.CrcReg<ulong>, &BitCount.CrcMem<ulong, M>);
    }
}
