using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.System;

/// <summary>The VMX instructions, and RSM, which is for whoever runs the guest too.</summary>
internal static unsafe class VmxTable
{
    public static void Fill<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.AddLast(Code.Rsm, &VmxInstructions.ResumeFromSystemManagement);
        table.AddLast(Code.Vmcall, &VmxInstructions.Call);
        table.AddLast(Code.Vmlaunch, &VmxInstructions.Launch);
        table.AddLast(Code.Vmresume, &VmxInstructions.Resume);
        table.AddLast(Code.Vmxoff, &VmxInstructions.Off);
        table.AddLast(Code.Vmxon_m64, null, &VmxInstructions.On);
        table.AddLast(Code.Vmclear_m64, null, &VmxInstructions.Clear);
        table.AddLast(Code.Vmptrld_m64, null, &VmxInstructions.LoadPointer);
        table.AddLast(Code.Vmptrst_m64, null, &VmxInstructions.StorePointer);
        table.AddLast(Code.Invept_r32_m128, null, &VmxInstructions.InvalidateEpt);
        table.AddLast(Code.Invept_r64_m128, null, &VmxInstructions.InvalidateEpt);
        table.AddLast(Code.Invvpid_r32_m128, null, &VmxInstructions.InvalidateVpid);
        table.AddLast(Code.Invvpid_r64_m128, null, &VmxInstructions.InvalidateVpid);
        table.AddLast(Code.Vmfunc, &VmFunctions.Vmfunc);
        table.Add(Code.Vmread_rm32_r32, &ShadowVmcsInstructions.Read<uint>, &ShadowVmcsInstructions.ReadToMemory<uint, M>);
        table.Add(Code.Vmread_rm64_r64, &ShadowVmcsInstructions.Read<ulong>, &ShadowVmcsInstructions.ReadToMemory<ulong, M>);
        table.Add(Code.Vmwrite_r32_rm32, &ShadowVmcsInstructions.Write<uint>, &ShadowVmcsInstructions.WriteFromMemory<uint, M>);
        table.Add(Code.Vmwrite_r64_rm64, &ShadowVmcsInstructions.Write<ulong>, &ShadowVmcsInstructions.WriteFromMemory<ulong, M>);
    }
}
