using Vmm.Processor.Execution;
using Vmm.Processor.Segmentation;

namespace Vmm.Processor.Events;

/// <summary>Interrupts through a table of far pointers: real-address mode (SDM volume 3, section 20.1.4) and redirected ones of virtual-8086 mode (20.3.3).</summary>
internal static unsafe class RealModeInterrupt
{
    /// <summary>Delivers in real-address mode. Error codes are not pushed.</summary>
    public static bool Deliver(LogicalProcessor cpu, uint vector, ulong rip, ulong flags)
    {
        CpuState* s = cpu.State;
        if (vector * 4 + 3 > s->IdtLimit)
            return Fault.Record(s, Vector.Gp);
        if (!Prepare(cpu, (uint)(s->IdtBase + vector * 4), 0, rip, flags, out ulong bottom, out uint target))
            return false;
        StackPointer.Set(s, bottom, StackPointer.Mask(s));
        s->SystemFlags &= ~(Rflags.If | Rflags.Tf | Rflags.Ac | Rflags.Rf);
        CodeSegment.LoadReal(cpu, (ushort)(target >> 16));
        s->Rip = (ushort)target;
        return true;
    }

    /// <summary>Delivers an INT n of virtual-8086 mode to the program's own handler, with the mode extensions (CR4.VME).</summary>
    public static bool DeliverVirtual8086(LogicalProcessor cpu, uint vector, ulong rip, ulong flags)
    {
        CpuState* s = cpu.State;
        bool ownInterruptFlag = (flags & Rflags.Iopl) == Rflags.Iopl;
        ulong image = ownInterruptFlag ? flags : VirtualFlags(flags);
        if (!Prepare(cpu, vector * 4, 3, rip, image, out ulong bottom, out uint target))
            return false;
        StackPointer.Set(s, bottom, StackPointer.Mask(s));
        s->SystemFlags &= ~(Rflags.Tf | Rflags.Rf | (ownInterruptFlag ? Rflags.If : Rflags.Vif));
        CodeSegment.LoadVirtual8086(cpu, (ushort)(target >> 16));
        s->Rip = (ushort)target;
        return true;
    }

    /// <summary>The FLAGS image that a program of virtual-8086 mode sees with IOPL below 3: VIF in place of IF, IOPL 3.</summary>
    public static ulong VirtualFlags(ulong flags) =>
        (flags & ~Rflags.If) | ((flags & Rflags.Vif) != 0 ? Rflags.If : 0) | Rflags.Iopl;

    private static bool Prepare(LogicalProcessor cpu, uint entry, int cpl, ulong rip, ulong flags, out ulong bottom, out uint target)
    {
        CpuState* s = cpu.State;
        bottom = 0;
        uint pointer;
        if (!cpu.Mmu.ReadAs(cpl, entry, (byte*)&pointer, 4))
        {
            target = 0;
            return false;
        }
        target = pointer;
        // In real-address mode an instruction pointer beyond the limit of CS, which the load leaves alone, is #GP.
        if (cpl == 0 && (ushort)pointer > s->Cs.Limit)
            return Fault.Record(s, Vector.Gp);
        var frame = new StackFrame(2);
        frame.Push(flags);
        frame.Push(s->Cs.Selector);
        frame.Push(rip);
        if (frame.Write(cpu, &s->Ss, s->Gpr[Gpr.Rsp], StackPointer.Mask(s), cpl, 0, out bottom))
            return true;
        if (cpl == 0)
            s->FaultHasError = false;
        return false;
    }
}
