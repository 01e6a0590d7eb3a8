using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>Task switches: the processor exits for every one of them, and L0 does what hardware outside VMX operation does itself.</summary>
internal static class TaskSwitchExits
{
    public static void Switch(Vcpu vcpu) =>
        throw new NotSupportedException($"vCPU {vcpu.Index} switches to task {vcpu.Vmcs[VmcsField.ExitQualification] & 0xFFFF:x}, which the processor cannot do.");
}
