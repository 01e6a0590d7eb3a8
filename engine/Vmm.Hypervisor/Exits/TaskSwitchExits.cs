using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Events;
using Vmm.Processor.Segmentation;

namespace Vmm.Hypervisor.Exits;

/// <summary>Task switches: the processor exits for every one of them, and L0 does what hardware outside VMX operation does itself.</summary>
internal static class TaskSwitchExits
{
    public static void Switch(Vcpu vcpu)
    {
        TaskSwitchResult result = TaskSwitch.Perform(vcpu.Cpu, vcpu.Vmcs, out GuestEvent? fault);
        vcpu.DropEvent();
        vcpu.CountEmulated();
        if (result == TaskSwitchResult.TripleFault)
            vcpu.Activity = VcpuActivity.Shutdown;
        else if (fault is { } raised)
            vcpu.Inject(raised);
    }
}
