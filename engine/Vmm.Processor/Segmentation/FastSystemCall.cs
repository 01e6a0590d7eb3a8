using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>SYSCALL, SYSRET, SYSENTER and SYSEXIT (SDM volume 2; volume 3, section 5.8.7), with the conventions of <see cref="FarTransfer"/>.</summary>
internal static unsafe class FastSystemCall
{
    // The flags that SYSRET takes from R11: all but RF, VM and reserved ones.
    private const ulong ReturnFlags = 0x3C_7FD7;

    public static bool Call(LogicalProcessor cpu, ulong nextRip)
    {
        CpuState* s = cpu.State;
        if (s->CodeSize != 64 || (s->Efer & Efer.Sce) == 0)
            return Fault.Record(s, Vector.Ud);
        s->Gpr[Gpr.Rcx] = nextRip;
        s->Gpr[11] = Flags.ReadAll(s) & ~Rflags.Rf;
        // A SYSCALL that masks TF is not followed by a single-step trap, as an INT is not.
        if ((s->Fmask & Rflags.Tf) != 0)
            cpu.EventsDelivered++;
        InterruptReturn.SetFlags(s, 0, s->Fmask | Rflags.Rf);
        ushort selector = (ushort)(s->Star >> 32);
        LoadStack(s, (ushort)((selector & 0xFFFC) + 8), 0);
        CodeSegment.LoadFlat(cpu, (ushort)(selector & 0xFFFC), CodeSegment.FlatLong, 0);
        s->Rip = s->Lstar;
        return true;
    }

    /// <param name="wide">With REX.W: to 64-bit mode, else to compatibility mode.</param>
    public static bool Return(LogicalProcessor cpu, bool wide)
    {
        CpuState* s = cpu.State;
        if (s->CodeSize != 64 || (s->Efer & Efer.Sce) == 0)
            return Fault.Record(s, Vector.Ud);
        ulong rip = s->Gpr[Gpr.Rcx];
        if (s->Cpl != 0 || (wide && !Canonical.Is(s, rip)))
            return Fault.Record(s, Vector.Gp, 0);
        InterruptReturn.SetFlags(s, s->Gpr[11] & ReturnFlags, ~0UL);
        ushort selector = (ushort)(s->Star >> 48);
        LoadStack(s, (ushort)((selector + 8) | 3), 3);
        CodeSegment.LoadFlat(cpu, (ushort)((wide ? selector + 16 : selector) | 3), wide ? CodeSegment.FlatLong : CodeSegment.Flat32, 3);
        s->Rip = wide ? rip : (uint)rip;
        return true;
    }

    public static bool Enter(LogicalProcessor cpu)
    {
        CpuState* s = cpu.State;
        if ((s->Cr0 & Cr0.Pe) == 0 || (s->SysenterCs & 0xFFFC) == 0)
            return Fault.Record(s, Vector.Gp, 0);
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        s->SystemFlags &= ~(Rflags.Vm | Rflags.If | Rflags.Rf);
        s->Gpr[Gpr.Rsp] = ia32e ? s->SysenterEsp : (uint)s->SysenterEsp;
        ushort selector = (ushort)(s->SysenterCs & 0xFFFC);
        LoadStack(s, (ushort)(selector + 8), 0);
        CodeSegment.LoadFlat(cpu, selector, ia32e ? CodeSegment.FlatLong : CodeSegment.Flat32, 0);
        s->Rip = ia32e ? s->SysenterEip : (uint)s->SysenterEip;
        return true;
    }

    /// <param name="wide">With REX.W: to 64-bit mode.</param>
    public static bool Exit(LogicalProcessor cpu, bool wide)
    {
        CpuState* s = cpu.State;
        if ((s->Cr0 & Cr0.Pe) == 0 || s->Cpl != 0 || (s->SysenterCs & 0xFFFC) == 0)
            return Fault.Record(s, Vector.Gp, 0);
        ulong rsp = s->Gpr[Gpr.Rcx];
        ulong rip = s->Gpr[Gpr.Rdx];
        if (wide && (!Canonical.Is(s, rsp) || !Canonical.Is(s, rip)))
            return Fault.Record(s, Vector.Gp, 0);
        s->Gpr[Gpr.Rsp] = wide ? rsp : (uint)rsp;
        ushort selector = (ushort)s->SysenterCs;
        LoadStack(s, (ushort)((selector + (wide ? 40 : 24)) | 3), 3);
        CodeSegment.LoadFlat(cpu, (ushort)((selector + (wide ? 32 : 16)) | 3), wide ? CodeSegment.FlatLong : CodeSegment.Flat32, 3);
        s->Rip = wide ? rip : (uint)rip;
        return true;
    }

    private static void LoadStack(CpuState* s, ushort selector, int cpl)
    {
        s->Ss.Selector = selector;
        s->Ss.Base = 0;
        s->Ss.Limit = 0xFFFF_FFFF;
        s->Ss.Rights = CodeSegment.FlatStack | ((uint)cpl << 5);
        s->Ss.Refresh();
    }
}
