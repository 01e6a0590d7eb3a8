using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// VM exits from L2 to L1: vmcs12 gets what vmcs02 and L0 know, and L1 goes on from its host-state area (SDM volume 3, chapter 28).
/// </summary>
internal static class NestedExit
{
    private const uint EventValid = 1u << 31;
    private const uint AbortStore = 1, AbortLoad = 4, AbortPdptes = 2;
    private const ulong BlockedByNmi = 1 << 3;

    /// <summary>Reflects the exit that the hardware has just made from vmcs02.</summary>
    public static void Reflect(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        SaveGuest(vcpu);
        nested.Vmcs12.CopyFrom(nested.Vmcs02, VmcsFieldType.ExitInformation);
        Leave(vcpu, nested.Vmcs12.Read32(VmcsField.VmExitMsrStoreCount) != 0 ? nested.TimeStamp.AtExit(vcpu) : null);
    }

    /// <summary>Leaves L2 for a reason that L0 has found: something that arrived, or an exception that L0 raises.</summary>
    /// <param name="vcpu">The vCPU, in L2 between two instructions or at the one that L0 refuses.</param>
    /// <param name="reason">The basic exit reason.</param>
    /// <param name="qualification">The exit qualification.</param>
    /// <param name="information">The VM-exit interruption information; 0 for none.</param>
    /// <param name="error">Its error code.</param>
    public static void Raise(Vcpu vcpu, ExitReason reason, ulong qualification = 0, uint information = 0, uint error = 0)
    {
        SaveGuest(vcpu);
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        vmcs12[VmcsField.ExitReason] = (uint)reason;
        vmcs12[VmcsField.ExitQualification] = qualification;
        vmcs12[VmcsField.VmExitInterruptionInformation] = information;
        vmcs12[VmcsField.VmExitInterruptionErrorCode] = error;
        vmcs12[VmcsField.VmExitInstructionLength] = 0;
        vmcs12[VmcsField.VmExitInstructionInformation] = 0;
        vmcs12[VmcsField.IdtVectoringInformation] = 0;
        Leave(vcpu, timeStamp: null);
        if (reason == ExitReason.ExceptionOrNmi && (information & EventValid) != 0 && (EventType)(information >> 8 & 7) == EventType.Nmi)
            vcpu.Vmcs01[VmcsField.GuestInterruptibility] |= BlockedByNmi;
    }

    /// <summary>A VM entry of L1 that has failed on the guest state or the MSR list: nothing of L2 is saved (SDM volume 3, section 27.8).</summary>
    public static void FailEntry(Vcpu vcpu, uint reason, ulong qualification)
    {
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        vmcs12[VmcsField.ExitReason] = reason;
        vmcs12[VmcsField.ExitQualification] = qualification;
        vcpu.Machine.Tracing?.EntryFailed(vcpu);
        vcpu.Counters.NestedEntriesFailed++;
        vcpu.Nested.StoreEnlightened();
        LoadHost(vcpu);
    }

    private static void Leave(Vcpu vcpu, ulong? timeStamp)
    {
        vcpu.Machine.Tracing?.Reflected(vcpu);
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        vcpu.Counters.CountReflection(vmcs12.Read32(VmcsField.ExitReason));
        vmcs12[VmcsField.VmEntryInterruptionInformation] = vmcs12.Read32(VmcsField.VmEntryInterruptionInformation) & ~EventValid;
        if (!NestedMsrAreas.Store(vcpu, vmcs12[VmcsField.VmExitMsrStoreAddress], vmcs12.Read32(VmcsField.VmExitMsrStoreCount), timeStamp))
        {
            Abort(vcpu, AbortStore);
            return;
        }
        vcpu.Nested.StoreEnlightened();
        LoadHost(vcpu, (ExitReason)(ushort)vmcs12.Read32(VmcsField.ExitReason));
    }

    /// <summary>Leaves L2 without a VM exit that L1 would see: what its vmcs12 has recorded stays as it is.</summary>
    public static void Discard(Vcpu vcpu)
    {
        vcpu.Nested.Timer.Cancel();
        LoadHost(vcpu);
    }

    /// <summary>
    /// Leaves L2 without L1's knowledge and for a while: its state is in vmcs12, vmcs01 is current, and neither of them has any of L1's.
    /// </summary>
    public static void Suspend(Vcpu vcpu)
    {
        SaveGuest(vcpu);
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        vmcs12[VmcsField.VmEntryInterruptionInformation] = vmcs12.Read32(VmcsField.VmEntryInterruptionInformation) & ~EventValid;
        vcpu.SwitchTo(vcpu.Vmcs01, guestMode: false);
        vcpu.Apicv.ServiceDeferred();
    }

    private static void SaveGuest(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        SaveGuest(nested, nested.Vmcs12);
        nested.Timer.Cancel();
        if (nested.Has(SecondaryControls.VmcsShadowing))
            nested.StoreShadow();
    }

    /// <summary>Copies L2's state into vmcs12, or a copy of it, as far as its controls ask (SDM volume 3, section 28.3). L2 stays as it is.</summary>
    public static void SaveGuest(NestedVmx nested, Vmcs vmcs12)
    {
        Vmcs vmcs02 = nested.Vmcs02;
        ulong debugCtl = vmcs12[VmcsField.GuestDebugCtl], dr7 = vmcs12[VmcsField.GuestDr7], efer = vmcs12[VmcsField.GuestEfer],
            pat = vmcs12[VmcsField.GuestPat], timer = vmcs12[VmcsField.PreemptionTimerValue], link = vmcs12[VmcsField.VmcsLinkPointer];
        vmcs12.CopyFrom(vmcs02, VmcsFieldType.Guest);
        vmcs12[VmcsField.VmcsLinkPointer] = link;
        if (!nested.Has(VmExitControls.SaveDebugControls))
        {
            vmcs12[VmcsField.GuestDebugCtl] = debugCtl;
            vmcs12[VmcsField.GuestDr7] = dr7;
        }
        if (!nested.Has(VmExitControls.SaveEfer))
            vmcs12[VmcsField.GuestEfer] = efer;
        if (!nested.Has(VmExitControls.SavePat))
            vmcs12[VmcsField.GuestPat] = pat;
        bool savesTimer = nested.Has(PinControls.PreemptionTimer) && nested.Has(VmExitControls.SavePreemptionTimer);
        vmcs12[VmcsField.PreemptionTimerValue] = savesTimer ? nested.Timer.Remaining : timer;
        uint entry = vmcs12.Read32(VmcsField.VmEntryControls) & ~(uint)VmEntryControls.Ia32eModeGuest;
        vmcs12[VmcsField.VmEntryControls] = entry | vmcs02.Read32(VmcsField.VmEntryControls) & (uint)VmEntryControls.Ia32eModeGuest;
        // L2's own VMREAD or VMWRITE on its shadow VMCS may have failed.
        vmcs12[VmcsField.VmInstructionError] = vmcs02[VmcsField.VmInstructionError];
        // EPTP switching has changed the fields themselves (SDM volume 3, section 26.5.6.3).
        if (nested.Has(SecondaryControls.EnableVmFunctions))
        {
            vmcs12[VmcsField.EptPointer] = vmcs02[VmcsField.EptPointer];
            vmcs12[VmcsField.EptpIndex] = vmcs02[VmcsField.EptpIndex];
        }
    }

    /// <summary>L1 goes on from the host-state area of vmcs12 (SDM volume 3, section 28.5).</summary>
    private static void LoadHost(Vcpu vcpu, ExitReason? exit = null)
    {
        NestedVmx nested = vcpu.Nested;
        Vmcs vmcs12 = nested.Vmcs12, vmcs01 = vcpu.Vmcs01;
        Vmcs left = vcpu.Vmcs;
        nested.RunPending = false;
        vcpu.DropEvent();
        bool wide = nested.Has(VmExitControls.HostAddressSpaceSize);
        const ulong Unchanged = Cr0.Et | Cr0.Nw | Cr0.Cd;
        ulong cr0 = vmcs12[VmcsField.HostCr0] & ~Unchanged | left[VmcsField.GuestCr0] & Unchanged;
        ulong efer = nested.Has(VmExitControls.LoadEfer) ? vmcs12[VmcsField.HostEfer]
            : wide ? left[VmcsField.GuestEfer] | Efer.Lma | Efer.Lme : left[VmcsField.GuestEfer] & ~(Efer.Lma | Efer.Lme);
        ulong cr4 = vmcs12[VmcsField.HostCr4];
        // As the manual has it: PAE is set for a 64-bit host, PCIDE cleared for another.
        cr4 = wide ? cr4 | Cr4.Pae : cr4 & ~Cr4.Pcide;
        ulong pat = nested.Has(VmExitControls.LoadPat) ? vmcs12[VmcsField.HostPat] : left[VmcsField.GuestPat];

        vmcs01[VmcsField.GuestCr0] = cr0;
        vmcs01[VmcsField.GuestCr3] = vmcs12[VmcsField.HostCr3];
        vmcs01[VmcsField.GuestEfer] = efer;
        vmcs01[VmcsField.GuestPat] = pat;
        vmcs01[VmcsField.GuestDr7] = 0x400;
        vmcs01[VmcsField.GuestDebugCtl] = 0;
        vmcs01[VmcsField.GuestSysenterCs] = vmcs12[VmcsField.HostSysenterCs];
        vmcs01[VmcsField.GuestSysenterEsp] = vmcs12[VmcsField.HostSysenterEsp];
        vmcs01[VmcsField.GuestSysenterEip] = vmcs12[VmcsField.HostSysenterEip];
        vmcs01[VmcsField.GuestRsp] = vmcs12[VmcsField.HostRsp];
        vmcs01[VmcsField.GuestRip] = vmcs12[VmcsField.HostRip];
        vmcs01[VmcsField.GuestRflags] = Rflags.Fixed1;
        vmcs01[VmcsField.GuestInterruptibility] = left[VmcsField.GuestInterruptibility] & (nested.Has(PinControls.VirtualNmis) ? 0 : BlockedByNmi);
        vmcs01[VmcsField.GuestActivityState] = (ulong)ActivityState.Active;
        vmcs01[VmcsField.GuestPendingDebugExceptions] = 0;
        uint entry = vmcs01.Read32(VmcsField.VmEntryControls) & ~(uint)VmEntryControls.Ia32eModeGuest;
        vmcs01[VmcsField.VmEntryControls] = entry | (wide ? (uint)VmEntryControls.Ia32eModeGuest : 0);
        vcpu.SwitchTo(vmcs01, guestMode: false);
        vcpu.SetGuestCr4(cr4);
        LoadHostSegments(vcpu, vmcs12, wide);
        vcpu.Activity = VcpuActivity.Active;
        vcpu.Apicv.ServiceDeferred(exit);
        NestedEntry.ForgetTranslations(vcpu);

        bool pae = (cr0 & Cr0.Pg) != 0 && (cr4 & Cr4.Pae) != 0 && !wide;
        if (pae && !vcpu.Cpu.AcceptsPdptes(vmcs12[VmcsField.HostCr3]))
            Abort(vcpu, AbortPdptes);
        else if (NestedMsrAreas.Load(vcpu, vmcs12[VmcsField.VmExitMsrLoadAddress], vmcs12.Read32(VmcsField.VmExitMsrLoadCount)) != 0)
            Abort(vcpu, AbortLoad);
    }

    /// <summary>Selectors and bases from the fields; the rest is fixed (SDM volume 3, section 28.5.2).</summary>
    private static void LoadHostSegments(Vcpu vcpu, Vmcs vmcs12, bool wide)
    {
        const uint Data = 0xC093, Code = 0xC09B, LongCode = 0xA09B, Unusable = SegmentRights.Unusable;
        void Set(int segment, VmcsField selector, ulong address, uint rights)
        {
            var value = (ushort)vmcs12[selector];
            vcpu.SetSegment(segment, value, address, uint.MaxValue, value == 0 && segment != Seg.Cs ? rights | Unusable : rights);
        }

        Set(Seg.Cs, VmcsField.HostCsSelector, 0, wide ? LongCode : Code);
        Set(Seg.Ss, VmcsField.HostSsSelector, 0, Data);
        Set(Seg.Ds, VmcsField.HostDsSelector, 0, Data);
        Set(Seg.Es, VmcsField.HostEsSelector, 0, Data);
        Set(Seg.Fs, VmcsField.HostFsSelector, vmcs12[VmcsField.HostFsBase], Data);
        Set(Seg.Gs, VmcsField.HostGsSelector, vmcs12[VmcsField.HostGsBase], Data);
        vcpu.SetSegment(Seg.Tr, (ushort)vmcs12[VmcsField.HostTrSelector], vmcs12[VmcsField.HostTrBase], 0x67, 0x8B);
        vcpu.SetSegment(Seg.Ldtr, 0, 0, 0, Unusable);
        vcpu.Vmcs01[VmcsField.GuestGdtrBase] = vmcs12[VmcsField.HostGdtrBase];
        vcpu.Vmcs01[VmcsField.GuestIdtrBase] = vmcs12[VmcsField.HostIdtrBase];
        vcpu.Vmcs01[VmcsField.GuestGdtrLimit] = vcpu.Vmcs01[VmcsField.GuestIdtrLimit] = 0xFFFF;
    }

    /// <summary>A VMX abort: the indicator goes to the VMCS region, and the processor shuts down (SDM volume 3, section 28.7).</summary>
    private static void Abort(Vcpu vcpu, uint indicator)
    {
        NestedVmx nested = vcpu.Nested;
        int at = nested.IsEnlightened ? EnlightenedVmcsLayout.AbortIndicator : Vmcs12Layout.AbortIndicator;
        nested.WriteRegion(nested.Vmcs12Pointer + (uint)at, BitConverter.GetBytes(indicator));
        if (vcpu.IsGuestMode)
            vcpu.SwitchTo(vcpu.Vmcs01, guestMode: false);
        vcpu.DropEvent();
        vcpu.Activity = VcpuActivity.Shutdown;
    }
}
