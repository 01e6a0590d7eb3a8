using System.Buffers.Binary;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// Takes L1's VMX operation out of a vCPU and puts it in again, as an image. Between two instructions. An image has what VMX operation adds
/// to a processor: its registers, memory, local APIC and events are apart, as with KVM_GET_NESTED_STATE.
/// </summary>
public static class LinuxNestedState
{
    private const uint EventValid = 1u << 31;
    private const ulong PhysicalPage = 4096;

    // What the timer of an image counts in, whatever rate the capability MSRs have: 32 cycles of the time-stamp counter.
    private const int DeadlineShift = 5;

    /// <summary>The image of a vCPU. Where L2 is active, vmcs12 has its state as a VM exit now would leave it.</summary>
    public static NestedStateImage Take(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        if (!nested.IsOnAnywhere)
            return new NestedStateImage();
        if (!nested.HasVmcs12)
            return new NestedStateImage { VmxonPointer = nested.VmxonPointer, IsVmxonBeforeSmi = nested.IsOnBeforeSmi };
        byte[] region = new byte[Vmcs12Layout.RegionSize];
        bool shadow = vcpu.IsGuestMode && nested.Vmcs02.Shadow != null;
        using (var vmcs12 = new Vmcs())
        {
            vmcs12.CopyFrom(nested.Vmcs12);
            // Out of L2, L1 may have written to it since, clean or not.
            if (nested.IsEnlightened && !vcpu.IsGuestMode && !nested.IsGuestModeBeforeSmi)
                nested.ReadEnlightened(vmcs12);
            if (vcpu.IsGuestMode)
            {
                NestedExit.SaveGuest(nested, vmcs12);
                // What is not pending any more was injected, and a VM exit would say so.
                if (!nested.RunPending)
                    vmcs12[VmcsField.VmEntryInterruptionInformation] = vmcs12.Read32(VmcsField.VmEntryInterruptionInformation) & ~EventValid;
            }
            Vmcs12Layout.Store(vmcs12, region);
        }
        WriteHeader(region, nested.IsShadow, nested.IsLaunched);
        return new NestedStateImage
        {
            VmxonPointer = nested.VmxonPointer,
            CurrentPointer = nested.CurrentPointer,
            IsGuestMode = vcpu.IsGuestMode,
            IsRunPending = nested.RunPending,
            IsEnlightened = nested.IsEnlightened,
            IsVmxonBeforeSmi = nested.IsOnBeforeSmi,
            IsGuestModeBeforeSmi = nested.IsGuestModeBeforeSmi,
            PreemptionTimerDeadline = vcpu.IsGuestMode && nested.Has(PinControls.PreemptionTimer) ? nested.Timer.DeadlineIn(DeadlineShift) : null,
            Vmcs12 = region,
            Shadow = shadow ? ShadowRegion(nested.Vmcs02.Shadow!) : default,
        };
    }

    /// <summary>
    /// Puts an image into a vCPU. With L2 active in it, the vCPU goes on in L2: in vmcs12's state, and with the vCPU's own registers
    /// where vmcs12's controls neither save nor load one. Without, a vCPU that is in L2 leaves it for L1, as by a VM exit of which
    /// nothing is recorded. What was current before is dropped without a trace in memory.
    /// </summary>
    /// <returns>Why the image cannot be taken, in a sentence; nothing has changed then. Null for success.</returns>
    public static string? Put(Vcpu vcpu, NestedStateImage image)
    {
        NestedVmx nested = vcpu.Nested;
        using var vmcs12 = new Vmcs();
        if (Refusal(vcpu, image, vmcs12) is { } refusal)
            return refusal;
        LiveRegisters? replaced = image.IsGuestMode && vcpu.IsGuestMode ? LiveRegisters.Of(vcpu.Vmcs) : null;
        if (!image.IsGuestMode && vcpu.IsGuestMode)
            NestedExit.Discard(vcpu);
        nested.Timer.Cancel();
        nested.Reset();
        nested.IsOn = image.VmxonPointer != NestedVmx.NoPointer && !image.IsVmxonBeforeSmi;
        nested.IsOnBeforeSmi = image.IsVmxonBeforeSmi;
        nested.IsGuestModeBeforeSmi = image.IsGuestModeBeforeSmi;
        nested.VmxonPointer = image.VmxonPointer;
        nested.CurrentPointer = image.CurrentPointer;
        nested.RunPending = image.IsRunPending;
        if (image.IsEnlightened)
            nested.EnlightenedPointer = vcpu.AssistPage.EnlightenedVmcs!.Value;
        if (nested.HasVmcs12)
        {
            nested.IsLaunched = BinaryPrimitives.ReadUInt32LittleEndian(image.Vmcs12.Span[Vmcs12Layout.LaunchState..]) != 0;
            nested.IsShadow = (BinaryPrimitives.ReadUInt32LittleEndian(image.Vmcs12.Span) & Vmcs12Layout.ShadowIndicator) != 0;
            nested.Vmcs12.CopyFrom(vmcs12);
        }
        vcpu.VmxOperationChanged();
        if (image.IsGuestMode)
            EnterAgain(vcpu, image, replaced);
        else if (image.IsGuestModeBeforeSmi && nested.Has(PinControls.PreemptionTimer))
            nested.Timer.Start(vmcs12.Read32(VmcsField.PreemptionTimerValue));
        vcpu.Cpu.Mmu.FlushEverything();
        vcpu.Cpu.TakeGuestState(vcpu.Vmcs);
        return null;
    }

    private static void EnterAgain(Vcpu vcpu, NestedStateImage image, LiveRegisters? replaced)
    {
        NestedVmx nested = vcpu.Nested;
        NestedEntry.Build(vcpu);
        if (!image.Shadow.IsEmpty)
            nested.Vmcs02.Shadow = nested.TakeShadow(image.Shadow.Span);
        bool wasGuestMode = vcpu.IsGuestMode;
        vcpu.SwitchTo(nested.Vmcs02, guestMode: true);
        if (!image.IsRunPending)
            LiveRegisters.Restore(vcpu, replaced);
        if (image.IsRunPending || !wasGuestMode)
            vcpu.DropEvent();
        if (image.IsRunPending)
            NestedEntry.TakeEvent(vcpu);
        else
            NestedVmx.NoteActivity(vcpu);
        if (nested.Has(PinControls.PreemptionTimer))
        {
            if (image.PreemptionTimerDeadline is { } deadline)
                nested.Timer.StartUntil(deadline, DeadlineShift);
            else
                nested.Timer.Start(nested.Vmcs12.Read32(VmcsField.PreemptionTimerValue));
        }
    }

    /// <summary>Everything about an image that its own bytes do not say. Fills in its vmcs12.</summary>
    private static string? Refusal(Vcpu vcpu, NestedStateImage image, Vmcs vmcs12)
    {
        NestedVmx nested = vcpu.Nested;
        // System-management mode is the vCPU's own, and there is no VMX in it.
        if (vcpu.SystemManagement.IsActive ? image.VmxonPointer != NestedVmx.NoPointer && !image.IsVmxonBeforeSmi : image.IsVmxonBeforeSmi)
        {
            return vcpu.SystemManagement.IsActive ? "The vCPU is in system-management mode, and it has L1 in VMX operation."
                : "It was saved in system-management mode, in which the vCPU is not.";
        }
        if (image.VmxonPointer == NestedVmx.NoPointer)
            return null;
        if (!vcpu.Machine.Model.Vmx)
            return "The processor has no VMX.";
        if (!nested.IsRegion(image.VmxonPointer))
            return $"The VMXON pointer 0x{image.VmxonPointer:x} is beyond the physical addresses of the processor.";
        if (!image.IsGuestMode && !image.IsVmxonBeforeSmi && (!nested.Capabilities.AllowsCr0(vcpu.Vmcs01[VmcsField.GuestCr0]) || !nested.Capabilities.AllowsCr4(vcpu.L1Cr4)))
            return "L1 is not active with CR0 and CR4 as VMX operation needs them.";
        if (image.IsEnlightened)
        {
            if (vcpu.AssistPage.EnlightenedVmcs is not { } pointer || !nested.IsRegion(pointer) || !nested.Memory.IsRam(pointer, PhysicalPage))
                return "It has an enlightened VMCS, and the vCPU's VP assist page names none.";
        }
        else if (image.CurrentPointer == NestedVmx.NoPointer)
        {
            return null;
        }
        if (!image.IsEnlightened && (!nested.IsRegion(image.CurrentPointer) || !nested.Memory.IsRam(image.CurrentPointer, PhysicalPage)))
            return $"The current-VMCS pointer 0x{image.CurrentPointer:x} is not to memory.";
        uint launched = BinaryPrimitives.ReadUInt32LittleEndian(image.Vmcs12.Span[Vmcs12Layout.LaunchState..]);
        if (launched > 1)
            return $"The launch state of vmcs12 is 0x{launched:x}; 0 and 1 are possible.";
        Vmcs12Layout.Load(image.Vmcs12.Span, vmcs12);
        return image.IsGuestMode || image.IsGuestModeBeforeSmi ? RefusalOfEntry(vcpu, image, vmcs12) : null;
    }

    private static string? RefusalOfEntry(Vcpu vcpu, NestedStateImage image, Vmcs vmcs12)
    {
        NestedVmx nested = vcpu.Nested;
        if (!image.IsRunPending)
            vmcs12[VmcsField.VmEntryInterruptionInformation] = vmcs12.Read32(VmcsField.VmEntryInterruptionInformation) & ~EventValid;
        // The mode in which L1 entered is the one in which it goes on: the image has no other word of it.
        bool wide = (vmcs12.Read32(VmcsField.VmExitControls) & (uint)VmExitControls.HostAddressSpaceSize) != 0;
        EntryRule? violated = EntryChecks.FirstViolation(new EntrySubject(vmcs12, nested.Capabilities, nested.Limits, nested, wide, image.CurrentPointer));
        if (violated == null && !image.IsRunPending)
        {
            // What was saved is loaded, also where an entry of L1's would not, and so must be as an entry demands.
            uint entry = vmcs12.Read32(VmcsField.VmEntryControls);
            vmcs12[VmcsField.VmEntryControls] = entry | LoadsFor((VmExitControls)vmcs12.Read32(VmcsField.VmExitControls));
            violated = EntryChecks.FirstViolation(new EntrySubject(vmcs12, vcpu.Cpu.Environment.Vmx, nested.Limits, nested, wide, image.CurrentPointer));
            vmcs12[VmcsField.VmEntryControls] = entry;
        }
        if (violated != null)
            return $"vmcs12 would not pass VM entry: {violated} is violated.";
        bool shadowed = (vmcs12.Read32(VmcsField.ProcessorBasedControls) & (uint)ProcControls.ActivateSecondary) != 0
            && (vmcs12.Read32(VmcsField.SecondaryControls) & (uint)SecondaryControls.VmcsShadowing) != 0
            && vmcs12[VmcsField.VmcsLinkPointer] != NestedVmx.NoPointer;
        // In system-management mode the shadow VMCS is in memory.
        if (image.IsGuestModeBeforeSmi)
            shadowed = false;
        if (shadowed == image.Shadow.IsEmpty)
            return shadowed ? "vmcs12 has a shadow VMCS, and its contents are missing." : "It has the contents of a shadow VMCS, and vmcs12 has none.";
        return null;
    }

    private static uint LoadsFor(VmExitControls saves) => (uint)(
        ((saves & VmExitControls.SaveEfer) != 0 ? VmEntryControls.LoadEfer : 0) | ((saves & VmExitControls.SavePat) != 0 ? VmEntryControls.LoadPat : 0)
        | ((saves & VmExitControls.SaveDebugControls) != 0 ? VmEntryControls.LoadDebugControls : 0));

    private static byte[] ShadowRegion(Vmcs shadow)
    {
        byte[] region = new byte[Vmcs12Layout.RegionSize];
        Vmcs12Layout.Store(shadow, region);
        WriteHeader(region, isShadow: true, isLaunched: false);
        return region;
    }

    private static void WriteHeader(Span<byte> region, bool isShadow, bool isLaunched)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(region, Vmcs12Layout.Revision | (isShadow ? Vmcs12Layout.ShadowIndicator : 0));
        BinaryPrimitives.WriteUInt32LittleEndian(region[Vmcs12Layout.LaunchState..], isLaunched ? 1u : 0);
    }

    /// <summary>
    /// Registers of an L2 that has executed: as vmcs12 has them where its controls say that a VM exit saves them, else those of the L2 in
    /// whose place it comes, else those with which an entry would begin.
    /// </summary>
    private readonly record struct LiveRegisters(ulong Efer, ulong Pat, ulong Dr7, ulong DebugCtl)
    {
        private const ulong Mode = Processor.State.Efer.Lma | Processor.State.Efer.Lme;

        public static LiveRegisters Of(Vmcs vmcs) => new(vmcs[VmcsField.GuestEfer], vmcs[VmcsField.GuestPat], vmcs[VmcsField.GuestDr7], vmcs[VmcsField.GuestDebugCtl]);

        public static void Restore(Vcpu vcpu, LiveRegisters? replaced)
        {
            NestedVmx nested = vcpu.Nested;
            Vmcs vmcs02 = nested.Vmcs02;
            LiveRegisters saved = Of(nested.Vmcs12), other = replaced ?? Of(vmcs02);
            ulong mode = vmcs02[VmcsField.GuestEfer] & Mode;
            vmcs02[VmcsField.GuestEfer] = (nested.Has(VmExitControls.SaveEfer) ? saved : other).Efer & ~Mode | mode;
            vmcs02[VmcsField.GuestPat] = (nested.Has(VmExitControls.SavePat) ? saved : other).Pat;
            LiveRegisters debug = nested.Has(VmExitControls.SaveDebugControls) ? saved : other;
            vmcs02[VmcsField.GuestDr7] = debug.Dr7;
            vmcs02[VmcsField.GuestDebugCtl] = debug.DebugCtl;
        }
    }
}
