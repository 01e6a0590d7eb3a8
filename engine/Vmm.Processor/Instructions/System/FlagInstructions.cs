using Vmm.Processor.Events;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;

namespace Vmm.Processor.Instructions.System;

/// <summary>PUSHF, POPF, CLI, STI, STAC and CLAC (SDM volume 2; volume 3, chapter 20 for the virtual interrupt flag).</summary>
internal static unsafe class FlagInstructions
{
    private const ulong Popped16 = Rflags.Arithmetic | Rflags.Tf | Rflags.Df | Rflags.Nt;
    private const ulong Popped32 = Popped16 | Rflags.Ac | Rflags.Id;

    /// <summary>PUSHF.</summary>
    public static Insn* Push<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong flags = Flags.ReadAll(s) & ~(Rflags.Vm | Rflags.Rf);
        if (!M.IsLong && IsVirtual8086(s) && InterruptReturn.Iopl(s) != 3)
        {
            if ((s->Cr4 & Cr4.Vme) == 0 || sizeof(T) != 2)
                return Fault.Raise(s, i, Vector.Gp, 0);
            flags = RealModeInterrupt.VirtualFlags(flags);
        }
        return Stack.Push<T, M>(s, i, Width.Narrow<T>(flags)) ? i + 1 : null;
    }

    /// <summary>POPF.</summary>
    public static Insn* Pop<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        bool virtual8086 = !M.IsLong && IsVirtual8086(s);
        bool virtualInterrupts = virtual8086 && InterruptReturn.Iopl(s) != 3;
        if (virtualInterrupts && ((s->Cr4 & Cr4.Vme) == 0 || sizeof(T) != 2))
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (!Stack.Peek<T, M>(s, i, out T value))
            return null;
        ulong flags = Width.Widen(value);
        ulong changeable = sizeof(T) == 2 ? Popped16 : Popped32;
        if (virtualInterrupts)
        {
            if ((flags & Rflags.Tf) != 0 || ((flags & Rflags.If) != 0 && (s->SystemFlags & Rflags.Vip) != 0))
                return Fault.Raise(s, i, Vector.Gp, 0);
            flags = (flags & ~Rflags.Vif) | ((flags & Rflags.If) != 0 ? Rflags.Vif : 0);
            changeable |= Rflags.Vif;
        }
        else if (virtual8086)
        {
            changeable |= Rflags.If;
        }
        else
        {
            if (s->Cpl <= InterruptReturn.Iopl(s))
                changeable |= Rflags.If;
            if (s->Cpl == 0)
                changeable |= Rflags.Iopl;
        }
        ulong before = s->SystemFlags;
        Stack.Drop<M>(s, (ulong)sizeof(T));
        InterruptReturn.SetFlags(s, flags, changeable | Rflags.Rf);
        if (((before ^ s->SystemFlags) & Rflags.Ac) != 0)
            LogicalProcessor.Of(s).ModeChanged();
        return Flow.Leave(s, i);
    }

    /// <summary>CLI.</summary>
    public static Insn* ClearInterrupt(CpuState* s, Insn* i)
    {
        switch (InterruptFlag(s))
        {
            case Target.Real:
                s->SystemFlags &= ~Rflags.If;
                return i + 1;
            case Target.Virtual:
                s->SystemFlags &= ~Rflags.Vif;
                return i + 1;
            default:
                return Fault.Raise(s, i, Vector.Gp, 0);
        }
    }

    /// <summary>STI: interrupts stay blocked for one more instruction where they were disabled.</summary>
    public static Insn* SetInterrupt(CpuState* s, Insn* i)
    {
        switch (InterruptFlag(s))
        {
            case Target.Real:
                if ((s->SystemFlags & Rflags.If) != 0)
                    return i + 1;
                s->SystemFlags |= Rflags.If;
                s->InterruptShadow = 1;
                return Flow.Leave(s, i);
            case Target.Virtual when (s->SystemFlags & Rflags.Vip) == 0:
                s->SystemFlags |= Rflags.Vif;
                return i + 1;
            default:
                return Fault.Raise(s, i, Vector.Gp, 0);
        }
    }

    /// <summary>STAC.</summary>
    public static Insn* SetAccess(CpuState* s, Insn* i) => ChangeAccess(s, i, s->SystemFlags | Rflags.Ac);

    /// <summary>CLAC.</summary>
    public static Insn* ClearAccess(CpuState* s, Insn* i) => ChangeAccess(s, i, s->SystemFlags & ~Rflags.Ac);

    private static Insn* ChangeAccess(CpuState* s, Insn* i, ulong flags)
    {
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (s->Cpl != 0 || (cpu.Environment.Features.Cr4Allowed & Cr4.Smap) == 0)
            return Fault.Raise(s, i, Vector.Ud);
        s->SystemFlags = flags;
        cpu.ModeChanged();
        return i + 1;
    }

    private enum Target
    {
        None,
        Real,
        Virtual,
    }

    /// <summary>Which interrupt flag the program may change: IF, VIF or none.</summary>
    private static Target InterruptFlag(CpuState* s)
    {
        if ((s->Cr0 & Cr0.Pe) == 0 || s->Cpl <= InterruptReturn.Iopl(s))
            return Target.Real;
        ulong extension = IsVirtual8086(s) ? Cr4.Vme : Cr4.Pvi;
        return s->Cpl == 3 && (s->Cr4 & extension) != 0 ? Target.Virtual : Target.None;
    }

    private static bool IsVirtual8086(CpuState* s) => (s->SystemFlags & Rflags.Vm) != 0;
}
