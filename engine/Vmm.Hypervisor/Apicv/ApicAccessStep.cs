using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Apicv;

/// <summary>
/// Completes an instruction of L1 whose access to the APIC-access page the processor does not virtualize: it executes once with the
/// page out of the way, so that the access reaches the local APIC as one to a device.
/// </summary>
internal static class ApicAccessStep
{
    /// <summary>Enters vmcs01 for one instruction.</summary>
    public static ExitReason Enter(Vcpu vcpu)
    {
        Vmcs vmcs = vcpu.Vmcs01;
        ulong controls = vmcs[VmcsField.SecondaryControls];
        vmcs[VmcsField.SecondaryControls] = controls & ~(ulong)SecondaryControls.VirtualizeApicAccesses;
        ExitReason reason = vcpu.Cpu.Enter(vmcs, 1);
        vmcs[VmcsField.SecondaryControls] = controls;
        return reason;
    }
}
