using System.Runtime.CompilerServices;
using Vmm.Processor.Events;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.System;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Segmentation;

/// <summary>What came of a task switch.</summary>
public enum TaskSwitchResult
{
    /// <summary>The VMCS describes the new task, or the old one where the switch raised an exception early.</summary>
    Done,

    /// <summary>The switch was made for an exception and went wrong such that the processor shuts down.</summary>
    TripleFault,
}

public static unsafe partial class TaskSwitch
{
    // DR7.L0 to L3 and LE, which a task switch clears (SDM volume 3, section 18.2.4).
    private const ulong LocalBreakpoints = 0x155;
    private const ulong DebugTaskSwitch = 1 << 15;

    /// <summary>Where the registers are in a task-state segment (SDM volume 3, figures 8-2 and 8-10).</summary>
    private readonly record struct Layout(int Size, int Width, int Cr3, int Rip, int Flags, int Registers, int Segments, int SegmentCount, int SegmentStep, int Ldt)
    {
        public static readonly Layout Wide = new(0x68, 4, 0x1C, 0x20, 0x24, 0x28, 0x48, 6, 4, 0x60);
        public static readonly Layout Narrow = new(0x2C, 2, -1, 0x0E, 0x10, 0x12, 0x22, 4, 2, 0x2A);

        /// <summary>The first byte of what a task switch saves, and the end of it.</summary>
        public int SavedStart => Rip;
        public int SavedEnd => Segments + SegmentCount * SegmentStep;

        public static Layout Of(bool wide) => wide ? Wide : Narrow;
    }

    /// <summary>
    /// Performs the task switch for which the processor has just exited from <paramref name="vmcs"/>: what hardware outside VMX
    /// operation does by itself. Takes selector, source and event from the exit information and leaves the outcome in the
    /// VMCS's guest-state fields. The event that the IDT-vectoring fields name is thereby delivered.
    /// For a VMCS without EPT: an access that EPT stops has no VM exit to leave by here.
    /// </summary>
    /// <param name="cpu">The processor, its state as the exit left it.</param>
    /// <param name="vmcs">The VMCS that exited with <see cref="ExitReason.TaskSwitch"/>.</param>
    /// <param name="inject">The exception that the switch raised, for the caller to inject with the next entry.</param>
    public static TaskSwitchResult Perform(LogicalProcessor cpu, Vmcs vmcs, out GuestEvent? inject)
    {
        CpuState* s = cpu.State;
        ulong qualification = vmcs[VmcsField.ExitQualification];
        var selector = (ushort)qualification;
        var source = (TaskSwitchSource)(qualification >> 30 & 3);
        uint information = vmcs.Read32(VmcsField.IdtVectoringInformation);
        GuestEvent? cause = null;
        if (source == TaskSwitchSource.InterruptGate && (information & 1u << 31) != 0)
        {
            cause = new GuestEvent(information & 0xFF, (EventType)(information >> 8 & 7), (information & 1u << 11) != 0,
                vmcs.Read32(VmcsField.IdtVectoringErrorCode), vmcs.Read32(VmcsField.VmExitInstructionLength));
        }
        bool skips = source != TaskSwitchSource.InterruptGate || cause is { IsSoftware: true };
        ulong rip = skips ? Flow.Wrap(s, s->Rip + vmcs.Read32(VmcsField.VmExitInstructionLength)) : s->Rip;

        ulong pendingDebug = 0;
        bool switched = Switch(cpu, selector, source, cause, rip, ref pendingDebug, out bool committed);
        inject = null;
        if (!switched)
        {
            inject = GuestEvent.OfFault(s);
            // Before the point of no return the fault belongs to the old task, on top of the event that was being delivered.
            if (!committed && cause is { } first)
            {
                switch (EventDelivery.Combine(first, inject.Value))
                {
                    case EventDelivery.Combination.TripleFault:
                        inject = null;
                        return TaskSwitchResult.TripleFault;
                    case EventDelivery.Combination.DoubleFault:
                        inject = new GuestEvent(Vector.Df, EventType.HardwareException, HasError: true);
                        break;
                }
            }
            if (inject.Value.Vector == Vector.Pf)
                s->Cr2 = s->FaultAddress;
            // An event that is injected pushes RF as it finds it.
            if (EventDelivery.IsFault(inject.Value))
                s->SystemFlags |= Rflags.Rf;
        }
        else if (pendingDebug != 0)
        {
            s->Dr6 |= pendingDebug;
            inject = new GuestEvent(Vector.Db, EventType.HardwareException);
        }
        if (committed)
        {
            s->InterruptShadow = 0;
            s->Activity = ActivityState.Active;
            if (cause is { Type: EventType.Nmi })
                s->NmiBlocked = true;
        }
        GuestState.Save(cpu, vmcs);
        vmcs[VmcsField.IdtVectoringInformation] = 0;
        return TaskSwitchResult.Done;
    }

    private static bool Switch(LogicalProcessor cpu, ushort selector, TaskSwitchSource source, GuestEvent? cause, ulong rip,
        ref ulong pendingDebug, out bool committed)
    {
        CpuState* s = cpu.State;
        committed = false;
        bool nests = source is TaskSwitchSource.Call or TaskSwitchSource.InterruptGate;
        uint external = cause is null || cause is { Type: EventType.SoftwareInterrupt or EventType.SoftwareException } ? 0u : 1u;
        if (!CheckDescriptor(cpu, selector, source, external, out Descriptor next))
            return false;
        Layout from = Layout.Of(TaskState.Is32(s));
        Layout to = Layout.Of((next.Type & 8) != 0);
        if (s->Tr.Unusable || s->Tr.Limit + 1UL < (ulong)from.SavedEnd)
            return Fault.Record(s, Vector.Ts, Selector.Error(s->Tr.Selector, external));

        // Everything that may fault in the old task comes first (SDM volume 3, section 8.3, steps 1 to 6).
        ulong oldBase = s->Tr.Base;
        ulong newBase = next.Base;
        ushort oldSelector = s->Tr.Selector;
        bool hasOld = DescriptorTable.TryFetch(cpu, oldSelector, out Descriptor old) == DescriptorTable.Lookup.Found;
        byte* image = stackalloc byte[Layout.Wide.Size];
        byte* saved = stackalloc byte[Layout.Wide.Size];
        if (!cpu.Mmu.ReadSystem(newBase, image, to.Size)
            || !cpu.Mmu.ProbeWriteAs(0, oldBase + (ulong)from.SavedStart, from.SavedEnd - from.SavedStart)
            || !cpu.Mmu.ProbeWriteAs(0, next.Address + 5, 1)
            || (hasOld && !cpu.Mmu.ProbeWriteAs(0, old.Address + 5, 1))
            || (nests && !cpu.Mmu.ProbeWriteAs(0, newBase, 2)))
            return false;

        ulong flags = Flags.ReadAll(s);
        if (source == TaskSwitchSource.InterruptReturn)
            flags &= ~Rflags.Nt;
        if (cause is { } e && EventDelivery.IsFault(e))
            flags |= Rflags.Rf;
        Save(s, from, saved, rip, flags);
        cpu.Mmu.WriteSystem(oldBase + (ulong)from.SavedStart, saved + from.SavedStart, from.SavedEnd - from.SavedStart);
        if (!nests && hasOld)
            DescriptorTable.SetType(cpu, ref old, old.Type & ~2);
        if (nests)
            cpu.Mmu.WriteSystem(newBase, (byte*)&oldSelector, 2);
        DescriptorTable.SetType(cpu, ref next, next.Type | 2);
        SegmentLoad.Fill(&s->Tr, selector, next);
        s->Cr0 |= Cr0.Ts;
        s->Dr7 &= ~LocalBreakpoints;
        cpu.DebugRegistersChanged();

        committed = true;
        bool loaded = Load(cpu, to, image, nests, external);
        if (to.Width == 4 && (image[0x64] & 1) != 0)
            pendingDebug = DebugTaskSwitch;
        return loaded && (cause is not { HasError: true } || PushError(cpu, to.Width, cause.Value.Error));
    }

    private static void Save(CpuState* s, Layout layout, byte* image, ulong rip, ulong flags)
    {
        Put(image, layout.Rip, layout.Width, rip);
        Put(image, layout.Flags, layout.Width, flags);
        for (int k = 0; k < 8; k++)
            Put(image, layout.Registers + k * layout.Width, layout.Width, s->Gpr[k]);
        for (int k = 0; k < layout.SegmentCount; k++)
            Put(image, layout.Segments + k * layout.SegmentStep, layout.SegmentStep, CpuState.Segment(s, k)->Selector);
    }

    /// <summary>Loads the new task. Faults in here belong to it: the registers are loaded by then, segments perhaps not.</summary>
    private static bool Load(LogicalProcessor cpu, Layout layout, byte* image, bool nests, uint external)
    {
        CpuState* s = cpu.State;
        ulong flags = Get(image, layout.Flags, layout.Width) | (nests ? Rflags.Nt : 0);
        Flags.Write(s, flags);
        s->SystemFlags = (flags & Rflags.All & ~Rflags.Arithmetic) | Rflags.Fixed1;
        if (layout.Width == 2)
            s->SystemFlags &= ~Rflags.Vm;
        s->Rip = Get(image, layout.Rip, layout.Width);
        for (int k = 0; k < 8; k++)
            s->Gpr[k] = Get(image, layout.Registers + k * layout.Width, layout.Width);

        ushort* selectors = stackalloc ushort[6];
        for (int k = 0; k < 6; k++)
            selectors[k] = k < layout.SegmentCount ? (ushort)Get(image, layout.Segments + k * layout.SegmentStep, 2) : (ushort)0;
        bool virtual8086 = (s->SystemFlags & Rflags.Vm) != 0;
        int cpl = virtual8086 ? 3 : Selector.Rpl(selectors[Seg.Cs]);
        for (int k = 0; k < 6; k++)
            SegmentLoad.LoadNull(CpuState.Segment(s, k), selectors[k], k == Seg.Ss ? cpl : 0);
        // A code segment has to stand there even where the new one turns out bad: the handler's frame names it.
        s->Cs.Rights = SegmentRights.Present | SegmentRights.NotSystem | SegmentRights.Code | SegmentRights.Readable | SegmentRights.Accessed | (uint)cpl << 5;
        s->Cs.Refresh();
        var ldt = (ushort)Get(image, layout.Ldt, 2);
        SegmentLoad.LoadNull(&s->Ldtr, ldt);
        s->Cpl = cpl;
        s->CodeSize = CodeSegment.SizeOf(s);
        cpu.ModeChanged();

        if (layout.Cr3 >= 0 && (s->Cr0 & Cr0.Pg) != 0)
        {
            ulong cr3 = Get(image, layout.Cr3, 4);
            if (cr3 != s->Cr3 && !ControlRegisters.SetCr3(s, cr3))
                return false;
        }
        if (!SegmentLoad.LoadLdtr(cpu, ldt, Vector.Ts))
            return false;
        if (virtual8086)
        {
            for (int k = 0; k < 6; k++)
            {
                if (k != Seg.Cs)
                    SegmentLoad.LoadVirtual8086(CpuState.Segment(s, k), selectors[k]);
            }
            CodeSegment.LoadVirtual8086(cpu, selectors[Seg.Cs]);
            return s->Rip <= 0xFFFF || Fault.Record(s, Vector.Gp, external);
        }

        ushort codeSelector = selectors[Seg.Cs];
        uint codeError = Selector.Error(codeSelector, external);
        if (Selector.IsNull(codeSelector))
            return Fault.Record(s, Vector.Ts, codeError);
        if (!DescriptorTable.Fetch(cpu, codeSelector, out Descriptor code, Vector.Ts, external))
            return false;
        if (!code.IsCode || (code.IsConforming ? code.Dpl > cpl : code.Dpl != cpl))
            return Fault.Record(s, Vector.Ts, codeError);
        if (!code.IsPresent)
            return Fault.Record(s, Vector.Np, codeError);
        if (!DescriptorTable.MarkAccessed(cpu, ref code))
            return false;
        CodeSegment.Load(cpu, codeSelector, code, cpl);
        if (!SegmentLoad.CheckStack(cpu, selectors[Seg.Ss], cpl, Vector.Ts, external, out Descriptor stack))
            return false;
        SegmentLoad.Fill(&s->Ss, selectors[Seg.Ss], stack);
        foreach (int segment in (ReadOnlySpan<int>)[Seg.Ds, Seg.Es, Seg.Fs, Seg.Gs])
        {
            if (Selector.IsNull(selectors[segment]))
                continue;
            if (!SegmentLoad.CheckData(cpu, selectors[segment], Vector.Ts, out Descriptor data))
                return false;
            SegmentLoad.Fill(CpuState.Segment(s, segment), selectors[segment], data);
        }
        cpu.ModeChanged();
        return s->Rip <= s->Cs.Limit || Fault.Record(s, Vector.Gp, external);
    }

    // The error code goes onto the new task's stack, in the size of its task-state segment (SDM volume 3, section 6.13).
    private static bool PushError(LogicalProcessor cpu, int width, uint error)
    {
        CpuState* s = cpu.State;
        var frame = new StackFrame(width);
        frame.Push(error);
        ulong mask = StackPointer.Mask(s);
        if (!frame.Write(cpu, &s->Ss, s->Gpr[Gpr.Rsp], mask, s->Cpl, 1, out ulong bottom))
            return false;
        StackPointer.Set(s, bottom, mask);
        return true;
    }

    private static ulong Get(byte* image, int offset, int width) =>
        width == 2 ? Unsafe.ReadUnaligned<ushort>(image + offset) : Unsafe.ReadUnaligned<uint>(image + offset);

    private static void Put(byte* image, int offset, int width, ulong value)
    {
        if (width == 2)
            Unsafe.WriteUnaligned(image + offset, (ushort)value);
        else
            Unsafe.WriteUnaligned(image + offset, (uint)value);
    }
}
