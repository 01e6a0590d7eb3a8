using Iced.Intel;

namespace Vmm.Processor.Instructions.System;

/// <summary>The VMX instructions.</summary>
internal static unsafe class VmxTable
{
    public static void Fill(HandlerTable table)
    {
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
        table.AddLast(Code.Vmread_rm32_r32, &VmxInstructions.Read, &VmxInstructions.ReadToMemory);
        table.AddLast(Code.Vmread_rm64_r64, &VmxInstructions.Read, &VmxInstructions.ReadToMemory);
        table.AddLast(Code.Vmwrite_r32_rm32, &VmxInstructions.Write, &VmxInstructions.WriteFromMemory);
        table.AddLast(Code.Vmwrite_r64_rm64, &VmxInstructions.Write, &VmxInstructions.WriteFromMemory);
    }
}
