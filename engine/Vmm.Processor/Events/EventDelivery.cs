using Vmm.Processor.Execution;
using Vmm.Processor.Segmentation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Events;

/// <summary>
/// Delivers interrupts and exceptions to the guest, or turns them into VM exits (SDM volume 3, chapter 6 and sections 26.2,
/// 28.2.2 to 28.2.4).
/// </summary>
public static unsafe class EventDelivery
{
    // DR6.BD: a debug register was accessed while DR7.GD was set. The one debug exception of ours that is a fault.
    private const ulong DebugAccess = 1 << 13;
    private const ulong GeneralDetect = 1 << 13;
    private const ulong DebugQualification = DebugStatus.Breakpoints | DebugStatus.AccessDetected | DebugStatus.SingleStep;

    /// <summary>
    /// Brings about an event that arises in the guest: exits where the VMCS intercepts it, else delivers it; faults on the way
    /// become further events, double faults or a triple fault. <see cref="CpuState.Rip"/> is that of the instruction that caused
    /// the event, or the next one to execute. An injected event is not intercepted itself; what goes wrong in its delivery is
    /// treated as any other exception. For a page fault or debug exception that is not injected,
    /// <see cref="CpuState.FaultAddress"/> holds the linear address or the DR6 bits.
    /// </summary>
    /// <returns>True when the guest goes on in a handler at <see cref="CpuState.Rip"/>; false with <see cref="CpuState.Stop"/> = <see cref="StopReason.VmExit"/>.</returns>
    public static bool Dispatch(LogicalProcessor cpu, GuestEvent e)
    {
        CpuState* s = cpu.State;
        bool injected = e.Injected;
        GuestEvent? original = null;
        e = e.Complete(s);
        // Debug exceptions that were waiting are one with a debug exception that comes about now; INT 1 is a mere interrupt.
        if (e.Vector == Vector.Db && e.Type is EventType.HardwareException or EventType.PrivilegedSoftwareException && !injected)
        {
            e = e with { Payload = e.Payload | s->PendingDebug };
            s->PendingDebug = 0;
        }
        while (true)
        {
            if (!injected)
            {
                if (Intercepts(cpu, e))
                    return ExitFor(cpu, e, original);
                LeaveTraces(s, e);
            }
            injected = false;
            s->Stop = StopReason.Dispatch;
            s->NmiUnblocking = false;
            // NMIs are blocked from the beginning of the delivery on (SDM volume 3, section 28.1).
            if (e.Type == EventType.Nmi)
                s->NmiBlocked = true;
            if (Deliver(cpu, e))
            {
                s->InterruptShadow = 0;
                s->Activity = ActivityState.Active;
                cpu.EventsDelivered++;
                return true;
            }
            if (s->Stop != StopReason.VmExit && s->FaultVector == Vector.VmExit)
                cpu.Mmu.SettleExit(delivering: true);
            if (s->Stop == StopReason.VmExit)
            {
                // RF is saved as the delivery would have pushed it (SDM volume 3, section 28.3.3).
                if (SetsResumeFlag(e))
                    s->SystemFlags |= Rflags.Rf;
                RecordVectoring(cpu, e);
                return false;
            }
            GuestEvent second = GuestEvent.OfFault(s);
            switch (Combine(e, second))
            {
                case Combination.Serial:
                    original = e;
                    e = second;
                    break;
                case Combination.DoubleFault:
                    // The second exception is intercepted as itself, before the two become one.
                    if (Intercepts(cpu, second))
                        return ExitFor(cpu, second, e);
                    LeaveTraces(s, second);
                    original = null;
                    e = new GuestEvent(Vector.Df, EventType.HardwareException, HasError: ProtectedMode(s), Error: 0);
                    break;
                default:
                    if (Intercepts(cpu, second))
                        return ExitFor(cpu, second, e);
                    VmExit.Record(s, ExitReason.TripleFault);
                    cpu.Vmcs![VmcsField.IdtVectoringInformation] = 0;
                    return false;
            }
        }
    }

    internal enum Combination
    {
        Serial,
        DoubleFault,
        TripleFault,
    }

    /// <summary>What two exceptions in a row amount to (SDM volume 3, tables 6-4 and 6-5).</summary>
    internal static Combination Combine(in GuestEvent first, in GuestEvent second)
    {
        if (first.Type != EventType.HardwareException)
            return Combination.Serial;
        bool secondContributory = IsContributory(second.Vector);
        bool secondPage = second.Vector is Vector.Pf or Vector.Ve;
        if (first.Vector == Vector.Df)
            return secondContributory || secondPage ? Combination.TripleFault : Combination.Serial;
        if (IsContributory(first.Vector))
            return secondContributory ? Combination.DoubleFault : Combination.Serial;
        if (first.Vector is Vector.Pf or Vector.Ve)
            return secondContributory || secondPage ? Combination.DoubleFault : Combination.Serial;
        return Combination.Serial;
    }

    private static bool IsContributory(uint vector) => vector is Vector.De or Vector.Ts or Vector.Np or Vector.Ss or Vector.Gp;

    private static bool Intercepts(LogicalProcessor cpu, in GuestEvent e)
    {
        CpuState* s = cpu.State;
        switch (e.Type)
        {
            case EventType.Nmi:
                return (s->PinControls & PinControls.NmiExiting) != 0;
            case EventType.ExternalInterrupt or EventType.SoftwareInterrupt or EventType.Other:
                return false;
        }
        bool bit = e.Vector < 32 && (s->ExceptionBitmap >> (int)e.Vector & 1) != 0;
        if (e.Vector != Vector.Pf)
            return bit;
        Vmcs vmcs = cpu.Vmcs!;
        bool match = (e.Error & vmcs.Read32(VmcsField.PageFaultErrorCodeMask)) == vmcs.Read32(VmcsField.PageFaultErrorCodeMatch);
        return bit == match;
    }

    private static bool ExitFor(LogicalProcessor cpu, in GuestEvent e, GuestEvent? original)
    {
        CpuState* s = cpu.State;
        Vmcs vmcs = cpu.Vmcs!;
        VmExit.Record(s, ExitReason.ExceptionOrNmi, e.Vector == Vector.Db ? e.Payload & DebugQualification : e.Payload);
        // Bit 12: the fault of an IRET that has unblocked NMIs (SDM volume 3, section 28.2.2).
        bool unblocked = s->NmiUnblocking && original is null && e.Vector != Vector.Df;
        vmcs[VmcsField.VmExitInterruptionInformation] = e.Information | (unblocked ? 1u << 12 : 0);
        s->NmiUnblocking = false;
        if (SetsResumeFlag(e))
            s->SystemFlags |= Rflags.Rf;
        vmcs[VmcsField.VmExitInterruptionErrorCode] = e.HasError ? e.Error : 0;
        vmcs[VmcsField.VmExitInstructionLength] = e.InstructionLength;
        if (original is { } vectored && e.Vector != Vector.Df)
            RecordVectoring(cpu, vectored);
        else
            vmcs[VmcsField.IdtVectoringInformation] = 0;
        return false;
    }

    /// <summary>Tells L0 which event was being delivered when the exit came (SDM volume 3, section 28.2.4).</summary>
    private static void RecordVectoring(LogicalProcessor cpu, in GuestEvent e)
    {
        Vmcs vmcs = cpu.Vmcs!;
        vmcs[VmcsField.IdtVectoringInformation] = e.Information;
        vmcs[VmcsField.IdtVectoringErrorCode] = e.HasError ? e.Error : 0;
        if (e.IsSoftware)
            vmcs[VmcsField.VmExitInstructionLength] = e.InstructionLength;
    }

    /// <summary>What an exception changes even where its delivery fails: CR2, DR6, DR7.GD, IA32_DEBUGCTL.LBR and BTF.</summary>
    private static void LeaveTraces(CpuState* s, in GuestEvent e)
    {
        if (e.Type == EventType.HardwareException && e.Vector == Vector.Pf)
        {
            s->Cr2 = e.Payload;
        }
        else if (e.Vector == Vector.Db && e.Type is (EventType.HardwareException or EventType.PrivilegedSoftwareException))
        {
            // INT1 reports nothing in DR6.
            if (e.Type == EventType.HardwareException)
                s->Dr6 = (s->Dr6 & ~0xFUL) | (e.Payload & 0xE00F);
            s->Dr7 &= ~GeneralDetect;
            s->DebugCtl &= ~(DebugControl.LastBranch | DebugControl.BranchStep);
        }
    }

    private static bool ProtectedMode(CpuState* s) => (s->Cr0 & Cr0.Pe) != 0;

    private static bool Deliver(LogicalProcessor cpu, in GuestEvent e)
    {
        CpuState* s = cpu.State;
        ulong rip = e.IsSoftware ? Flow.Wrap(s, s->Rip + e.InstructionLength) : s->Rip;
        ulong flags = Flags.ReadAll(s) | (SetsResumeFlag(e) ? Rflags.Rf : 0);
        if (!ProtectedMode(s))
            return RealModeInterrupt.Deliver(cpu, e.Vector, rip, flags);
        // EXT: the event was not the program's own wish (SDM volume 3, section 6.13).
        uint external = e.Type is EventType.SoftwareInterrupt or EventType.SoftwareException ? 0u : 1u;
        if ((s->SystemFlags & Rflags.Vm) != 0 && e.Type == EventType.SoftwareInterrupt)
        {
            if ((s->Cr4 & Cr4.Vme) != 0)
            {
                bool redirect = TaskState.RedirectsToProgram(cpu, e.Vector, out bool faulted);
                if (faulted)
                    return false;
                if (redirect)
                    return RealModeInterrupt.DeliverVirtual8086(cpu, e.Vector, rip, flags);
            }
            // Injection does not look at IOPL (SDM volume 3, section 27.6.1.2).
            if ((s->SystemFlags & Rflags.Iopl) != Rflags.Iopl && !e.Injected)
                return Fault.Record(s, Vector.Gp, 0);
        }
        bool checkPrivilege = e.Type is EventType.SoftwareInterrupt or EventType.SoftwareException;
        return InterruptGate.Deliver(cpu, e, rip, flags, external, checkPrivilege);
    }

    // The image that an injected event pushes is RFLAGS as loaded (SDM volume 3, section 27.6.1.1).
    private static bool SetsResumeFlag(in GuestEvent e) => !e.Injected && IsFault(e);

    /// <summary>
    /// Whether RFLAGS.RF is set in the pushed image (SDM volume 3, section 18.3.1.1): for faults, so that an instruction
    /// breakpoint on the instruction does not fire again when it restarts.
    /// </summary>
    internal static bool IsFault(in GuestEvent e) =>
        e.Type == EventType.HardwareException && e.Vector switch
        {
            Vector.Db => (e.Payload & DebugAccess) != 0,
            Vector.Df or Vector.Mc => false,
            _ => true,
        };
}
