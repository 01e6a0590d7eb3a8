using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Segmentation;

/// <summary>What started a task switch, as the exit qualification encodes it (SDM volume 3, table 28-2).</summary>
public enum TaskSwitchSource : uint
{
    Call = 0, InterruptReturn = 1, Jump = 2, InterruptGate = 3,
}

/// <summary>Task switches (SDM volume 3, section 7.3). They exit unconditionally; L0 then performs them.</summary>
public static unsafe partial class TaskSwitch
{
    /// <summary>
    /// Makes the checks on the new task-state segment that precede the VM exit (SDM volume 3, section 26.4.2), then exits.
    /// Always returns false: with a fault recorded or with <see cref="StopReason.VmExit"/>.
    /// </summary>
    internal static bool Exit(LogicalProcessor cpu, ushort selector, TaskSwitchSource source, uint external)
    {
        CpuState* s = cpu.State;
        if (!CheckDescriptor(cpu, selector, source, external, out _))
            return false;
        VmExit.Record(s, ExitReason.TaskSwitch, selector | (ulong)source << 30);
        return false;
    }

    /// <summary>Reads and checks the descriptor of the new task-state segment.</summary>
    private static bool CheckDescriptor(LogicalProcessor cpu, ushort selector, TaskSwitchSource source, uint external, out Descriptor descriptor)
    {
        CpuState* s = cpu.State;
        bool back = source == TaskSwitchSource.InterruptReturn;
        uint vector = back ? Vector.Ts : Vector.Gp;
        uint error = Selector.Error(selector, external);
        descriptor = default;
        if (Selector.IsNull(selector) || Selector.IsLocal(selector))
            return Fault.Record(s, vector, error);
        if (!DescriptorTable.Fetch(cpu, selector, out descriptor, vector, external))
            return false;
        int type = back ? descriptor.Type & ~2 : descriptor.Type;
        bool good = descriptor.IsSystem && type is SystemType.Tss16 or SystemType.Tss32;
        if (!good || (back && (descriptor.Type & 2) == 0))
            return Fault.Record(s, vector, error);
        if (!descriptor.IsPresent)
            return Fault.Record(s, Vector.Np, error);
        if (descriptor.Limit < ((type & 8) != 0 ? 103u : 43u))
            return Fault.Record(s, Vector.Ts, error);
        return true;
    }
}
