using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>VMFUNC (SDM volume 3, section 26.5.6): at every privilege level, and in every mode.</summary>
internal static unsafe class VmFunctions
{
    private const uint EptpSwitching = 0, MostFunctions = 64, ListEntries = 512;

    /// <summary>VMFUNC: EAX selects the function.</summary>
    public static Insn* Vmfunc(CpuState* s, Insn* i)
    {
        var function = (uint)s->Gpr[Gpr.Rax];
        if ((s->SecondaryControls & SecondaryControls.EnableVmFunctions) == 0 || function >= MostFunctions)
            return Fault.Raise(s, i, Vector.Ud);
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        bool enabled = (cpu.Vmcs![VmcsField.VmFunctionControls] >> (int)function & 1) != 0;
        return enabled && function == EptpSwitching && SwitchEptPointer(cpu, (uint)s->Gpr[Gpr.Rcx])
            ? Flow.Leave(s, i)
            : VmExit.At(s, i, ExitReason.Vmfunc);
    }

    /// <summary>EPTP switching: ECX selects an entry of the list. False where there is no such entry, or VM entry would refuse it.</summary>
    private static bool SwitchEptPointer(LogicalProcessor cpu, uint index)
    {
        Vmcs vmcs = cpu.Vmcs!;
        byte* list = cpu.Environment.Memory.HostPage(vmcs[VmcsField.EptpListAddress]);
        if (index >= ListEntries || list == null)
            return false;
        ulong pointer = ((ulong*)list)[index];
        if (!EptPointer.IsValid(pointer, cpu.Environment.Features.PhysicalAddressBits))
            return false;
        vmcs[VmcsField.EptPointer] = pointer;
        // The field exists because the processor has the control for virtualization exceptions, whether or not that is 1.
        vmcs[VmcsField.EptpIndex] = index;
        cpu.Mmu.SwitchEptPointer(pointer);
        return true;
    }
}
