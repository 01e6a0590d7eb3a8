using System.Runtime.CompilerServices;
using Vmm.Processor.Events;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Vmx;

/// <summary>Loading and saving of guest state (SDM volume 3, sections 27.3.2 and 28.3).</summary>
internal static unsafe class GuestState
{
    private const ulong Dr7Defined = 0xFFFF_23FF, Dr7Fixed = 0x400;

    /// <summary>Copies the guest-state area, and the controls that the processor acts on, into the processor.</summary>
    public static void Load(LogicalProcessor cpu, Vmcs vmcs)
    {
        CpuState* s = cpu.State;
        s->PinControls = (PinControls)vmcs.Read32(VmcsField.PinBasedControls);
        s->ProcControls = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls);
        s->SecondaryControls = (s->ProcControls & ProcControls.ActivateSecondary) != 0
            ? (SecondaryControls)vmcs.Read32(VmcsField.SecondaryControls) : 0;
        cpu.Mmu.EnterContext(vmcs, s->SecondaryControls);
        s->ExceptionBitmap = vmcs.Read32(VmcsField.ExceptionBitmap);
        var entry = (VmEntryControls)vmcs.Read32(VmcsField.VmEntryControls);

        s->Cr0 = vmcs[VmcsField.GuestCr0];
        s->Cr3 = vmcs[VmcsField.GuestCr3];
        s->Cr4 = vmcs[VmcsField.GuestCr4];
        if ((entry & VmEntryControls.LoadDebugControls) != 0)
        {
            ulong dr7 = vmcs[VmcsField.GuestDr7] & Dr7Defined | Dr7Fixed;
            bool changed = s->Dr7 != dr7;
            s->Dr7 = dr7;
            s->DebugCtl = vmcs[VmcsField.GuestDebugCtl];
            if (changed)
                cpu.DebugRegistersChanged();
        }
        if ((entry & VmEntryControls.LoadEfer) != 0)
            s->Efer = vmcs[VmcsField.GuestEfer];
        else if ((entry & VmEntryControls.Ia32eModeGuest) != 0)
            s->Efer |= Efer.Lma | Efer.Lme;
        else
            s->Efer &= (s->Cr0 & Cr0.Pg) != 0 ? ~(Efer.Lma | Efer.Lme) : ~Efer.Lma;
        if ((entry & VmEntryControls.LoadPat) != 0)
            s->Pat = vmcs[VmcsField.GuestPat];
        s->SysenterCs = vmcs[VmcsField.GuestSysenterCs];
        s->SysenterEsp = vmcs[VmcsField.GuestSysenterEsp];
        s->SysenterEip = vmcs[VmcsField.GuestSysenterEip];

        LoadSegments(vmcs, s);
        s->GdtBase = vmcs[VmcsField.GuestGdtrBase];
        s->GdtLimit = vmcs.Read32(VmcsField.GuestGdtrLimit);
        s->IdtBase = vmcs[VmcsField.GuestIdtrBase];
        s->IdtLimit = vmcs.Read32(VmcsField.GuestIdtrLimit);

        bool isProtected = (s->Cr0 & Cr0.Pe) != 0;
        bool virtual8086 = (vmcs[VmcsField.GuestRflags] & Rflags.Vm) != 0;
        s->Cpl = !isProtected ? 0 : virtual8086 ? 3 : s->Ss.Dpl;
        s->CodeSize = (s->Efer & Efer.Lma) != 0 && (s->Cs.Rights & SegmentRights.Long) != 0 ? 64
            : (s->Cs.Rights & SegmentRights.Big) != 0 ? 32 : 16;
        Resume(cpu, vmcs);
    }

    /// <summary>Copies what an entry has to load even where the processor holds the rest of the guest-state area from its last exit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Resume(LogicalProcessor cpu, Vmcs vmcs)
    {
        CpuState* s = cpu.State;
        // Interrupt-window exiting comes and goes without further notice.
        s->ProcControls = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls);
        s->Gpr[Gpr.Rsp] = vmcs[VmcsField.GuestRsp];
        s->Rip = vmcs[VmcsField.GuestRip];
        ulong flags = vmcs[VmcsField.GuestRflags];
        Flags.Write(s, flags);
        s->SystemFlags = (flags & ~Rflags.Arithmetic & Rflags.All) | Rflags.Fixed1;

        uint interruptibility = vmcs.Read32(VmcsField.GuestInterruptibility);
        s->InterruptShadow = interruptibility & 3;
        s->NmiBlocked = (interruptibility & 8) != 0;
        s->SmiBlocked = (interruptibility & 4) != 0;
        s->NmiUnblocking = false;
        s->Activity = (ActivityState)vmcs.Read32(VmcsField.GuestActivityState);
        // Without an enabled breakpoint or a single step nothing is pending (SDM volume 3, section 27.7.3).
        const ulong pending = DebugStatus.EnabledBreakpoint | DebugStatus.SingleStep;
        ulong debug = vmcs[VmcsField.GuestPendingDebugExceptions];
        s->PendingDebug = (debug & pending) != 0 ? debug & (pending | DebugStatus.Breakpoints) : 0;
        s->MonitorArmed = false;
        if (UsesPdptes(s))
        {
            if (cpu.Mmu.EptEnabled)
                new ReadOnlySpan<ulong>(vmcs.Location(VmcsField.GuestPdpte0), 4).CopyTo(cpu.Mmu.Pdptes);
            else
                cpu.Mmu.LoadPdptes(s->Cr3);
        }
        s->ApicEvents = ApicEvents.None;
        if ((s->ProcControls & ProcControls.TprShadow) != 0)
            cpu.VirtualApic.Enter(vmcs);
    }

    /// <summary>
    /// Whether, once it was loaded, the processor goes on holding what the guest-state area has after an exit: what entries load exits
    /// save, and an entry owes the translations nothing (SDM volume 3, section 29.4.3.1).
    /// </summary>
    public static bool StaysHeld(LogicalProcessor cpu, Vmcs vmcs)
    {
        var entry = (VmEntryControls)vmcs.Read32(VmcsField.VmEntryControls);
        var exit = (VmExitControls)vmcs.Read32(VmcsField.VmExitControls);
        return ((entry & VmEntryControls.LoadDebugControls) == 0 || (exit & VmExitControls.SaveDebugControls) != 0)
            && ((entry & VmEntryControls.LoadEfer) == 0 || (exit & VmExitControls.SaveEfer) != 0)
            && ((entry & VmEntryControls.LoadPat) == 0 || (exit & VmExitControls.SavePat) != 0)
            && (!cpu.Mmu.EptEnabled || (cpu.State->SecondaryControls & SecondaryControls.EnableVpid) != 0);
    }

    /// <summary>Copies the processor's state into the guest-state area.</summary>
    public static void Save(LogicalProcessor cpu, Vmcs vmcs)
    {
        CpuState* s = cpu.State;
        var exit = (VmExitControls)vmcs.Read32(VmcsField.VmExitControls);
        vmcs.Save(VmcsField.GuestCr0, s->Cr0);
        vmcs.Save(VmcsField.GuestCr3, s->Cr3);
        vmcs.Save(VmcsField.GuestCr4, s->Cr4);
        if ((exit & VmExitControls.SaveDebugControls) != 0)
        {
            vmcs.Save(VmcsField.GuestDr7, s->Dr7);
            vmcs.Save(VmcsField.GuestDebugCtl, s->DebugCtl);
        }
        if ((exit & VmExitControls.SaveEfer) != 0)
            vmcs.Save(VmcsField.GuestEfer, s->Efer);
        if ((exit & VmExitControls.SavePat) != 0)
            vmcs.Save(VmcsField.GuestPat, s->Pat);
        // The processor writes this control itself; it needs no check.
        ulong* entry = vmcs.Location(VmcsField.VmEntryControls);
        *entry = *entry & ~(ulong)VmEntryControls.Ia32eModeGuest | ((s->Efer & Efer.Lma) != 0 ? (ulong)VmEntryControls.Ia32eModeGuest : 0);
        vmcs.Save(VmcsField.GuestSysenterCs, s->SysenterCs);
        vmcs.Save(VmcsField.GuestSysenterEsp, s->SysenterEsp);
        vmcs.Save(VmcsField.GuestSysenterEip, s->SysenterEip);

        SaveSegments(vmcs, s);
        vmcs.Save(VmcsField.GuestGdtrBase, s->GdtBase);
        vmcs.Save(VmcsField.GuestGdtrLimit, s->GdtLimit);
        vmcs.Save(VmcsField.GuestIdtrBase, s->IdtBase);
        vmcs.Save(VmcsField.GuestIdtrLimit, s->IdtLimit);

        vmcs.Save(VmcsField.GuestRsp, s->Gpr[Gpr.Rsp]);
        vmcs.Save(VmcsField.GuestRip, s->Rip);
        vmcs.Save(VmcsField.GuestRflags, Flags.ReadAll(s));
        vmcs.Save(VmcsField.GuestInterruptibility, s->InterruptShadow & 3 | (s->NmiBlocked ? 8u : 0) | (s->SmiBlocked ? 4u : 0));
        vmcs.Save(VmcsField.GuestActivityState, (uint)s->Activity);
        // The single-step trap of a MOV to SS stays behind with the blocking: VM entry wants to see it (SDM volume 3, section 27.3.1.5).
        bool stepping = (s->InterruptShadow & 2) != 0 && (s->SystemFlags & Rflags.Tf) != 0 && (s->DebugCtl & DebugControl.BranchStep) == 0;
        vmcs.Save(VmcsField.GuestPendingDebugExceptions, s->PendingDebug | (stepping ? DebugStatus.SingleStep : 0));
        if ((exit & VmExitControls.SavePreemptionTimer) != 0)
            vmcs.Save(VmcsField.PreemptionTimerValue, cpu.PreemptionTimerRemaining);
        if (cpu.Mmu.EptEnabled && UsesPdptes(s))
            cpu.Mmu.Pdptes.CopyTo(new Span<ulong>(vmcs.Location(VmcsField.GuestPdpte0), 4));
        // The valid bit of the entry's event is cleared on every exit (SDM volume 3, section 28.2).
        vmcs[VmcsField.VmEntryInterruptionInformation] &= ~(1UL << 31);
    }

    /// <summary>Event injection (SDM volume 3, section 27.6). False where the delivery itself ended in a VM exit.</summary>
    public static bool InjectEvent(LogicalProcessor cpu, Vmcs vmcs)
    {
        CpuState* s = cpu.State;
        vmcs[VmcsField.IdtVectoringInformation] = 0;
        uint information = vmcs.Read32(VmcsField.VmEntryInterruptionInformation);
        if ((information & 1u << 31) == 0)
        {
            if (s->Activity is ActivityState.Shutdown or ActivityState.WaitForSipi)
                s->PendingDebug = 0;
            return true;
        }
        var type = (EventType)(information >> 8 & 7);
        if (type == EventType.Other)
        {
            cpu.PendMonitorTrap();
            return true;
        }
        // Debug exceptions stay pending only behind an INT n or INT1 that follows a MOV to SS (SDM volume 3, section 27.7.3).
        if (type is not (EventType.SoftwareInterrupt or EventType.PrivilegedSoftwareException) || (s->InterruptShadow & 2) == 0)
            s->PendingDebug = 0;
        // An entry that injects an event leaves the processor active and not blocked (sections 27.7.1 and 27.7.2).
        s->InterruptShadow = 0;
        s->Activity = ActivityState.Active;
        uint length = type is EventType.SoftwareInterrupt or EventType.SoftwareException or EventType.PrivilegedSoftwareException
            ? vmcs.Read32(VmcsField.VmEntryInstructionLength) : 0;
        bool hasError = (information & 1 << 11) != 0;
        // CR2 and DR6 are L0's business when it injects: they must come out of the delivery as they are now.
        s->FaultAddress = (information & 0xFF) == Vector.Pf ? s->Cr2 : 0;
        if (!EventDelivery.Dispatch(cpu, new GuestEvent(information & 0xFF, type, hasError, vmcs.Read32(VmcsField.VmEntryExceptionErrorCode), length, Injected: true)))
            return false;
        if ((s->ProcControls & ProcControls.MonitorTrapFlag) != 0)
            cpu.PendMonitorTrap();
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool UsesPdptes(CpuState* s) =>
        (s->Cr0 & (Cr0.Pe | Cr0.Pg)) == (Cr0.Pe | Cr0.Pg) && (s->Cr4 & Cr4.Pae) != 0 && (s->Efer & Efer.Lma) == 0;

    private static void LoadSegments(Vmcs vmcs, CpuState* s)
    {
        ulong* selectors = vmcs.Location(VmcsField.GuestEsSelector);
        ulong* limits = vmcs.Location(VmcsField.GuestEsLimit);
        ulong* rights = vmcs.Location(VmcsField.GuestEsAccessRights);
        ulong* bases = vmcs.Location(VmcsField.GuestEsBase);
        SegmentState* segment = &s->Es;
        for (int k = 0; k < 8; k++, segment++)
        {
            segment->Selector = (ushort)selectors[k];
            segment->Base = bases[k];
            // Most entries follow an exit that changed no segment.
            if (segment->Limit == (uint)limits[k] && segment->Rights == (uint)rights[k])
                continue;
            segment->Limit = (uint)limits[k];
            segment->Rights = (uint)rights[k];
            segment->Refresh();
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SaveSegments(Vmcs vmcs, CpuState* s)
    {
        ulong* selectors = vmcs.Location(VmcsField.GuestEsSelector);
        ulong* limits = vmcs.Location(VmcsField.GuestEsLimit);
        ulong* rights = vmcs.Location(VmcsField.GuestEsAccessRights);
        ulong* bases = vmcs.Location(VmcsField.GuestEsBase);
        SegmentState* segment = &s->Es;
        for (int k = 0; k < 8; k++, segment++)
        {
            selectors[k] = segment->Selector;
            limits[k] = segment->Limit;
            rights[k] = segment->Rights;
            bases[k] = segment->Base;
        }
    }
}
