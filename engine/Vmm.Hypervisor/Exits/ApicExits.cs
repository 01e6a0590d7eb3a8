using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>What APICv leaves to L0.</summary>
internal static class ApicExits
{
    /// <summary>A write that has reached the virtual-APIC page: it has the effects that it has without APICv.</summary>
    public static void Write(Vcpu vcpu) => vcpu.Apic.WriteFromPage((uint)vcpu.Vmcs[VmcsField.ExitQualification] & 0xFF0);

    /// <summary>The processor has ended an interrupt of which the I/O APICs want to know.</summary>
    public static void EndOfInterrupt(Vcpu vcpu) => vcpu.Apic.VectorEnded((byte)vcpu.Vmcs[VmcsField.ExitQualification]);
}
