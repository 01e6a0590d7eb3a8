using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Events;
using Vmm.Processor.Segmentation;

namespace Vmm.Hypervisor.Exits;

/// <summary>Task switches: the processor exits for every one of them, and L0 does what hardware outside VMX operation does itself.</summary>
internal static class TaskSwitchExits
{
    public static void Switch(Vcpu vcpu)
    {
        TaskSwitchResult result = TaskSwitch.Perform(vcpu.Cpu, vcpu.Vmcs, out GuestEvent? inject);
        // The event that led to the switch, if any, is the new task's entry: nothing is left to deliver again.
        vcpu.DropEvent();
        if (result == TaskSwitchResult.TripleFault)
            vcpu.Activity = VcpuActivity.Shutdown;
        else if (inject is { HasError: true } withError)
            vcpu.InjectException(withError.Vector, withError.Error);
        else if (inject is { } plain)
            vcpu.InjectException(plain.Vector);
    }
}
