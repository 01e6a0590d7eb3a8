using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>What the current task-state segment says (SDM volume 3, sections 7.2.1, 7.6 and 7.7).</summary>
internal static unsafe class TaskState
{
    private const uint IoMapBase = 102;

    /// <summary>Whether TR holds a 32-bit (or 64-bit) TSS.</summary>
    public static bool Is32(CpuState* s) => (s->Tr.Rights & 8) != 0;

    /// <summary>The stack of an inner privilege level, outside IA-32e mode. Beyond the segment's limit: #TS with TR's selector.</summary>
    public static bool InnerStack(LogicalProcessor cpu, int cpl, uint external, out ushort selector, out uint pointer)
    {
        CpuState* s = cpu.State;
        selector = 0;
        pointer = 0;
        bool wide = Is32(s);
        uint offset = wide ? (uint)cpl * 8 + 4 : (uint)cpl * 4 + 2;
        uint size = wide ? 6u : 4u;
        if (offset + size - 1 > s->Tr.Limit || s->Tr.Unusable)
            return Fault.Record(s, Vector.Ts, Selector.Error(s->Tr.Selector, external));
        ulong raw = 0;
        if (!cpu.Mmu.ReadSystem((uint)(s->Tr.Base + offset), (byte*)&raw, (int)size))
            return false;
        pointer = wide ? (uint)raw : (ushort)raw;
        selector = wide ? (ushort)(raw >> 32) : (ushort)(raw >> 16);
        return true;
    }

    /// <summary>A stack pointer of IA-32e mode: of an inner privilege level, or of the interrupt stack table where <paramref name="table"/> is 1 to 7.</summary>
    public static bool InnerStack64(LogicalProcessor cpu, int cpl, int table, uint external, out ulong pointer)
    {
        CpuState* s = cpu.State;
        pointer = 0;
        uint offset = table != 0 ? (uint)table * 8 + 28 : (uint)cpl * 8 + 4;
        if (offset + 7 > s->Tr.Limit || s->Tr.Unusable)
            return Fault.Record(s, Vector.Ts, Selector.Error(s->Tr.Selector, external));
        ulong raw;
        if (!cpu.Mmu.ReadSystem(s->Tr.Base + offset, (byte*)&raw, 8))
            return false;
        pointer = raw;
        return Canonical.Is(s, raw) || Fault.Record(s, Vector.Ss, external);
    }

    /// <summary>
    /// Whether the I/O permission bitmap lets the program use <paramref name="size"/> ports from <paramref name="port"/>
    /// (SDM volume 1, section 19.5.2). False with #GP(0), or the fault of the access, recorded.
    /// </summary>
    public static bool AllowsPort(LogicalProcessor cpu, ushort port, int size)
    {
        CpuState* s = cpu.State;
        if (!Is32(s))
            return Fault.Record(s, Vector.Gp, 0);
        if (!IoMap(cpu, out uint map))
            return false;
        // The processor always reads two bytes, so the last byte of the map must be followed by one more within the limit.
        uint offset = map + (uint)(port >> 3);
        if (offset + 1 > s->Tr.Limit)
            return Fault.Record(s, Vector.Gp, 0);
        ushort bits;
        if (!cpu.Mmu.ReadSystem(DescriptorTable.Wrap(s, s->Tr.Base + offset), (byte*)&bits, 2))
            return false;
        uint mask = ((1u << size) - 1) << (port & 7);
        return (bits & mask) == 0 || Fault.Record(s, Vector.Gp, 0);
    }

    /// <summary>
    /// Whether the interrupt redirection bitmap sends an INT n of virtual-8086 mode to the program's own handler
    /// (SDM volume 3, section 20.3.3). False is also returned with a fault; <paramref name="faulted"/> tells.
    /// </summary>
    public static bool RedirectsToProgram(LogicalProcessor cpu, uint vector, out bool faulted)
    {
        CpuState* s = cpu.State;
        faulted = true;
        if (!Is32(s))
            return Fault.Record(s, Vector.Gp, 0);
        if (!IoMap(cpu, out uint map))
            return false;
        uint offset = map - 32 + (vector >> 3);
        if (map < 32 || offset > s->Tr.Limit)
            return Fault.Record(s, Vector.Gp, 0);
        byte bits;
        if (!cpu.Mmu.ReadSystem(DescriptorTable.Wrap(s, s->Tr.Base + offset), &bits, 1))
            return false;
        faulted = false;
        return (bits >> (int)(vector & 7) & 1) == 0;
    }

    private static bool IoMap(LogicalProcessor cpu, out uint map)
    {
        CpuState* s = cpu.State;
        map = 0;
        if (s->Tr.Limit < IoMapBase + 1 || s->Tr.Unusable)
            return Fault.Record(s, Vector.Gp, 0);
        ushort raw;
        if (!cpu.Mmu.ReadSystem(DescriptorTable.Wrap(s, s->Tr.Base + IoMapBase), (byte*)&raw, 2))
            return false;
        map = raw;
        return true;
    }
}
