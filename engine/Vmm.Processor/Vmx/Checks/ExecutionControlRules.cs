namespace Vmm.Processor.Vmx.Checks;

/// <summary>Checks on the VM-execution control fields (SDM volume 3, section 27.2.1.1).</summary>
internal static class ExecutionControlRules
{
    private const uint Page = 4096;

    public static readonly EntryRule[] List =
    [
        Rule("pin-based controls as IA32_VMX_PINBASED_CTLS allows", (in s) => s.Capabilities.Accepts(VmxControlWord.Pin, (uint)s.Pin)),
        Rule("primary processor-based controls as IA32_VMX_PROCBASED_CTLS allows",
            (in s) => s.Capabilities.Accepts(VmxControlWord.Proc, (uint)s.Proc)),
        Rule("secondary processor-based controls as IA32_VMX_PROCBASED_CTLS2 allows",
            (in s) => !s.Has(ProcControls.ActivateSecondary) || s.Capabilities.Accepts(VmxControlWord.Secondary, (uint)s.Secondary)),
        Rule("no more CR3 targets than IA32_VMX_MISC allows", (in s) => s[VmcsField.Cr3TargetCount] <= (ulong)s.Capabilities.Cr3Targets),
        Rule("I/O bitmap A page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(ProcControls.UseIoBitmaps) || s.Structure(VmcsField.IoBitmapA, Page)),
        Rule("I/O bitmap B page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(ProcControls.UseIoBitmaps) || s.Structure(VmcsField.IoBitmapB, Page)),
        Rule("MSR bitmaps page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(ProcControls.UseMsrBitmaps) || s.Structure(VmcsField.MsrBitmaps, Page)),
        Rule("virtual-APIC page page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(ProcControls.TprShadow) || s.Structure(VmcsField.VirtualApicAddress, Page)),
        Rule("TPR threshold bits 31:4 zero without virtual-interrupt delivery", (in s) => !s.Has(ProcControls.TprShadow)
            || s.Has(SecondaryControls.VirtualInterruptDelivery) || s[VmcsField.TprThreshold] <= 15),
        PerEntry("TPR threshold not above VTPR[7:4]", (in s) => !s.Has(ProcControls.TprShadow)
            || s.Has(SecondaryControls.VirtualInterruptDelivery | SecondaryControls.VirtualizeApicAccesses)
            || (s[VmcsField.TprThreshold] & 15) == 0
            || (s[VmcsField.TprThreshold] & 15) <= (s.Memory.Read32(s[VmcsField.VirtualApicAddress] + 0x80) >> 4 & 15)),
        Rule("virtual NMIs only with NMI exiting", (in s) => s.Has(PinControls.NmiExiting) || !s.Has(PinControls.VirtualNmis)),
        Rule("NMI-window exiting only with virtual NMIs",
            (in s) => s.Has(PinControls.VirtualNmis) || !s.Has(ProcControls.NmiWindowExiting)),
        Rule("APIC-access page page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(SecondaryControls.VirtualizeApicAccesses) || s.Structure(VmcsField.ApicAccessAddress, Page)),
        Rule("x2APIC mode, APIC-register virtualization and virtual-interrupt delivery only with TPR shadow",
            (in s) => s.Has(ProcControls.TprShadow) || !s.Has(SecondaryControls.VirtualizeX2Apic
                | SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery)),
        Rule("x2APIC mode not with virtualize APIC accesses",
            (in s) => !s.Has(SecondaryControls.VirtualizeX2Apic) || !s.Has(SecondaryControls.VirtualizeApicAccesses)),
        Rule("virtual-interrupt delivery only with external-interrupt exiting",
            (in s) => !s.Has(SecondaryControls.VirtualInterruptDelivery) || s.Has(PinControls.ExternalInterruptExiting)),
        Rule("posted interrupts only with virtual-interrupt delivery",
            (in s) => !s.Has(PinControls.PostedInterrupts) || s.Has(SecondaryControls.VirtualInterruptDelivery)),
        Rule("posted interrupts only with acknowledge interrupt on exit",
            (in s) => !s.Has(PinControls.PostedInterrupts) || s.Has(VmExitControls.AcknowledgeInterrupt)),
        Rule("posted-interrupt notification vector 0 to 255",
            (in s) => !s.Has(PinControls.PostedInterrupts) || s[VmcsField.PostedInterruptVector] <= 255),
        Rule("posted-interrupt descriptor 64-byte-aligned and within MAXPHYADDR",
            (in s) => !s.Has(PinControls.PostedInterrupts) || s.Structure(VmcsField.PostedInterruptDescriptorAddress, 64)),
        Rule("VPID not 0", (in s) => !s.Has(SecondaryControls.EnableVpid) || s[VmcsField.VirtualProcessorId] != 0),
        Rule("EPTP memory type supported", (in s) => !s.Has(SecondaryControls.EnableEpt) || (s[VmcsField.EptPointer] & 7) switch
        {
            0 => Ept(s, EptVpidCapabilities.MemoryTypeUncacheable),
            6 => Ept(s, EptVpidCapabilities.MemoryTypeWriteBack),
            _ => false,
        }),
        Rule("EPTP page-walk length supported", (in s) => !s.Has(SecondaryControls.EnableEpt) || (s[VmcsField.EptPointer] >> 3 & 7) switch
        {
            3 => Ept(s, EptVpidCapabilities.WalkLength4),
            4 => Ept(s, EptVpidCapabilities.WalkLength5),
            _ => false,
        }),
        Rule("EPTP accessed and dirty flags only where supported", (in s) => !s.Has(SecondaryControls.EnableEpt)
            || (s[VmcsField.EptPointer] & 1 << 6) == 0 || Ept(s, EptVpidCapabilities.AccessedDirty)),
        Rule("EPTP reserved bits zero", (in s) => !s.Has(SecondaryControls.EnableEpt)
            || ((s[VmcsField.EptPointer] & 0xF00) == 0 && s.Physical(s[VmcsField.EptPointer])
                && ((s[VmcsField.EptPointer] & 1 << 7) == 0 || Ept(s, EptVpidCapabilities.SupervisorShadowStack)))),
        Rule("PML only with EPT", (in s) => !s.Has(SecondaryControls.EnablePml) || s.Has(SecondaryControls.EnableEpt)),
        Rule("PML page page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(SecondaryControls.EnablePml) || s.Structure(VmcsField.PmlAddress, Page)),
        Rule("unrestricted guest only with EPT", (in s) => !s.Unrestricted || s.Has(SecondaryControls.EnableEpt) || s.Vmcs.IdentityMapped),
        Rule("mode-based execute control only with EPT",
            (in s) => !s.Has(SecondaryControls.ModeBasedExecute) || s.Has(SecondaryControls.EnableEpt)),
        Rule("VM-function controls as IA32_VMX_VMFUNC allows",
            (in s) => !s.Has(SecondaryControls.EnableVmFunctions) || s.Capabilities.Accepts(VmxControlWord.VmFunction, s[VmcsField.VmFunctionControls])),
        Rule("EPTP switching only with EPT", (in s) => !EptpSwitching(s) || s.Has(SecondaryControls.EnableEpt)),
        Rule("EPTP list page-aligned and within MAXPHYADDR", (in s) => !EptpSwitching(s) || s.Structure(VmcsField.EptpListAddress, Page)),
        Rule("VMREAD bitmap page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(SecondaryControls.VmcsShadowing) || s.Structure(VmcsField.VmreadBitmap, Page)),
        Rule("VMWRITE bitmap page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(SecondaryControls.VmcsShadowing) || s.Structure(VmcsField.VmwriteBitmap, Page)),
        Rule("virtualization-exception area page-aligned and within MAXPHYADDR",
            (in s) => !s.Has(SecondaryControls.EptViolationVe) || s.Structure(VmcsField.VirtualizationExceptionAddress, Page)),
        Rule("TSC multiplier not 0", (in s) => !s.Has(SecondaryControls.TscScaling) || s[VmcsField.TscMultiplier] != 0),
    ];

    private static EntryRule Rule(string description, EntryPredicate holds) => new(EntryCheckGroup.Controls, "27.2.1.1", description, holds);

    private static EntryRule PerEntry(string description, EntryPredicate holds) => Rule(description, holds) with { PerEntry = true };

    private static bool Ept(in EntrySubject s, EptVpidCapabilities feature) => (s.Capabilities.EptVpid & feature) != 0;

    private static bool EptpSwitching(in EntrySubject s) => s.Has(SecondaryControls.EnableVmFunctions) && (s[VmcsField.VmFunctionControls] & 1) != 0;
}
