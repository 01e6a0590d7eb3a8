using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Segmentation;

/// <summary>IRET (SDM volume 2, IRET/IRETD/IRETQ), with the conventions of <see cref="FarTransfer"/>.</summary>
internal static unsafe class InterruptReturn
{
    private const ulong Flags16 = Rflags.Arithmetic | Rflags.Tf | Rflags.Df | Rflags.Nt;
    private const ulong Flags32 = Flags16 | Rflags.Rf | Rflags.Ac | Rflags.Id;

    /// <summary>Returns from an interrupt whose frame has values of <paramref name="size"/> bytes.</summary>
    public static bool Execute(LogicalProcessor cpu, int size)
    {
        CpuState* s = cpu.State;
        // NMIs are unblocked even by an IRET that faults (SDM volume 3, section 6.7.1), but not where NMIs exit and are not virtual
        // (section 26.3).
        if ((s->PinControls & (PinControls.NmiExiting | PinControls.VirtualNmis)) != PinControls.NmiExiting)
        {
            s->NmiUnblocking = s->NmiBlocked;
            s->NmiBlocked = false;
        }
        if (!Return(cpu, size))
            return false;
        s->NmiUnblocking = false;
        return true;
    }

    private static bool Return(LogicalProcessor cpu, int size)
    {
        CpuState* s = cpu.State;
        if ((s->Cr0 & Cr0.Pe) == 0)
            return FromReal(cpu, size);
        if ((s->SystemFlags & Rflags.Vm) != 0)
            return FromVirtual8086(cpu, size);
        if ((s->SystemFlags & Rflags.Nt) != 0)
            return FromNestedTask(cpu);

        if (!Pop(cpu, size, out ulong rip, out ushort selector, out ulong flags))
            return false;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        if ((flags & Rflags.Vm) != 0 && s->Cpl == 0 && !ia32e && size == 4)
            return ToVirtual8086(cpu, rip, selector, flags);
        if (!FarTransfer.CheckReturn(cpu, selector, rip, out Descriptor code))
            return false;
        int cpl = Selector.Rpl(selector);
        ulong changeable = Changeable(s, size);
        ulong popped = (ulong)size * 3;
        if (cpl == s->Cpl && s->CodeSize != 64)
        {
            StackPointer.Set(s, s->Gpr[Gpr.Rsp] + popped, StackPointer.Mask(s));
            SetFlags(s, flags, changeable);
            CodeSegment.Load(cpu, selector, code, cpl);
            s->Rip = rip;
            return true;
        }
        if (!StackPointer.Read(cpu, popped, size, out ulong pointer) || !StackPointer.Read(cpu, popped + (ulong)size, size, out ulong stackSelector))
            return false;
        if (!FarTransfer.OuterStack(cpu, (ushort)stackSelector, cpl, CodeSegment.IsLong(s, code), out SegmentState stack))
            return false;
        SetFlags(s, flags, changeable);
        FarTransfer.ReturnOutward(cpu, selector, code, cpl, stack, pointer, 0);
        s->Rip = rip;
        return true;
    }

    /// <summary>The flags that an IRET or POPF in protected mode may change, at the current privilege level.</summary>
    private static ulong Changeable(CpuState* s, int size)
    {
        ulong changeable = size == 2 ? Flags16 : Flags32;
        if (s->Cpl <= Iopl(s))
            changeable |= Rflags.If;
        if (s->Cpl == 0)
            changeable |= Rflags.Iopl | (size == 2 ? 0 : Rflags.Vif | Rflags.Vip);
        return changeable;
    }

    /// <summary>The I/O privilege level.</summary>
    public static int Iopl(CpuState* s) => (int)(s->SystemFlags >> 12) & 3;

    /// <summary>Replaces the flags that a mask covers.</summary>
    public static void SetFlags(CpuState* s, ulong flags, ulong changeable)
    {
        ulong merged = (Flags.ReadAll(s) & ~changeable) | (flags & changeable);
        Flags.Write(s, merged);
        s->SystemFlags = (merged & ~Rflags.Arithmetic) | Rflags.Fixed1;
    }

    private static bool Pop(LogicalProcessor cpu, int size, out ulong rip, out ushort selector, out ulong flags)
    {
        selector = 0;
        flags = 0;
        if (!StackPointer.Read(cpu, 0, size, out rip) || !StackPointer.Read(cpu, (ulong)size, size, out ulong selectorValue))
            return false;
        selector = (ushort)selectorValue;
        return StackPointer.Read(cpu, (ulong)size * 2, size, out flags);
    }

    private static bool FromReal(LogicalProcessor cpu, int size)
    {
        CpuState* s = cpu.State;
        if (!Pop(cpu, size, out ulong rip, out ushort selector, out ulong flags))
            return false;
        if (rip > s->Cs.Limit)
            return Fault.Record(s, Vector.Gp);
        StackPointer.Set(s, s->Gpr[Gpr.Rsp] + (ulong)size * 3, StackPointer.Mask(s));
        SetFlags(s, flags, (size == 2 ? Flags16 : Flags32) | Rflags.If | Rflags.Iopl);
        CodeSegment.LoadReal(cpu, selector);
        s->Rip = rip;
        return true;
    }

    private static bool FromVirtual8086(LogicalProcessor cpu, int size)
    {
        CpuState* s = cpu.State;
        bool ownInterruptFlag = Iopl(s) == 3;
        if (!ownInterruptFlag && ((s->Cr4 & Cr4.Vme) == 0 || size != 2))
            return Fault.Record(s, Vector.Gp, 0);
        if (!Pop(cpu, size, out ulong rip, out ushort selector, out ulong flags))
            return false;
        if (rip > 0xFFFF)
            return Fault.Record(s, Vector.Gp, 0);
        if (!ownInterruptFlag && ((flags & Rflags.Tf) != 0 || ((flags & Rflags.If) != 0 && (s->SystemFlags & Rflags.Vip) != 0)))
            return Fault.Record(s, Vector.Gp, 0);
        StackPointer.Set(s, s->Gpr[Gpr.Rsp] + (ulong)size * 3, StackPointer.Mask(s));
        if (ownInterruptFlag)
        {
            SetFlags(s, flags, (size == 2 ? Flags16 : Flags32) | Rflags.If);
        }
        else
        {
            SetFlags(s, flags, Flags16);
            s->SystemFlags = (s->SystemFlags & ~Rflags.Vif) | ((flags & Rflags.If) != 0 ? Rflags.Vif : 0);
        }
        CodeSegment.LoadVirtual8086(cpu, selector);
        s->Rip = rip;
        return true;
    }

    private static bool ToVirtual8086(LogicalProcessor cpu, ulong rip, ushort selector, ulong flags)
    {
        CpuState* s = cpu.State;
        ulong* rest = stackalloc ulong[6];
        for (int k = 0; k < 6; k++)
        {
            if (!StackPointer.Read(cpu, (ulong)(12 + k * 4), 4, out rest[k]))
                return false;
        }
        if (rip > 0xFFFF)
            return Fault.Record(s, Vector.Gp, 0);
        SetFlags(s, flags, Rflags.All);
        s->Gpr[Gpr.Rsp] = (uint)rest[0];
        SegmentLoad.LoadVirtual8086(&s->Ss, (ushort)rest[1]);
        SegmentLoad.LoadVirtual8086(&s->Es, (ushort)rest[2]);
        SegmentLoad.LoadVirtual8086(&s->Ds, (ushort)rest[3]);
        SegmentLoad.LoadVirtual8086(&s->Fs, (ushort)rest[4]);
        SegmentLoad.LoadVirtual8086(&s->Gs, (ushort)rest[5]);
        CodeSegment.LoadVirtual8086(cpu, selector);
        s->Rip = rip;
        return true;
    }

    private static bool FromNestedTask(LogicalProcessor cpu)
    {
        CpuState* s = cpu.State;
        if ((s->Efer & Efer.Lma) != 0)
            return Fault.Record(s, Vector.Gp, 0);
        ushort link;
        if (!cpu.Mmu.ReadSystem((uint)s->Tr.Base, (byte*)&link, 2))
            return false;
        return TaskSwitch.Exit(cpu, link, TaskSwitchSource.InterruptReturn, 0);
    }
}
