using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>
/// Loads of segment registers other than CS with the checks of the mode (SDM volume 2, MOV; volume 3, section 5.6).
/// Every method returns false with the fault recorded and the register unchanged.
/// </summary>
public static unsafe class SegmentLoad
{
    private const uint RealRights = SegmentRights.Present | SegmentRights.NotSystem | SegmentRights.Writable | SegmentRights.Accessed;

    /// <summary>The rights of every segment in virtual-8086 mode: present, DPL 3, writable data, accessed.</summary>
    public const uint Virtual8086Rights = 0xF3;

    /// <summary>Loads ES, SS, DS, FS or GS.</summary>
    public static bool Load(LogicalProcessor cpu, int segment, ushort selector)
    {
        CpuState* s = cpu.State;
        if ((s->Cr0 & Cr0.Pe) == 0)
        {
            LoadReal(CpuState.Segment(s, segment), selector);
            return true;
        }
        if ((s->SystemFlags & Rflags.Vm) != 0)
        {
            LoadVirtual8086(CpuState.Segment(s, segment), selector);
            return true;
        }
        return segment == Seg.Ss ? LoadStack(cpu, selector) : LoadData(cpu, segment, selector);
    }

    /// <summary>Real-address mode: the base follows the selector; limit and rights stay what they were.</summary>
    public static void LoadReal(SegmentState* state, ushort selector)
    {
        state->Selector = selector;
        state->Base = (ulong)selector << 4;
        if ((state->Rights & (SegmentRights.Unusable | SegmentRights.Present)) != SegmentRights.Present)
        {
            // A register that protected mode left with a null selector has no limit of its own to keep.
            state->Rights = RealRights;
            state->Limit = 0xFFFF;
        }
        state->Refresh();
    }

    /// <summary>Virtual-8086 mode.</summary>
    public static void LoadVirtual8086(SegmentState* state, ushort selector)
    {
        state->Selector = selector;
        state->Base = (ulong)selector << 4;
        state->Limit = 0xFFFF;
        state->Rights = Virtual8086Rights;
        state->Refresh();
    }

    /// <summary>Makes a register hold a null selector.</summary>
    public static void LoadNull(SegmentState* state, ushort selector, int dpl = 0)
    {
        state->Selector = selector;
        state->Base = 0;
        state->Limit = 0;
        state->Rights = SegmentRights.Unusable | ((uint)dpl << 5);
        state->Refresh();
    }

    /// <summary>Fills a register from a descriptor that has passed its checks.</summary>
    internal static void Fill(SegmentState* state, ushort selector, in Descriptor descriptor)
    {
        state->Selector = selector;
        state->Base = descriptor.Base;
        state->Limit = descriptor.Limit;
        state->Rights = descriptor.Rights;
        state->Refresh();
    }

    /// <summary>Whether a return to an outer level must make a data segment register null (SDM volume 3, section 5.8.6).</summary>
    internal static void DropInaccessible(CpuState* s, int cpl)
    {
        Drop(&s->Es, cpl);
        Drop(&s->Ds, cpl);
        Drop(&s->Fs, cpl);
        Drop(&s->Gs, cpl);
    }

    /// <summary>
    /// Checks a stack selector for a privilege level and reads its descriptor, accessed bit set (SDM volume 3, section 5.7).
    /// </summary>
    /// <param name="vector">What selector errors raise: #GP for loads and returns, #TS for stacks from a task-state segment.</param>
    internal static bool CheckStack(LogicalProcessor cpu, ushort selector, int cpl, uint vector, uint external, out Descriptor descriptor)
    {
        CpuState* s = cpu.State;
        descriptor = default;
        if (Selector.IsNull(selector))
            return Fault.Record(s, vector, external);
        if (!DescriptorTable.Fetch(cpu, selector, out descriptor, vector, external))
            return false;
        if (Selector.Rpl(selector) != cpl || !descriptor.IsWritable || descriptor.Dpl != cpl)
            return Fault.Record(s, vector, Selector.Error(selector, external));
        if (!descriptor.IsPresent)
            return Fault.Record(s, Vector.Ss, Selector.Error(selector, external));
        return DescriptorTable.MarkAccessed(cpu, ref descriptor);
    }

    /// <summary>LLDT (SDM volume 2): a null selector makes the LDT unusable.</summary>
    /// <param name="vector">What selector errors raise: #GP, or #TS in a task switch.</param>
    public static bool LoadLdtr(LogicalProcessor cpu, ushort selector, uint vector = Vector.Gp)
    {
        CpuState* s = cpu.State;
        if (Selector.IsNull(selector))
        {
            LoadNull(&s->Ldtr, selector);
            return true;
        }
        if (Selector.IsLocal(selector))
            return Fault.Record(s, vector, Selector.Error(selector, 0));
        if (!DescriptorTable.Fetch(cpu, selector, out Descriptor descriptor, vector, 0))
            return false;
        if (!descriptor.IsSystem || descriptor.Type != SystemType.Ldt)
            return Fault.Record(s, vector, Selector.Error(selector, 0));
        if (!descriptor.IsPresent)
            return Fault.Record(s, vector == Vector.Ts ? Vector.Ts : Vector.Np, Selector.Error(selector, 0));
        if (!CheckSystemBase(s, descriptor))
            return false;
        Fill(&s->Ldtr, selector, descriptor);
        return true;
    }

    /// <summary>LTR (SDM volume 2): the task-state segment becomes busy.</summary>
    public static bool LoadTr(LogicalProcessor cpu, ushort selector)
    {
        CpuState* s = cpu.State;
        if (Selector.IsNull(selector))
            return Fault.Record(s, Vector.Gp, 0);
        if (Selector.IsLocal(selector))
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
        if (!DescriptorTable.Fetch(cpu, selector, out Descriptor descriptor, Vector.Gp, 0))
            return false;
        bool available = descriptor.IsSystem
            && (descriptor.Type == SystemType.Tss32 || (descriptor.Type == SystemType.Tss16 && (s->Efer & Efer.Lma) == 0));
        if (!available)
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
        if (!descriptor.IsPresent)
            return Fault.Record(s, Vector.Np, Selector.Error(selector, 0));
        if (!CheckSystemBase(s, descriptor) || !DescriptorTable.SetType(cpu, ref descriptor, descriptor.Type | 2))
            return false;
        Fill(&s->Tr, selector, descriptor);
        return true;
    }

    private static bool LoadData(LogicalProcessor cpu, int segment, ushort selector)
    {
        CpuState* s = cpu.State;
        SegmentState* state = CpuState.Segment(s, segment);
        if (Selector.IsNull(selector))
        {
            LoadNull(state, selector);
            return true;
        }
        if (!CheckData(cpu, selector, Vector.Gp, out Descriptor descriptor))
            return false;
        Fill(state, selector, descriptor);
        return true;
    }

    /// <summary>Checks a selector (not null) for ES, DS, FS or GS.</summary>
    internal static bool CheckData(LogicalProcessor cpu, ushort selector, uint vector, out Descriptor descriptor)
    {
        CpuState* s = cpu.State;
        if (!DescriptorTable.Fetch(cpu, selector, out descriptor, vector, 0))
            return false;
        if (!descriptor.IsReadable)
            return Fault.Record(s, vector, Selector.Error(selector, 0));
        if (!descriptor.IsConforming && (Selector.Rpl(selector) > descriptor.Dpl || s->Cpl > descriptor.Dpl))
            return Fault.Record(s, vector, Selector.Error(selector, 0));
        if (!descriptor.IsPresent)
            return Fault.Record(s, Vector.Np, Selector.Error(selector, 0));
        return DescriptorTable.MarkAccessed(cpu, ref descriptor);
    }

    private static bool LoadStack(LogicalProcessor cpu, ushort selector)
    {
        CpuState* s = cpu.State;
        if (Selector.IsNull(selector) && s->CodeSize == 64 && s->Cpl != 3 && Selector.Rpl(selector) == s->Cpl)
        {
            LoadNull(&s->Ss, selector, s->Cpl);
            return true;
        }
        if (!CheckStack(cpu, selector, s->Cpl, Vector.Gp, 0, out Descriptor descriptor))
            return false;
        Fill(&s->Ss, selector, descriptor);
        if (s->CodeSize != 64)
            cpu.ModeChanged();
        return true;
    }

    private static bool CheckSystemBase(CpuState* s, in Descriptor descriptor) =>
        (s->Efer & Efer.Lma) == 0 || Canonical.IsForBase(s, descriptor.Base) || Fault.Record(s, Vector.Gp, 0);

    private static void Drop(SegmentState* state, int cpl)
    {
        bool conforming = (state->Rights & (SegmentRights.Code | SegmentRights.Conforming)) == (SegmentRights.Code | SegmentRights.Conforming);
        if (!state->Unusable && state->Dpl < cpl && !conforming)
        {
            // Processors leave the base as it was, and 64-bit code goes on using that of FS and GS.
            state->Selector = 0;
            state->Rights |= SegmentRights.Unusable;
            state->Refresh();
        }
    }
}
