using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// Instructions about the processor itself: identification, model-specific registers, time, entropy, caches, translation
/// caches, halting (SDM volume 2; volume 3, section 26.1).
/// </summary>
internal static unsafe class ProcessorInstructions
{
    private const uint TimeStampCounter = 0x10;

    /// <summary>CPUID: always exits, but where the hypervisor has left the answer with the processor.</summary>
    public static Insn* Cpuid(CpuState* s, Insn* i) =>
        s->CpuidAnswers != null && CpuidAnswers.TryAnswer(s) ? i + 1 : VmExit.At(s, i, ExitReason.Cpuid);

    /// <summary>XSETBV: always exits.</summary>
    public static Insn* Xsetbv(CpuState* s, Insn* i) =>
        (s->Cr4 & Cr4.Osxsave) == 0 ? Fault.Raise(s, i, Vector.Ud) : Privileged(s, i) ? VmExit.At(s, i, ExitReason.Xsetbv) : null;

    /// <summary>INVD: always exits.</summary>
    public static Insn* Invd(CpuState* s, Insn* i) => Privileged(s, i) ? VmExit.At(s, i, ExitReason.Invd) : null;

    /// <summary>WBINVD. There are no caches to write back.</summary>
    public static Insn* Wbinvd(CpuState* s, Insn* i)
    {
        if (!Privileged(s, i))
            return null;
        return (s->SecondaryControls & SecondaryControls.WbinvdExiting) != 0 ? VmExit.At(s, i, ExitReason.Wbinvd) : i + 1;
    }

    /// <summary>HLT.</summary>
    public static Insn* Halt(CpuState* s, Insn* i)
    {
        if (!Privileged(s, i))
            return null;
        if ((s->ProcControls & ProcControls.HltExiting) != 0)
            return VmExit.At(s, i, ExitReason.Hlt);
        s->Activity = ActivityState.Hlt;
        return Flow.Leave(s, i);
    }

    /// <summary>RDMSR.</summary>
    public static Insn* ReadMsr(CpuState* s, Insn* i)
    {
        if (!Privileged(s, i))
            return null;
        uint index = (uint)s->Gpr[Gpr.Rcx];
        if (InterceptsMsr(s, index, write: false))
            return VmExit.At(s, i, ExitReason.Rdmsr);
        if (index == TimeStampCounter)
            return ReadTime(s, i);
        ulong value = 0;
        bool virtualized = (s->SecondaryControls & SecondaryControls.VirtualizeX2Apic) != 0
            && LogicalProcessor.Of(s).VirtualApic.TryReadMsr(index, out value);
        if (!virtualized && !ModelSpecificRegisters.TryRead(s, index, out value))
            return Fault.Raise(s, i, Vector.Gp, 0);
        Split(s, value);
        return i + 1;
    }

    /// <summary>WRMSR.</summary>
    public static Insn* WriteMsr(CpuState* s, Insn* i)
    {
        if (!Privileged(s, i))
            return null;
        uint index = (uint)s->Gpr[Gpr.Rcx];
        if (InterceptsMsr(s, index, write: true))
            return VmExit.At(s, i, ExitReason.Wrmsr);
        ulong value = (uint)s->Gpr[Gpr.Rax] | s->Gpr[Gpr.Rdx] << 32;
        if ((s->SecondaryControls & SecondaryControls.VirtualizeX2Apic) != 0
            && LogicalProcessor.Of(s).VirtualApic.TryWriteMsr(index, value, out bool refused))
            return refused ? Fault.Raise(s, i, Vector.Gp, 0) : Flow.Leave(s, i);
        return ModelSpecificRegisters.TryWrite(s, index, value) ? Flow.Leave(s, i) : Fault.Raise(s, i, Vector.Gp, 0);
    }

    /// <summary>Whether RDMSR or WRMSR of a register exits: always without MSR bitmaps, and outside their two ranges (SDM volume 3, section 25.6.9).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool InterceptsMsr(CpuState* s, uint index, bool write)
    {
        if ((s->ProcControls & ProcControls.UseMsrBitmaps) == 0)
            return true;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        uint number = index & 0x1FFF;
        if (index != number && index != (0xC000_0000 | number))
            return true;
        byte* page = cpu.Environment.Memory.HostPage(cpu.Vmcs![VmcsField.MsrBitmaps]);
        uint offset = (write ? 2048u : 0) + (index == number ? 0u : 1024) + (number >> 3);
        return page == null || (page[offset] >> (int)(number & 7) & 1) != 0;
    }

    /// <summary>RDTSC.</summary>
    public static Insn* ReadTimeStamp(CpuState* s, Insn* i)
    {
        if (IsTimeBarred(s))
            return Fault.Raise(s, i, Vector.Gp, 0);
        if ((s->ProcControls & ProcControls.RdtscExiting) != 0)
            return VmExit.At(s, i, ExitReason.Rdtsc);
        return ReadTime(s, i);
    }

    /// <summary>RDTSCP.</summary>
    public static Insn* ReadTimeStampAndProcessor(CpuState* s, Insn* i)
    {
        if ((s->SecondaryControls & SecondaryControls.EnableRdtscp) == 0)
            return Fault.Raise(s, i, Vector.Ud);
        if (IsTimeBarred(s))
            return Fault.Raise(s, i, Vector.Gp, 0);
        if ((s->ProcControls & ProcControls.RdtscExiting) != 0)
            return VmExit.At(s, i, ExitReason.Rdtscp);
        s->Gpr[Gpr.Rcx] = (uint)s->TscAux;
        return ReadTime(s, i);
    }

    /// <summary>RDPMC: no counter exists.</summary>
    public static Insn* ReadPerformanceCounter(CpuState* s, Insn* i)
    {
        bool barred = (s->Cr4 & Cr4.Pce) == 0 && s->Cpl > 0;
        if (!barred && (s->ProcControls & ProcControls.RdpmcExiting) != 0)
            return VmExit.At(s, i, ExitReason.Rdpmc);
        return Fault.Raise(s, i, Vector.Gp, 0);
    }

    /// <summary>RDRAND: always succeeds.</summary>
    public static Insn* Random<T>(CpuState* s, Insn* i) where T : unmanaged =>
        (s->SecondaryControls & SecondaryControls.RdrandExiting) != 0 ? ExitRandom<T>(s, i, ExitReason.Rdrand) : Draw<T>(s, i);

    /// <summary>RDSEED: always succeeds.</summary>
    public static Insn* Seed<T>(CpuState* s, Insn* i) where T : unmanaged =>
        (s->SecondaryControls & SecondaryControls.RdseedExiting) != 0 ? ExitRandom<T>(s, i, ExitReason.Rdseed) : Draw<T>(s, i);

    /// <summary>RDFSBASE and RDGSBASE.</summary>
    public static Insn* ReadBase<T, S>(CpuState* s, Insn* i) where T : unmanaged where S : struct, ISegmentNumber
    {
        if ((s->Cr4 & Cr4.Fsgsbase) == 0 || s->CodeSize != 64)
            return Fault.Raise(s, i, Vector.Ud);
        Register.Write(s, i->Operand0, Width.Narrow<T>(CpuState.Segment(s, S.Number)->Base));
        return i + 1;
    }

    /// <summary>WRFSBASE and WRGSBASE.</summary>
    public static Insn* WriteBase<T, S>(CpuState* s, Insn* i) where T : unmanaged where S : struct, ISegmentNumber
    {
        if ((s->Cr4 & Cr4.Fsgsbase) == 0 || s->CodeSize != 64)
            return Fault.Raise(s, i, Vector.Ud);
        ulong value = Width.Widen(Register.Read<T>(s, i->Operand0));
        if (!Canonical.IsForBase(s, value))
            return Fault.Raise(s, i, Vector.Gp, 0);
        CpuState.Segment(s, S.Number)->Base = value;
        return i + 1;
    }

    /// <summary>SWAPGS.</summary>
    public static Insn* SwapGs(CpuState* s, Insn* i)
    {
        if (!Privileged(s, i))
            return null;
        (s->Gs.Base, s->KernelGsBase) = (s->KernelGsBase, s->Gs.Base);
        return i + 1;
    }

    /// <summary>INVLPG.</summary>
    public static Insn* InvalidatePage<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Privileged(s, i))
            return null;
        ulong linear = Operand.EffectiveAddress(s, i);
        if (!M.IsLong)
            linear = (uint)(linear + CpuState.Segment(s, i->Segment)->Base);
        else if (i->Segment >= Seg.Fs)
            linear += CpuState.Segment(s, i->Segment)->Base;
        if ((s->ProcControls & ProcControls.InvlpgExiting) != 0)
            return VmExit.At(s, i, ExitReason.Invlpg, linear);
        // An address that is not canonical is not an error; nothing is cached for it.
        if (Canonical.Is(s, linear))
            LogicalProcessor.Of(s).Mmu.InvalidatePage(linear);
        return Flow.Leave(s, i);
    }

    /// <summary>INVPCID.</summary>
    public static Insn* InvalidatePcid<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if ((s->SecondaryControls & SecondaryControls.EnableInvpcid) == 0)
            return Fault.Raise(s, i, Vector.Ud);
        if (!Privileged(s, i))
            return null;
        if ((s->ProcControls & ProcControls.InvlpgExiting) != 0)
        {
            uint information = InstructionInformation.OfMemory(i) | (uint)(i->Operand0 / 8) << 28;
            return InstructionInformation.Exit(s, i, ExitReason.Invpcid, information, InstructionInformation.Displacement(s, i));
        }
        if (!Operand.Read<PcidDescriptor, M>(s, i, out PcidDescriptor descriptor))
            return null;
        ulong type = Width.Widen(Register.Read<T>(s, i->Operand0));
        bool pcids = (s->Cr4 & Cr4.Pcide) != 0;
        bool named = type <= 1;
        if (type > 3 || descriptor.Pcid >> 12 != 0 || (named && !pcids && descriptor.Pcid != 0) || (type == 0 && !Canonical.IsForBase(s, descriptor.Linear)))
            return Fault.Raise(s, i, Vector.Gp, 0);
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (type == 0 && descriptor.Pcid == (pcids ? s->Cr3 & 0xFFF : 0))
            cpu.Mmu.InvalidatePage(descriptor.Linear);
        else if (named)
            cpu.Mmu.FlushPcid((uint)descriptor.Pcid);
        else
            cpu.Mmu.Flush(global: true);
        cpu.ModeChanged();
        return Flow.Leave(s, i);
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct PcidDescriptor
    {
        public ulong Pcid;
        public ulong Linear;
    }

    private static bool Privileged(CpuState* s, Insn* i)
    {
        if (s->Cpl == 0)
            return true;
        Fault.Raise(s, i, Vector.Gp, 0);
        return false;
    }

    private static bool IsTimeBarred(CpuState* s) => (s->Cr4 & Cr4.Tsd) != 0 && s->Cpl > 0;

    /// <summary>
    /// A guest that has read when the VMX-preemption timer expires executes nothing more (SDM volume 3, section 26.5.1): where the
    /// counter follows the host's time, it is past the deadline before the budget that is held back for the timer has run out.
    /// </summary>
    private static Insn* ReadTime(CpuState* s, Insn* i)
    {
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        ulong value = cpu.Environment.TimeStampCounter.Read(LogicalProcessor.Retired(s, i));
        Split(s, cpu.ToGuestTimeStamp(value));
        return value < cpu.PreemptionTimerDeadline ? i + 1 : Flow.Leave(s, i);
    }

    private static void Split(CpuState* s, ulong value)
    {
        s->Gpr[Gpr.Rax] = (uint)value;
        s->Gpr[Gpr.Rdx] = value >> 32;
    }

    private static Insn* Draw<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, Width.Narrow<T>(LogicalProcessor.Of(s).Environment.Entropy.Next()));
        Flags.Write(s, Rflags.Cf);
        return i + 1;
    }

    private static Insn* ExitRandom<T>(CpuState* s, Insn* i, ExitReason reason) where T : unmanaged
    {
        uint size = sizeof(T) == 2 ? 0u : sizeof(T) == 4 ? 1u : 2u;
        return InstructionInformation.Exit(s, i, reason, (uint)(i->Operand0 / 8) << 3 | size << 11, 0);
    }
}
