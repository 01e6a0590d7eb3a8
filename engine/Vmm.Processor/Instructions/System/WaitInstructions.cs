using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// PAUSE, MONITOR, MWAIT, UMONITOR, UMWAIT and TPAUSE (SDM volume 2; volume 3, sections 26.1.3 and 26.3). A wait ends at once: the
/// manual lets it end for any reason, and software looks at what it waits for.
/// </summary>
internal static unsafe class WaitInstructions
{
    /// <summary>PAUSE.</summary>
    public static Insn* Pause(CpuState* s, Insn* i)
    {
        if ((s->ProcControls & ProcControls.PauseExiting) != 0)
            return VmExit.At(s, i, ExitReason.Pause);
        // In user mode PAUSE-loop exiting neither exits nor counts.
        if ((s->SecondaryControls & SecondaryControls.PauseLoopExiting) == 0 || s->Cpl != 0)
            return i + 1;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        ulong now = cpu.Environment.TimeStampCounter.Read(LogicalProcessor.Retired(s, i));
        return cpu.SpinsTooLong(now) ? VmExit.At(s, i, ExitReason.Pause) : i + 1;
    }

    /// <summary>MONITOR, of an address of type <typeparamref name="T"/> in DS.</summary>
    public static Insn* Monitor<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Ud);
        if ((s->ProcControls & ProcControls.MonitorExiting) != 0)
            return VmExit.At(s, i, ExitReason.Monitor);
        if ((uint)s->Gpr[Gpr.Rcx] != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        return Arm<T, M>(s, i, (ushort)CpuState.GprOffset(Gpr.Rax));
    }

    /// <summary>MWAIT. Of the extensions only bit 0 exists, interrupts as break events.</summary>
    public static Insn* Wait(CpuState* s, Insn* i)
    {
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Ud);
        if ((s->ProcControls & ProcControls.MwaitExiting) != 0)
            return VmExit.At(s, i, ExitReason.Mwait, s->MonitorArmed ? 1u : 0);
        if ((uint)s->Gpr[Gpr.Rcx] > 1)
            return Fault.Raise(s, i, Vector.Gp, 0);
        s->MonitorArmed = false;
        return i + 1;
    }

    /// <summary>UMONITOR.</summary>
    public static Insn* UserMonitor<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        (s->SecondaryControls & SecondaryControls.UserWaitPause) == 0 ? Fault.Raise(s, i, Vector.Ud) : Arm<T, M>(s, i, i->Operand0);

    /// <summary>UMWAIT.</summary>
    public static Insn* UserWait(CpuState* s, Insn* i) => UserWait(s, i, ExitReason.Umwait);

    /// <summary>TPAUSE.</summary>
    public static Insn* TimedPause(CpuState* s, Insn* i) => UserWait(s, i, ExitReason.Tpause);

    private static Insn* UserWait(CpuState* s, Insn* i, ExitReason reason)
    {
        if ((s->SecondaryControls & SecondaryControls.UserWaitPause) == 0)
            return Fault.Raise(s, i, Vector.Ud);
        if ((s->Cr4 & Cr4.Tsd) != 0 && s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        if ((s->ProcControls & ProcControls.RdtscExiting) != 0)
            return InstructionInformation.Exit(s, i, reason, (uint)(i->Operand0 / 8) << 3, 0);
        if (Register.Read<uint>(s, i->Operand0) > 1)
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (reason == ExitReason.Umwait)
            s->MonitorArmed = false;
        Flags.Write(s, 0);
        return i + 1;
    }

    private static Insn* Arm<T, M>(CpuState* s, Insn* i, ushort register) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.ReadAt<byte, M>(s, i, i->Segment, Width.Widen(Register.Read<T>(s, register)), out _))
            return null;
        s->MonitorArmed = true;
        return i + 1;
    }
}
