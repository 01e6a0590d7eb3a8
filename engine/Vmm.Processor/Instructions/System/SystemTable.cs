using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.System;

/// <summary>The system instructions. What is absent here is undefined: GETSEC without CR4.SMXE, the UD instructions, and what CPUID does not offer.</summary>
public static unsafe class SystemTable
{
    /// <summary>Adds every system instruction.</summary>
    public static void Fill<M>(HandlerTable table) where M : struct, IAddressing
    {
        FillSegments<M>(table);
        FillDescriptorTables<M>(table);
        FillControlRegisters<M>(table);
        FillFar<M>(table);
        FillFlags<M>(table);
        FillPorts<M>(table);
        FillProcessor<M>(table);
        VmxTable.Fill<M>(table);
    }

    private static void FillSegments<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Mov_rm16_Sreg, &SegmentInstructions.Store<ushort>, &SegmentInstructions.StoreMemory<M>);
        table.Add(Code.Mov_r32m16_Sreg, &SegmentInstructions.Store<uint>, &SegmentInstructions.StoreMemory<M>);
        table.Add(Code.Mov_r64m16_Sreg, &SegmentInstructions.Store<ulong>, &SegmentInstructions.StoreMemory<M>);
        table.Add(Code.Mov_Sreg_rm16, &SegmentInstructions.Load, &SegmentInstructions.LoadMemory<M>);
        table.Add(Code.Mov_Sreg_r32m16, &SegmentInstructions.Load, &SegmentInstructions.LoadMemory<M>);
        table.Add(Code.Mov_Sreg_r64m16, &SegmentInstructions.Load, &SegmentInstructions.LoadMemory<M>);

        table.Add(Code.Pushw_ES, &SegmentInstructions.Push<ushort, SegmentEs, M>);
        table.Add(Code.Pushd_ES, &SegmentInstructions.Push<uint, SegmentEs, M>);
        table.Add(Code.Pushw_CS, &SegmentInstructions.Push<ushort, SegmentCs, M>);
        table.Add(Code.Pushd_CS, &SegmentInstructions.Push<uint, SegmentCs, M>);
        table.Add(Code.Pushw_SS, &SegmentInstructions.Push<ushort, SegmentSs, M>);
        table.Add(Code.Pushd_SS, &SegmentInstructions.Push<uint, SegmentSs, M>);
        table.Add(Code.Pushw_DS, &SegmentInstructions.Push<ushort, SegmentDs, M>);
        table.Add(Code.Pushd_DS, &SegmentInstructions.Push<uint, SegmentDs, M>);
        table.Add(Code.Pushw_FS, &SegmentInstructions.Push<ushort, SegmentFs, M>);
        table.Add(Code.Pushd_FS, &SegmentInstructions.Push<uint, SegmentFs, M>);
        table.Add(Code.Pushq_FS, &SegmentInstructions.Push<ulong, SegmentFs, M>);
        table.Add(Code.Pushw_GS, &SegmentInstructions.Push<ushort, SegmentGs, M>);
        table.Add(Code.Pushd_GS, &SegmentInstructions.Push<uint, SegmentGs, M>);
        table.Add(Code.Pushq_GS, &SegmentInstructions.Push<ulong, SegmentGs, M>);

        table.Add(Code.Popw_ES, &SegmentInstructions.Pop<ushort, SegmentEs, M>);
        table.Add(Code.Popd_ES, &SegmentInstructions.Pop<uint, SegmentEs, M>);
        table.AddLast(Code.Popw_SS, &SegmentInstructions.Pop<ushort, SegmentSs, M>);
        table.AddLast(Code.Popd_SS, &SegmentInstructions.Pop<uint, SegmentSs, M>);
        table.Add(Code.Popw_DS, &SegmentInstructions.Pop<ushort, SegmentDs, M>);
        table.Add(Code.Popd_DS, &SegmentInstructions.Pop<uint, SegmentDs, M>);
        table.Add(Code.Popw_FS, &SegmentInstructions.Pop<ushort, SegmentFs, M>);
        table.Add(Code.Popd_FS, &SegmentInstructions.Pop<uint, SegmentFs, M>);
        table.Add(Code.Popq_FS, &SegmentInstructions.Pop<ulong, SegmentFs, M>);
        table.Add(Code.Popw_GS, &SegmentInstructions.Pop<ushort, SegmentGs, M>);
        table.Add(Code.Popd_GS, &SegmentInstructions.Pop<uint, SegmentGs, M>);
        table.Add(Code.Popq_GS, &SegmentInstructions.Pop<ulong, SegmentGs, M>);

        table.Add(Code.Les_r16_m1616, null, &SegmentInstructions.LoadPointer<ushort, SegmentEs, M>);
        table.Add(Code.Les_r32_m1632, null, &SegmentInstructions.LoadPointer<uint, SegmentEs, M>);
        table.Add(Code.Lds_r16_m1616, null, &SegmentInstructions.LoadPointer<ushort, SegmentDs, M>);
        table.Add(Code.Lds_r32_m1632, null, &SegmentInstructions.LoadPointer<uint, SegmentDs, M>);
        table.AddLast(Code.Lss_r16_m1616, null, &SegmentInstructions.LoadPointer<ushort, SegmentSs, M>);
        table.AddLast(Code.Lss_r32_m1632, null, &SegmentInstructions.LoadPointer<uint, SegmentSs, M>);
        table.AddLast(Code.Lss_r64_m1664, null, &SegmentInstructions.LoadPointer<ulong, SegmentSs, M>);
        table.Add(Code.Lfs_r16_m1616, null, &SegmentInstructions.LoadPointer<ushort, SegmentFs, M>);
        table.Add(Code.Lfs_r32_m1632, null, &SegmentInstructions.LoadPointer<uint, SegmentFs, M>);
        table.Add(Code.Lfs_r64_m1664, null, &SegmentInstructions.LoadPointer<ulong, SegmentFs, M>);
        table.Add(Code.Lgs_r16_m1616, null, &SegmentInstructions.LoadPointer<ushort, SegmentGs, M>);
        table.Add(Code.Lgs_r32_m1632, null, &SegmentInstructions.LoadPointer<uint, SegmentGs, M>);
        table.Add(Code.Lgs_r64_m1664, null, &SegmentInstructions.LoadPointer<ulong, SegmentGs, M>);
    }

    private static void FillDescriptorTables<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Sgdt_m1632_16, null, &DescriptorTableInstructions.StoreGdt<ushort, M>);
        table.Add(Code.Sgdt_m1632, null, &DescriptorTableInstructions.StoreGdt<uint, M>);
        table.Add(Code.Sgdt_m1664, null, &DescriptorTableInstructions.StoreGdt<ulong, M>);
        table.Add(Code.Sidt_m1632_16, null, &DescriptorTableInstructions.StoreIdt<ushort, M>);
        table.Add(Code.Sidt_m1632, null, &DescriptorTableInstructions.StoreIdt<uint, M>);
        table.Add(Code.Sidt_m1664, null, &DescriptorTableInstructions.StoreIdt<ulong, M>);
        table.Add(Code.Lgdt_m1632_16, null, &DescriptorTableInstructions.LoadGdt<ushort, M>);
        table.Add(Code.Lgdt_m1632, null, &DescriptorTableInstructions.LoadGdt<uint, M>);
        table.Add(Code.Lgdt_m1664, null, &DescriptorTableInstructions.LoadGdt<ulong, M>);
        table.Add(Code.Lidt_m1632_16, null, &DescriptorTableInstructions.LoadIdt<ushort, M>);
        table.Add(Code.Lidt_m1632, null, &DescriptorTableInstructions.LoadIdt<uint, M>);
        table.Add(Code.Lidt_m1664, null, &DescriptorTableInstructions.LoadIdt<ulong, M>);

        table.Add(Code.Sldt_rm16, &DescriptorTableInstructions.StoreLdtr<ushort>, &DescriptorTableInstructions.StoreLdtrMemory<M>);
        table.Add(Code.Sldt_r32m16, &DescriptorTableInstructions.StoreLdtr<uint>, &DescriptorTableInstructions.StoreLdtrMemory<M>);
        table.Add(Code.Sldt_r64m16, &DescriptorTableInstructions.StoreLdtr<ulong>, &DescriptorTableInstructions.StoreLdtrMemory<M>);
        table.Add(Code.Str_rm16, &DescriptorTableInstructions.StoreTr<ushort>, &DescriptorTableInstructions.StoreTrMemory<M>);
        table.Add(Code.Str_r32m16, &DescriptorTableInstructions.StoreTr<uint>, &DescriptorTableInstructions.StoreTrMemory<M>);
        table.Add(Code.Str_r64m16, &DescriptorTableInstructions.StoreTr<ulong>, &DescriptorTableInstructions.StoreTrMemory<M>);
        foreach (Code code in (Code[])[Code.Lldt_rm16, Code.Lldt_r32m16, Code.Lldt_r64m16])
            table.Add(code, &DescriptorTableInstructions.LoadLdtr, &DescriptorTableInstructions.LoadLdtrMemory<M>);
        foreach (Code code in (Code[])[Code.Ltr_rm16, Code.Ltr_r32m16, Code.Ltr_r64m16])
            table.Add(code, &DescriptorTableInstructions.LoadTr, &DescriptorTableInstructions.LoadTrMemory<M>);

        table.Add(Code.Lar_r16_rm16, &DescriptorQueries.Rights<ushort>, &DescriptorQueries.RightsMemory<ushort, M>);
        table.Add(Code.Lar_r32_r32m16, &DescriptorQueries.Rights<uint>, &DescriptorQueries.RightsMemory<uint, M>);
        table.Add(Code.Lar_r64_r64m16, &DescriptorQueries.Rights<ulong>, &DescriptorQueries.RightsMemory<ulong, M>);
        table.Add(Code.Lsl_r16_rm16, &DescriptorQueries.Limit<ushort>, &DescriptorQueries.LimitMemory<ushort, M>);
        table.Add(Code.Lsl_r32_r32m16, &DescriptorQueries.Limit<uint>, &DescriptorQueries.LimitMemory<uint, M>);
        table.Add(Code.Lsl_r64_r64m16, &DescriptorQueries.Limit<ulong>, &DescriptorQueries.LimitMemory<ulong, M>);
        foreach (Code code in (Code[])[Code.Verr_rm16, Code.Verr_r32m16, Code.Verr_r64m16])
            table.Add(code, &DescriptorQueries.VerifyRead, &DescriptorQueries.VerifyReadMemory<M>);
        foreach (Code code in (Code[])[Code.Verw_rm16, Code.Verw_r32m16, Code.Verw_r64m16])
            table.Add(code, &DescriptorQueries.VerifyWrite, &DescriptorQueries.VerifyWriteMemory<M>);
        table.Add(Code.Arpl_rm16_r16, &DescriptorQueries.AdjustRpl, &DescriptorQueries.AdjustRplMemory<M>);
        table.Add(Code.Arpl_r32m16_r32, &DescriptorQueries.AdjustRpl, &DescriptorQueries.AdjustRplMemory<M>);
    }

    private static void FillControlRegisters<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Mov_r32_cr, &ControlRegisterInstructions.Read<uint>);
        table.Add(Code.Mov_r64_cr, &ControlRegisterInstructions.Read<ulong>);
        table.AddLast(Code.Mov_cr_r32, &ControlRegisterInstructions.Write<uint>);
        table.AddLast(Code.Mov_cr_r64, &ControlRegisterInstructions.Write<ulong>);
        table.Add(Code.Mov_r32_dr, &ControlRegisterInstructions.ReadDebug<uint>);
        table.Add(Code.Mov_r64_dr, &ControlRegisterInstructions.ReadDebug<ulong>);
        table.AddLast(Code.Mov_dr_r32, &ControlRegisterInstructions.WriteDebug<uint>);
        table.AddLast(Code.Mov_dr_r64, &ControlRegisterInstructions.WriteDebug<ulong>);
        table.AddLast(Code.Clts, &ControlRegisterInstructions.ClearTaskSwitched);
        table.Add(Code.Smsw_rm16, &ControlRegisterInstructions.StoreStatus<ushort>, &ControlRegisterInstructions.StoreStatusMemory<M>);
        table.Add(Code.Smsw_r32m16, &ControlRegisterInstructions.StoreStatus<uint>, &ControlRegisterInstructions.StoreStatusMemory<M>);
        table.Add(Code.Smsw_r64m16, &ControlRegisterInstructions.StoreStatus<ulong>, &ControlRegisterInstructions.StoreStatusMemory<M>);
        foreach (Code code in (Code[])[Code.Lmsw_rm16, Code.Lmsw_r32m16, Code.Lmsw_r64m16])
            table.AddLast(code, &ControlRegisterInstructions.LoadStatus, &ControlRegisterInstructions.LoadStatusMemory<M>);
    }

    private static void FillFar<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.AddLast(Code.Jmp_ptr1616, &FarInstructions.Jump);
        table.AddLast(Code.Jmp_ptr1632, &FarInstructions.Jump);
        table.AddLast(Code.Jmp_m1616, null, &FarInstructions.JumpMemory<ushort, M>);
        table.AddLast(Code.Jmp_m1632, null, &FarInstructions.JumpMemory<uint, M>);
        table.AddLast(Code.Jmp_m1664, null, &FarInstructions.JumpMemory<ulong, M>);
        table.AddLast(Code.Call_ptr1616, &FarInstructions.Call<ushort>);
        table.AddLast(Code.Call_ptr1632, &FarInstructions.Call<uint>);
        table.AddLast(Code.Call_m1616, null, &FarInstructions.CallMemory<ushort, M>);
        table.AddLast(Code.Call_m1632, null, &FarInstructions.CallMemory<uint, M>);
        table.AddLast(Code.Call_m1664, null, &FarInstructions.CallMemory<ulong, M>);
        table.AddLast(Code.Retfw, &FarInstructions.Return<ushort>);
        table.AddLast(Code.Retfd, &FarInstructions.Return<uint>);
        table.AddLast(Code.Retfq, &FarInstructions.Return<ulong>);
        table.AddLast(Code.Retfw_imm16, &FarInstructions.ReturnRelease<ushort>);
        table.AddLast(Code.Retfd_imm16, &FarInstructions.ReturnRelease<uint>);
        table.AddLast(Code.Retfq_imm16, &FarInstructions.ReturnRelease<ulong>);
        table.AddLast(Code.Iretw, &FarInstructions.InterruptReturn<ushort>);
        table.AddLast(Code.Iretd, &FarInstructions.InterruptReturn<uint>);
        table.AddLast(Code.Iretq, &FarInstructions.InterruptReturn<ulong>);
        table.AddLast(Code.Int_imm8, &FarInstructions.Interrupt);
        table.AddLast(Code.Int3, &FarInstructions.Breakpoint);
        table.AddLast(Code.Into, &FarInstructions.Overflow);
        table.AddLast(Code.Int1, &FarInstructions.Trap);
        table.AddLast(Code.Syscall, &FarInstructions.Syscall);
        table.AddLast(Code.Sysretd, &FarInstructions.Sysret);
        table.AddLast(Code.Sysretq, &FarInstructions.SysretWide);
        table.AddLast(Code.Sysenter, &FarInstructions.Sysenter);
        table.AddLast(Code.Sysexitd, &FarInstructions.Sysexit);
        table.AddLast(Code.Sysexitq, &FarInstructions.SysexitWide);
    }

    private static void FillFlags<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Pushfw, &FlagInstructions.Push<ushort, M>);
        table.Add(Code.Pushfd, &FlagInstructions.Push<uint, M>);
        table.Add(Code.Pushfq, &FlagInstructions.Push<ulong, M>);
        table.AddLast(Code.Popfw, &FlagInstructions.Pop<ushort, M>);
        table.AddLast(Code.Popfd, &FlagInstructions.Pop<uint, M>);
        table.AddLast(Code.Popfq, &FlagInstructions.Pop<ulong, M>);
        table.Add(Code.Cli, &FlagInstructions.ClearInterrupt);
        table.AddLast(Code.Sti, &FlagInstructions.SetInterrupt);
        table.Add(Code.Stac, &FlagInstructions.SetAccess);
        table.Add(Code.Clac, &FlagInstructions.ClearAccess);
    }

    private static void FillPorts<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.In_AL_imm8, &PortInstructions.In<byte>);
        table.Add(Code.In_AX_imm8, &PortInstructions.In<ushort>);
        table.Add(Code.In_EAX_imm8, &PortInstructions.In<uint>);
        table.Add(Code.In_AL_DX, &PortInstructions.InDx<byte>);
        table.Add(Code.In_AX_DX, &PortInstructions.InDx<ushort>);
        table.Add(Code.In_EAX_DX, &PortInstructions.InDx<uint>);
        table.Add(Code.Out_imm8_AL, &PortInstructions.Out<byte>);
        table.Add(Code.Out_imm8_AX, &PortInstructions.Out<ushort>);
        table.Add(Code.Out_imm8_EAX, &PortInstructions.Out<uint>);
        table.Add(Code.Out_DX_AL, &PortInstructions.OutDx<byte>);
        table.Add(Code.Out_DX_AX, &PortInstructions.OutDx<ushort>);
        table.Add(Code.Out_DX_EAX, &PortInstructions.OutDx<uint>);
        table.Add(Code.Insb_m8_DX, &PortInstructions.Ins<byte, M>);
        table.Add(Code.Insw_m16_DX, &PortInstructions.Ins<ushort, M>);
        table.Add(Code.Insd_m32_DX, &PortInstructions.Ins<uint, M>);
        table.Add(Code.Outsb_DX_m8, &PortInstructions.Outs<byte, M>);
        table.Add(Code.Outsw_DX_m16, &PortInstructions.Outs<ushort, M>);
        table.Add(Code.Outsd_DX_m32, &PortInstructions.Outs<uint, M>);
    }

    private static void FillProcessor<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.AddLast(Code.Cpuid, &ProcessorInstructions.Cpuid);
        table.AddLast(Code.Xsetbv, &ProcessorInstructions.Xsetbv);
        table.AddLast(Code.Invd, &ProcessorInstructions.Invd);
        table.Add(Code.Wbinvd, &ProcessorInstructions.Wbinvd);
        table.AddLast(Code.Hlt, &ProcessorInstructions.Halt);
        table.Add(Code.Pause, &WaitInstructions.Pause);
        table.Add(Code.Monitorw, &WaitInstructions.Monitor<ushort, M>);
        table.Add(Code.Monitord, &WaitInstructions.Monitor<uint, M>);
        table.Add(Code.Monitorq, &WaitInstructions.Monitor<ulong, M>);
        table.Add(Code.Mwait, &WaitInstructions.Wait);
        table.Add(Code.Umonitor_r16, &WaitInstructions.UserMonitor<ushort, M>);
        table.Add(Code.Umonitor_r32, &WaitInstructions.UserMonitor<uint, M>);
        table.Add(Code.Umonitor_r64, &WaitInstructions.UserMonitor<ulong, M>);
        table.Add(Code.Umwait_r32, &WaitInstructions.UserWait);
        table.Add(Code.Umwait_r64, &WaitInstructions.UserWait);
        table.Add(Code.Tpause_r32, &WaitInstructions.TimedPause);
        table.Add(Code.Tpause_r64, &WaitInstructions.TimedPause);
        table.AddLast(Code.Rdmsr, &ProcessorInstructions.ReadMsr);
        table.AddLast(Code.Wrmsr, &ProcessorInstructions.WriteMsr);
        table.Add(Code.Rdtsc, &ProcessorInstructions.ReadTimeStamp);
        table.Add(Code.Rdtscp, &ProcessorInstructions.ReadTimeStampAndProcessor);
        table.AddLast(Code.Rdpmc, &ProcessorInstructions.ReadPerformanceCounter);
        table.Add(Code.Rdrand_r16, &ProcessorInstructions.Random<ushort>, null);
        table.Add(Code.Rdrand_r32, &ProcessorInstructions.Random<uint>, null);
        table.Add(Code.Rdrand_r64, &ProcessorInstructions.Random<ulong>, null);
        table.Add(Code.Rdseed_r16, &ProcessorInstructions.Seed<ushort>, null);
        table.Add(Code.Rdseed_r32, &ProcessorInstructions.Seed<uint>, null);
        table.Add(Code.Rdseed_r64, &ProcessorInstructions.Seed<ulong>, null);
        table.Add(Code.Rdfsbase_r32, &ProcessorInstructions.ReadBase<uint, SegmentFs>);
        table.Add(Code.Rdfsbase_r64, &ProcessorInstructions.ReadBase<ulong, SegmentFs>);
        table.Add(Code.Rdgsbase_r32, &ProcessorInstructions.ReadBase<uint, SegmentGs>);
        table.Add(Code.Rdgsbase_r64, &ProcessorInstructions.ReadBase<ulong, SegmentGs>);
        table.Add(Code.Wrfsbase_r32, &ProcessorInstructions.WriteBase<uint, SegmentFs>);
        table.Add(Code.Wrfsbase_r64, &ProcessorInstructions.WriteBase<ulong, SegmentFs>);
        table.Add(Code.Wrgsbase_r32, &ProcessorInstructions.WriteBase<uint, SegmentGs>);
        table.Add(Code.Wrgsbase_r64, &ProcessorInstructions.WriteBase<ulong, SegmentGs>);
        table.Add(Code.Swapgs, &ProcessorInstructions.SwapGs);
        table.AddLast(Code.Invlpg_m, null, &ProcessorInstructions.InvalidatePage<M>);
        table.AddLast(Code.Invpcid_r32_m128, null, &ProcessorInstructions.InvalidatePcid<uint, M>);
        table.AddLast(Code.Invpcid_r64_m128, null, &ProcessorInstructions.InvalidatePcid<ulong, M>);
    }
}
