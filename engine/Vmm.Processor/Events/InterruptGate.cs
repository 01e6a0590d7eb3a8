using Vmm.Processor.Execution;
using Vmm.Processor.Segmentation;

namespace Vmm.Processor.Events;

/// <summary>Interrupts through the IDT in protected, virtual-8086 and IA-32e mode (SDM volume 3, sections 6.11 to 6.14; volume 2, INT n).</summary>
internal static unsafe class InterruptGate
{
    /// <summary>Delivers an event. False with a fault or VM exit recorded, and nothing changed.</summary>
    /// <param name="rip">The instruction pointer to push.</param>
    /// <param name="flags">The RFLAGS image to push.</param>
    /// <param name="external">The EXT bit of error codes.</param>
    /// <param name="checkPrivilege">Whether the gate's DPL must allow the current privilege level.</param>
    public static bool Deliver(LogicalProcessor cpu, in GuestEvent e, ulong rip, ulong flags, uint external, bool checkPrivilege)
    {
        CpuState* s = cpu.State;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        uint size = ia32e ? 16u : 8u;
        // Error code of the gate itself: its index with the IDT bit.
        uint gateError = e.Vector * 8 + 2 + external;
        if (e.Vector * size + size - 1 > s->IdtLimit)
            return Fault.Record(s, Vector.Gp, gateError);
        ulong* raw = stackalloc ulong[2];
        raw[1] = 0;
        ulong address = DescriptorTable.Wrap(s, s->IdtBase + e.Vector * size);
        if (!cpu.Mmu.ReadSystem(address, (byte*)raw, (int)size))
            return false;
        var gate = new Descriptor(raw[0], (uint)raw[1], address);
        bool typeGood = gate.IsSystem && (gate.Type is SystemType.InterruptGate32 or SystemType.TrapGate32
            || (!ia32e && gate.Type is SystemType.TaskGate or SystemType.InterruptGate16 or SystemType.TrapGate16));
        if (!typeGood || (checkPrivilege && gate.Dpl < s->Cpl))
            return Fault.Record(s, Vector.Gp, gateError);
        if (!gate.IsPresent)
            return Fault.Record(s, Vector.Np, gateError);
        if (gate.Type == SystemType.TaskGate)
            return TaskSwitch.Exit(cpu, gate.GateSelector, TaskSwitchSource.InterruptGate, external);

        ushort selector = gate.GateSelector;
        if (!CodeSegment.Fetch(cpu, selector, external, out Descriptor code))
            return false;
        if (code.Dpl > s->Cpl || (ia32e && !code.IsLong))
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, external));
        if (!CodeSegment.CheckPresent(s, selector, code, external))
            return false;
        int cpl = code.IsConforming ? s->Cpl : code.Dpl;
        if ((s->SystemFlags & Rflags.Vm) != 0 && cpl != 0)
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, external));
        if (!DescriptorTable.MarkAccessed(cpu, ref code))
            return false;
        bool interrupt = (gate.Type & 1) == 0;
        return ia32e
            ? DeliverLong(cpu, e, gate, selector, code, cpl, interrupt, rip, flags, external)
            : DeliverLegacy(cpu, e, gate, selector, code, cpl, interrupt, rip, flags, external);
    }

    private static bool DeliverLong(LogicalProcessor cpu, in GuestEvent e, in Descriptor gate, ushort selector, in Descriptor code, int cpl,
        bool interrupt, ulong rip, ulong flags, uint external)
    {
        CpuState* s = cpu.State;
        bool inner = cpl < s->Cpl;
        ulong pointer;
        if (inner || gate.GateStackTable != 0)
        {
            if (!TaskState.InnerStack64(cpu, cpl, gate.GateStackTable, external, out pointer))
                return false;
        }
        else
        {
            pointer = s->Gpr[Gpr.Rsp];
        }
        if (!Canonical.Is(s, gate.GateOffset))
            return Fault.Record(s, Vector.Gp, external);
        var frame = new StackFrame(8);
        frame.Push(s->Ss.Selector);
        frame.Push(s->Gpr[Gpr.Rsp]);
        frame.Push(flags);
        frame.Push(s->Cs.Selector);
        frame.Push(rip);
        if (e.HasError)
            frame.Push(e.Error);
        if (!frame.Write(cpu, null, pointer & ~0xFUL, ulong.MaxValue, cpl, external, out ulong bottom))
            return false;
        s->Gpr[Gpr.Rsp] = bottom;
        if (inner)
            SegmentLoad.LoadNull(&s->Ss, (ushort)cpl, cpl);
        ClearFlags(s, interrupt);
        CodeSegment.Load(cpu, selector, code, cpl);
        s->Rip = gate.GateOffset;
        return true;
    }

    private static bool DeliverLegacy(LogicalProcessor cpu, in GuestEvent e, in Descriptor gate, ushort selector, in Descriptor code, int cpl,
        bool interrupt, ulong rip, ulong flags, uint external)
    {
        CpuState* s = cpu.State;
        bool wide = gate.Type >= SystemType.InterruptGate32;
        ulong target = wide ? gate.GateOffset : (ushort)gate.GateOffset;
        bool inner = cpl < s->Cpl;
        bool virtual8086 = (s->SystemFlags & Rflags.Vm) != 0;
        SegmentState stack = s->Ss;
        ulong pointer = s->Gpr[Gpr.Rsp];
        uint stackError = external;
        var frame = new StackFrame(wide ? 4 : 2);
        if (inner)
        {
            if (!TaskState.InnerStack(cpu, cpl, external, out ushort stackSelector, out uint innerPointer)
                || !SegmentLoad.CheckStack(cpu, stackSelector, cpl, Vector.Ts, external, out Descriptor descriptor))
                return false;
            SegmentLoad.Fill(&stack, stackSelector, descriptor);
            pointer = innerPointer;
            stackError = Selector.Error(stackSelector, external);
            if (virtual8086)
            {
                frame.Push(s->Gs.Selector);
                frame.Push(s->Fs.Selector);
                frame.Push(s->Ds.Selector);
                frame.Push(s->Es.Selector);
            }
            frame.Push(s->Ss.Selector);
            frame.Push(s->Gpr[Gpr.Rsp]);
        }
        frame.Push(flags);
        frame.Push(s->Cs.Selector);
        frame.Push(rip);
        if (e.HasError)
            frame.Push(e.Error);
        if (!CodeSegment.CheckTarget(s, code, target, external))
            return false;
        ulong mask = StackPointer.Mask(stack.Rights);
        if (!frame.Write(cpu, &stack, pointer, mask, cpl, stackError, out ulong bottom))
            return false;
        if (inner)
            s->Ss = stack;
        StackPointer.Set(s, bottom, mask);
        if (virtual8086)
        {
            SegmentLoad.LoadNull(&s->Gs, 0);
            SegmentLoad.LoadNull(&s->Fs, 0);
            SegmentLoad.LoadNull(&s->Ds, 0);
            SegmentLoad.LoadNull(&s->Es, 0);
        }
        ClearFlags(s, interrupt);
        CodeSegment.Load(cpu, selector, code, cpl);
        s->Rip = target;
        return true;
    }

    private static void ClearFlags(CpuState* s, bool interrupt) =>
        s->SystemFlags &= ~(Rflags.Tf | Rflags.Nt | Rflags.Rf | Rflags.Vm | (interrupt ? Rflags.If : 0));
}
