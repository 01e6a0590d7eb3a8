using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// VM entry of L1 into L2: the manual's checks on vmcs12, vmcs02 built from vmcs12 and from what L0 wants, the MSR list, and the
/// switch to vmcs02 (SDM volume 3, chapter 27).
/// </summary>
internal static class NestedEntry
{
    private const uint FailedEntry = 1u << 31;
    private const uint EventValid = 1u << 31;

    /// <summary>Enters L2, or fails as the manual says.</summary>
    public static void Enter(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        bool longMode = (vcpu.Vmcs[VmcsField.GuestEfer] & Efer.Lma) != 0;
        var subject = new EntrySubject(nested.Vmcs12, nested.Capabilities, nested.Limits, nested, longMode, nested.Vmcs12Pointer);
        EntryRule? violated = nested.HasPassed(longMode) ? EntryChecks.FirstViolationOfPassed(subject) : EntryChecks.FirstViolation(subject);
        if (violated is { Group: not EntryCheckGroup.GuestState })
        {
            Refuse(vcpu, (VmInstructionError)violated.InstructionError);
            return;
        }
        nested.NotePassed(longMode);
        // From here on the instruction has done its work: what follows is a VM exit, also where the entry fails.
        vcpu.CountEmulated();
        if (violated is not null)
        {
            NestedExit.FailEntry(vcpu, violated.FailureExitReason, violated.Qualification);
            return;
        }
        Build(vcpu);
        vcpu.SwitchTo(nested.Vmcs02, guestMode: true);
        ForgetTranslations(vcpu);
        uint refused = NestedMsrAreas.Load(vcpu, nested.Vmcs12[VmcsField.VmEntryMsrLoadAddress], nested.Vmcs12.Read32(VmcsField.VmEntryMsrLoadCount));
        if (refused != 0)
        {
            NestedExit.FailEntry(vcpu, FailedEntry | (uint)ExitReason.MsrLoading, refused);
            return;
        }
        nested.IsLaunched = true;
        nested.RunPending = true;
        vcpu.Counters.NestedEntries++;
        TakeEvent(vcpu);
    }

    /// <summary>
    /// What <see cref="Apicv.ApicvPolicy.UnsafeImmediate"/> makes of a vmcs02 that the hardware refuses because L0 has overwritten it:
    /// L1's VM entry fails as if L1 had chosen invalid controls, with L2's registers, long after it had succeeded.
    /// </summary>
    public static void BlameL1(Vcpu vcpu)
    {
        vcpu.Nested.RunPending = false;
        vcpu.DropEvent();
        vcpu.SwitchTo(vcpu.Vmcs01, guestMode: false);
        vcpu.Apicv.ServiceDeferred();
        vcpu.Activity = VcpuActivity.Active;
        ForgetTranslations(vcpu);
        Refuse(vcpu, VmInstructionError.InvalidControls);
    }

    /// <summary>VMfail of a VM entry.</summary>
    public static void Refuse(Vcpu vcpu, VmInstructionError error)
    {
        vcpu.Machine.Tracing?.EntryRefused(vcpu, error);
        vcpu.Counters.NestedEntriesRefused++;
        VmxInstructions.Fail(vcpu, error);
    }

    /// <summary>Without VPIDs, entries and exits forget what was cached for VPID 0 (SDM volume 3, section 29.4.3.1).</summary>
    public static void ForgetTranslations(Vcpu vcpu)
    {
        if (!vcpu.Nested.Has(SecondaryControls.EnableVpid))
            vcpu.Cpu.Mmu.InvalidateVpid(0);
    }

    /// <summary>What vmcs12 injects becomes the vCPU's next event.</summary>
    internal static void TakeEvent(Vcpu vcpu)
    {
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        uint information = vmcs12.Read32(VmcsField.VmEntryInterruptionInformation);
        if ((information & EventValid) != 0)
            vcpu.InjectForEntry(information, vmcs12.Read32(VmcsField.VmEntryExceptionErrorCode), vmcs12.Read32(VmcsField.VmEntryInstructionLength));
        vcpu.Activity = VcpuActivity.Active;
        if (vcpu.Nested.Has(PinControls.PreemptionTimer))
            vcpu.Nested.Timer.Start(vmcs12.Read32(VmcsField.PreemptionTimerValue));
    }

    /// <summary>Builds vmcs02.</summary>
    internal static void Build(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        Vmcs vmcs02 = nested.Vmcs02;
        vmcs02.CopyFrom(nested.Vmcs12, VmcsFieldType.Guest);
        vmcs02[VmcsField.VmInstructionError] = nested.Vmcs12[VmcsField.VmInstructionError];
        if (!nested.IsBuilt)
        {
            BuildControls(vcpu, vmcs02, nested);
            nested.NoteBuilt();
        }
        // L1 changes its bitmaps without a word.
        if (nested.Has(ProcControls.UseMsrBitmaps))
            nested.MsrBitmap.Merge(nested);
        BuildGuestState(vcpu, vmcs02, nested);
    }

    private static void BuildControls(Vcpu vcpu, Vmcs vmcs02, NestedVmx nested)
    {
        Vmcs vmcs01 = vcpu.Vmcs01, vmcs12 = nested.Vmcs12;
        // Every VM-execution control field of vmcs12 that is an address, a bitmap, a mask or a threshold holds for vmcs02.
        vmcs02.CopyFrom(vmcs12, VmcsFieldType.Control);
        vmcs02[VmcsField.VmExitMsrLoadCount] = vmcs02[VmcsField.VmEntryMsrLoadCount] = 0;
        nested.TimeStamp.Follow(nested);
        vmcs02[VmcsField.VmEntryInterruptionInformation] = 0;

        var pin = (PinControls)(vmcs12.Read32(VmcsField.PinBasedControls) | vmcs01.Read32(VmcsField.PinBasedControls));
        vmcs02[VmcsField.PinBasedControls] = (uint)pin;

        ProcControls proc = (ProcControls)vmcs12.Read32(VmcsField.ProcessorBasedControls) | ProcControls.ActivateSecondary | ProcControls.TscOffsetting;
        if ((proc & ProcControls.TprShadow) == 0)
            proc |= ProcControls.Cr8LoadExiting | ProcControls.Cr8StoreExiting;
        // Without bitmaps every access exits, for L0 to decide on.
        if ((proc & ProcControls.UseMsrBitmaps) != 0)
            vmcs02[VmcsField.MsrBitmaps] = nested.MsrBitmap.Address;
        vmcs02[VmcsField.ProcessorBasedControls] = (uint)proc;

        SecondaryControls secondary = nested.Has(ProcControls.ActivateSecondary) ? (SecondaryControls)vmcs12.Read32(VmcsField.SecondaryControls) : 0;
        vmcs02[VmcsField.SecondaryControls] = (uint)secondary;

        ulong offset = vmcs01[VmcsField.TscOffset];
        if ((secondary & SecondaryControls.TscScaling) != 0 && nested.Has(ProcControls.TscOffsetting))
            offset = (ulong)(long)((Int128)(long)offset * vmcs12[VmcsField.TscMultiplier] >> 48);
        else
            vmcs02[VmcsField.SecondaryControls] = (uint)(secondary & ~SecondaryControls.TscScaling);
        if (nested.Has(ProcControls.TscOffsetting))
            offset += vmcs12[VmcsField.TscOffset];
        vmcs02[VmcsField.TscOffset] = offset;

        uint entry = vmcs12.Read32(VmcsField.VmEntryControls);
        vmcs02[VmcsField.VmEntryControls] = entry | vmcs01.Read32(VmcsField.VmEntryControls) & ~(uint)VmEntryControls.Ia32eModeGuest;
        vmcs02[VmcsField.VmExitControls] = vmcs01[VmcsField.VmExitControls]
            | (nested.Has(PinControls.PostedInterrupts) ? (uint)VmExitControls.AcknowledgeInterrupt : 0u)
            | (nested.Has(PinControls.PreemptionTimer) ? (uint)VmExitControls.SavePreemptionTimer : 0u);
        vmcs02.CopyFrom(vmcs01, VmcsFieldType.Host);
    }

    private static void BuildGuestState(Vcpu vcpu, Vmcs vmcs02, NestedVmx nested)
    {
        Vmcs vmcs01 = vcpu.Vmcs01;
        // What vmcs12 does not load goes on from L1, with the mode that it enters.
        if (!nested.Has(VmEntryControls.LoadEfer))
        {
            ulong efer = vmcs01[VmcsField.GuestEfer] & ~(Efer.Lma | Efer.Lme);
            if (nested.Has(VmEntryControls.Ia32eModeGuest))
                efer |= Efer.Lma | Efer.Lme;
            else if ((vmcs02[VmcsField.GuestCr0] & Cr0.Pg) == 0)
                efer |= vmcs01[VmcsField.GuestEfer] & Efer.Lme;
            vmcs02[VmcsField.GuestEfer] = efer;
        }
        if (!nested.Has(VmEntryControls.LoadPat))
            vmcs02[VmcsField.GuestPat] = vmcs01[VmcsField.GuestPat];
        if (!nested.Has(VmEntryControls.LoadDebugControls))
        {
            vmcs02[VmcsField.GuestDr7] = vmcs01[VmcsField.GuestDr7];
            vmcs02[VmcsField.GuestDebugCtl] = vmcs01[VmcsField.GuestDebugCtl];
        }
        // The hardware needs no pointer beside: checked at each of its entries, it would hang on what others write to the region meanwhile.
        vmcs02[VmcsField.VmcsLinkPointer] = NestedVmx.NoPointer;
        vmcs02.Shadow = nested.Has(SecondaryControls.VmcsShadowing) ? nested.LoadShadow() : null;
    }
}
