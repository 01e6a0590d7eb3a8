using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Vmx;

/// <summary>How instructions and events leave VMX non-root operation.</summary>
public static unsafe class VmExit
{
    /// <summary>
    /// Exits before the instruction has any effect (a fault-like exit): RIP stays on it, the VMCS gets its length. Returns null
    /// for the handler to return.
    /// </summary>
    public static Insn* At(CpuState* s, Insn* i, ExitReason reason, ulong qualification = 0)
    {
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        vmcs[VmcsField.VmExitInstructionLength] = i->Length;
        vmcs[VmcsField.VmExitInterruptionInformation] = 0;
        s->Rip = Insn.Rip(s, i);
        s->Budget -= i->Count - 1;
        s->Stop = StopReason.VmExit;
        Describe(vmcs, reason, qualification);
        return null;
    }

    /// <summary>Records reason and qualification of an exit that is not due to an instruction; the caller returns to the dispatcher with <see cref="StopReason.VmExit"/>.</summary>
    public static void Record(CpuState* s, ExitReason reason, ulong qualification = 0)
    {
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        vmcs[VmcsField.VmExitInstructionLength] = 0;
        vmcs[VmcsField.VmExitInterruptionInformation] = 0;
        s->Stop = StopReason.VmExit;
        Describe(vmcs, reason, qualification);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Describe(Vmcs vmcs, ExitReason reason, ulong qualification)
    {
        vmcs[VmcsField.ExitReason] = (ulong)reason;
        vmcs[VmcsField.ExitQualification] = qualification;
    }
}
