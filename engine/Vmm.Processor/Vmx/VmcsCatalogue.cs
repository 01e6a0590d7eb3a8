using System.Collections.Immutable;
using System.Runtime.CompilerServices;

namespace Vmm.Processor.Vmx;

/// <summary>Width of a VMCS field (SDM volume 3, table 25-21), by its code in the encoding's bits 14:13.</summary>
public enum VmcsFieldWidth
{
    Bits16 = 0, Bits64 = 1, Bits32 = 2, Natural = 3,
}

/// <summary>Type of a VMCS field (SDM volume 3, table 25-21), by its code in the encoding's bits 11:10.</summary>
public enum VmcsFieldType
{
    Control = 0, ExitInformation = 1, Guest = 2, Host = 3,
}

/// <summary>
/// What a field needs to exist: an allowed 1-setting of a control (or of either of two), an allowed VM function, or a number of
/// CR3-target values.
/// </summary>
/// <param name="Word">Where the capability is; <see cref="VmxControlWord.None"/> for a field that every processor has.</param>
/// <param name="Bits">The control's bit; the VM function's bit; for <see cref="VmxControlWord.Cr3Targets"/> the least count.</param>
/// <param name="OrWord">An alternative, or <see cref="VmxControlWord.None"/>.</param>
/// <param name="OrBits">The alternative's bit.</param>
public readonly record struct VmcsFieldRequirement(VmxControlWord Word, ulong Bits, VmxControlWord OrWord = VmxControlWord.None, ulong OrBits = 0);

/// <summary>A field of the VMCS.</summary>
/// <param name="Field">The field, by its encoding (the full access for a 64-bit field).</param>
/// <param name="Name">Its name in the manual, without the word "field" and without the "(full)" of 64-bit fields.</param>
/// <param name="Requirement">The capability without which the field does not exist.</param>
public sealed record VmcsFieldEntry(VmcsField Field, string Name, VmcsFieldRequirement Requirement = default)
{
    /// <summary>The encoding as VMREAD and VMWRITE take it.</summary>
    public uint Encoding => (uint)Field;

    /// <summary>The width.</summary>
    public VmcsFieldWidth Width { get; } = WidthOf(Field);

    /// <summary>The type.</summary>
    public VmcsFieldType Type => (VmcsFieldType)(Encoding >> 10 & 3);

    /// <summary>The index among the fields of its width and type.</summary>
    public int Index => (int)(Encoding >> 1 & 0x1FF);

    /// <summary>Whether VMWRITE fails with error 13 unless IA32_VMX_MISC bit 29 is set: VM-exit information.</summary>
    public bool IsReadOnly => Type == VmcsFieldType.ExitInformation;

    /// <summary>Bits that the field holds; natural-width fields have 64.</summary>
    public ulong ValueMask { get; } = WidthOf(Field) switch
    {
        VmcsFieldWidth.Bits16 => 0xFFFF,
        VmcsFieldWidth.Bits32 => 0xFFFF_FFFF,
        _ => ulong.MaxValue,
    };

    private static VmcsFieldWidth WidthOf(VmcsField field) => (VmcsFieldWidth)((int)field >> 13 & 3);
}

/// <summary>
/// Every field of the VMCS in <see cref="VmcsField"/> (SDM volume 3, appendix B), without those of FRED and of the TDX module:
/// what it is called, how wide it is, and what it needs to exist.
/// </summary>
public static class VmcsCatalogue
{
    private static readonly ImmutableArray<VmcsFieldEntry> Table =
    [
        new(VmcsField.VirtualProcessorId, "Virtual-processor identifier (VPID)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableVpid)),
        new(VmcsField.PostedInterruptVector, "Posted-interrupt notification vector", new(VmxControlWord.Pin, (ulong)Vmx.PinControls.PostedInterrupts)),
        new(VmcsField.EptpIndex, "EPTP index", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EptViolationVe)),
        new(VmcsField.HlatPrefixSize, "HLAT prefix size", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.EnableHlat)),
        new(VmcsField.LastPidPointerIndex, "Last PID-pointer index", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.IpiVirtualization)),
        new(VmcsField.GuestEsSelector, "Guest ES selector"),
        new(VmcsField.GuestCsSelector, "Guest CS selector"),
        new(VmcsField.GuestSsSelector, "Guest SS selector"),
        new(VmcsField.GuestDsSelector, "Guest DS selector"),
        new(VmcsField.GuestFsSelector, "Guest FS selector"),
        new(VmcsField.GuestGsSelector, "Guest GS selector"),
        new(VmcsField.GuestLdtrSelector, "Guest LDTR selector"),
        new(VmcsField.GuestTrSelector, "Guest TR selector"),
        new(VmcsField.GuestInterruptStatus, "Guest interrupt status", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualInterruptDelivery)),
        new(VmcsField.PmlIndex, "PML index", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnablePml)),
        new(VmcsField.GuestUinv, "Guest UINV", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadUinv, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.ClearUinv)),
        new(VmcsField.HostEsSelector, "Host ES selector"),
        new(VmcsField.HostCsSelector, "Host CS selector"),
        new(VmcsField.HostSsSelector, "Host SS selector"),
        new(VmcsField.HostDsSelector, "Host DS selector"),
        new(VmcsField.HostFsSelector, "Host FS selector"),
        new(VmcsField.HostGsSelector, "Host GS selector"),
        new(VmcsField.HostTrSelector, "Host TR selector"),
        new(VmcsField.IoBitmapA, "Address of I/O bitmap A"),
        new(VmcsField.IoBitmapB, "Address of I/O bitmap B"),
        new(VmcsField.MsrBitmaps, "Address of MSR bitmaps", new(VmxControlWord.Proc, (ulong)Vmx.ProcControls.UseMsrBitmaps)),
        new(VmcsField.VmExitMsrStoreAddress, "VM-exit MSR-store address"),
        new(VmcsField.VmExitMsrLoadAddress, "VM-exit MSR-load address"),
        new(VmcsField.VmEntryMsrLoadAddress, "VM-entry MSR-load address"),
        new(VmcsField.ExecutiveVmcsPointer, "Executive-VMCS pointer"),
        new(VmcsField.PmlAddress, "PML address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnablePml)),
        new(VmcsField.TscOffset, "TSC offset"),
        new(VmcsField.VirtualApicAddress, "Virtual-APIC address", new(VmxControlWord.Proc, (ulong)Vmx.ProcControls.TprShadow)),
        new(VmcsField.ApicAccessAddress, "APIC-access address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualizeApicAccesses)),
        new(VmcsField.PostedInterruptDescriptorAddress, "Posted-interrupt descriptor address", new(VmxControlWord.Pin, (ulong)Vmx.PinControls.PostedInterrupts)),
        new(VmcsField.VmFunctionControls, "VM-function controls", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableVmFunctions)),
        new(VmcsField.EptPointer, "EPT pointer (EPTP)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.EoiExitBitmap0, "EOI-exit bitmap 0 (EOI_EXIT0)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualInterruptDelivery)),
        new(VmcsField.EoiExitBitmap1, "EOI-exit bitmap 1 (EOI_EXIT1)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualInterruptDelivery)),
        new(VmcsField.EoiExitBitmap2, "EOI-exit bitmap 2 (EOI_EXIT2)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualInterruptDelivery)),
        new(VmcsField.EoiExitBitmap3, "EOI-exit bitmap 3 (EOI_EXIT3)", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VirtualInterruptDelivery)),
        new(VmcsField.EptpListAddress, "EPTP-list address", new(VmxControlWord.VmFunction, 1)),
        new(VmcsField.VmreadBitmap, "VMREAD-bitmap address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VmcsShadowing)),
        new(VmcsField.VmwriteBitmap, "VMWRITE-bitmap address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.VmcsShadowing)),
        new(VmcsField.VirtualizationExceptionAddress, "Virtualization-exception information address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EptViolationVe)),
        new(VmcsField.XssExitingBitmap, "XSS-exiting bitmap", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableXsaves)),
        new(VmcsField.EnclsExitingBitmap, "ENCLS-exiting bitmap", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnclsExiting)),
        new(VmcsField.SubPagePermissionTablePointer, "Sub-page-permission-table pointer", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.SubPagePermissions)),
        new(VmcsField.TscMultiplier, "TSC multiplier", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.TscScaling)),
        new(VmcsField.TertiaryControls, "Tertiary processor-based VM-execution controls", new(VmxControlWord.Proc, (ulong)Vmx.ProcControls.ActivateTertiary)),
        new(VmcsField.EnclvExitingBitmap, "ENCLV-exiting bitmap", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnclvExiting)),
        new(VmcsField.LowPasidDirectory, "Low PASID directory address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.PasidTranslation)),
        new(VmcsField.HighPasidDirectory, "High PASID directory address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.PasidTranslation)),
        new(VmcsField.PconfigExitingBitmap, "PCONFIG-exiting bitmap", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.PconfigExiting)),
        new(VmcsField.HlatPointer, "Hypervisor-managed linear-address translation pointer (HLATP)", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.EnableHlat)),
        new(VmcsField.PidPointerTableAddress, "PID-pointer table address", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.IpiVirtualization)),
        new(VmcsField.SecondaryVmExitControls, "Secondary VM-exit controls", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.ActivateSecondary)),
        new(VmcsField.SpecCtrlMask, "IA32_SPEC_CTRL mask", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.VirtualizeSpecCtrl)),
        new(VmcsField.SpecCtrlShadow, "IA32_SPEC_CTRL shadow", new(VmxControlWord.Tertiary, (ulong)Vmx.TertiaryControls.VirtualizeSpecCtrl)),
        new(VmcsField.GuestPhysicalAddress, "Guest-physical address", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.VmcsLinkPointer, "VMCS link pointer"),
        new(VmcsField.GuestDebugCtl, "Guest IA32_DEBUGCTL"),
        new(VmcsField.GuestPat, "Guest IA32_PAT", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadPat, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.SavePat)),
        new(VmcsField.GuestEfer, "Guest IA32_EFER", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadEfer, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.SaveEfer)),
        new(VmcsField.GuestPerfGlobalCtrl, "Guest IA32_PERF_GLOBAL_CTRL", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadPerfGlobalCtrl)),
        new(VmcsField.GuestPdpte0, "Guest PDPTE0", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.GuestPdpte1, "Guest PDPTE1", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.GuestPdpte2, "Guest PDPTE2", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.GuestPdpte3, "Guest PDPTE3", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.EnableEpt)),
        new(VmcsField.GuestBndcfgs, "Guest IA32_BNDCFGS", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadBndcfgs, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.ClearBndcfgs)),
        new(VmcsField.GuestRtitCtl, "Guest IA32_RTIT_CTL", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadRtitCtl, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.ClearRtitCtl)),
        new(VmcsField.GuestLbrCtl, "Guest IA32_LBR_CTL", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadLbrCtl, VmxControlWord.Exit, (ulong)Vmx.VmExitControls.ClearLbrCtl)),
        new(VmcsField.GuestPkrs, "Guest IA32_PKRS", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadPkrs)),
        new(VmcsField.HostPat, "Host IA32_PAT", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadPat)),
        new(VmcsField.HostEfer, "Host IA32_EFER", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadEfer)),
        new(VmcsField.HostPerfGlobalCtrl, "Host IA32_PERF_GLOBAL_CTRL", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadPerfGlobalCtrl)),
        new(VmcsField.HostPkrs, "Host IA32_PKRS", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadPkrs)),
        new(VmcsField.PinBasedControls, "Pin-based VM-execution controls"),
        new(VmcsField.ProcessorBasedControls, "Primary processor-based VM-execution controls"),
        new(VmcsField.ExceptionBitmap, "Exception bitmap"),
        new(VmcsField.PageFaultErrorCodeMask, "Page-fault error-code mask"),
        new(VmcsField.PageFaultErrorCodeMatch, "Page-fault error-code match"),
        new(VmcsField.Cr3TargetCount, "CR3-target count"),
        new(VmcsField.VmExitControls, "Primary VM-exit controls"),
        new(VmcsField.VmExitMsrStoreCount, "VM-exit MSR-store count"),
        new(VmcsField.VmExitMsrLoadCount, "VM-exit MSR-load count"),
        new(VmcsField.VmEntryControls, "VM-entry controls"),
        new(VmcsField.VmEntryMsrLoadCount, "VM-entry MSR-load count"),
        new(VmcsField.VmEntryInterruptionInformation, "VM-entry interruption-information field"),
        new(VmcsField.VmEntryExceptionErrorCode, "VM-entry exception error code"),
        new(VmcsField.VmEntryInstructionLength, "VM-entry instruction length"),
        new(VmcsField.TprThreshold, "TPR threshold", new(VmxControlWord.Proc, (ulong)Vmx.ProcControls.TprShadow)),
        new(VmcsField.SecondaryControls, "Secondary processor-based VM-execution controls", new(VmxControlWord.Proc, (ulong)Vmx.ProcControls.ActivateSecondary)),
        new(VmcsField.PleGap, "PLE_Gap", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.PauseLoopExiting)),
        new(VmcsField.PleWindow, "PLE_Window", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.PauseLoopExiting)),
        new(VmcsField.InstructionTimeout, "Instruction-timeout control", new(VmxControlWord.Secondary, (ulong)Vmx.SecondaryControls.InstructionTimeout)),
        new(VmcsField.VmInstructionError, "VM-instruction error"),
        new(VmcsField.ExitReason, "Exit reason"),
        new(VmcsField.VmExitInterruptionInformation, "VM-exit interruption information"),
        new(VmcsField.VmExitInterruptionErrorCode, "VM-exit interruption error code"),
        new(VmcsField.IdtVectoringInformation, "IDT-vectoring information field"),
        new(VmcsField.IdtVectoringErrorCode, "IDT-vectoring error code"),
        new(VmcsField.VmExitInstructionLength, "VM-exit instruction length"),
        new(VmcsField.VmExitInstructionInformation, "VM-exit instruction information"),
        new(VmcsField.GuestEsLimit, "Guest ES limit"),
        new(VmcsField.GuestCsLimit, "Guest CS limit"),
        new(VmcsField.GuestSsLimit, "Guest SS limit"),
        new(VmcsField.GuestDsLimit, "Guest DS limit"),
        new(VmcsField.GuestFsLimit, "Guest FS limit"),
        new(VmcsField.GuestGsLimit, "Guest GS limit"),
        new(VmcsField.GuestLdtrLimit, "Guest LDTR limit"),
        new(VmcsField.GuestTrLimit, "Guest TR limit"),
        new(VmcsField.GuestGdtrLimit, "Guest GDTR limit"),
        new(VmcsField.GuestIdtrLimit, "Guest IDTR limit"),
        new(VmcsField.GuestEsAccessRights, "Guest ES access rights"),
        new(VmcsField.GuestCsAccessRights, "Guest CS access rights"),
        new(VmcsField.GuestSsAccessRights, "Guest SS access rights"),
        new(VmcsField.GuestDsAccessRights, "Guest DS access rights"),
        new(VmcsField.GuestFsAccessRights, "Guest FS access rights"),
        new(VmcsField.GuestGsAccessRights, "Guest GS access rights"),
        new(VmcsField.GuestLdtrAccessRights, "Guest LDTR access rights"),
        new(VmcsField.GuestTrAccessRights, "Guest TR access rights"),
        new(VmcsField.GuestInterruptibility, "Guest interruptibility state"),
        new(VmcsField.GuestActivityState, "Guest activity state"),
        new(VmcsField.GuestSmbase, "Guest SMBASE"),
        new(VmcsField.GuestSysenterCs, "Guest IA32_SYSENTER_CS"),
        new(VmcsField.PreemptionTimerValue, "VMX-preemption timer value", new(VmxControlWord.Pin, (ulong)Vmx.PinControls.PreemptionTimer)),
        new(VmcsField.HostSysenterCs, "Host IA32_SYSENTER_CS"),
        new(VmcsField.Cr0Mask, "CR0 guest/host mask"),
        new(VmcsField.Cr4Mask, "CR4 guest/host mask"),
        new(VmcsField.Cr0Shadow, "CR0 read shadow"),
        new(VmcsField.Cr4Shadow, "CR4 read shadow"),
        new(VmcsField.Cr3Target0, "CR3-target value 0", new(VmxControlWord.Cr3Targets, 1)),
        new(VmcsField.Cr3Target1, "CR3-target value 1", new(VmxControlWord.Cr3Targets, 2)),
        new(VmcsField.Cr3Target2, "CR3-target value 2", new(VmxControlWord.Cr3Targets, 3)),
        new(VmcsField.Cr3Target3, "CR3-target value 3", new(VmxControlWord.Cr3Targets, 4)),
        new(VmcsField.ExitQualification, "Exit qualification"),
        new(VmcsField.IoRcx, "I/O RCX"),
        new(VmcsField.IoRsi, "I/O RSI"),
        new(VmcsField.IoRdi, "I/O RDI"),
        new(VmcsField.IoRip, "I/O RIP"),
        new(VmcsField.GuestLinearAddress, "Guest-linear address"),
        new(VmcsField.GuestCr0, "Guest CR0"),
        new(VmcsField.GuestCr3, "Guest CR3"),
        new(VmcsField.GuestCr4, "Guest CR4"),
        new(VmcsField.GuestEsBase, "Guest ES base"),
        new(VmcsField.GuestCsBase, "Guest CS base"),
        new(VmcsField.GuestSsBase, "Guest SS base"),
        new(VmcsField.GuestDsBase, "Guest DS base"),
        new(VmcsField.GuestFsBase, "Guest FS base"),
        new(VmcsField.GuestGsBase, "Guest GS base"),
        new(VmcsField.GuestLdtrBase, "Guest LDTR base"),
        new(VmcsField.GuestTrBase, "Guest TR base"),
        new(VmcsField.GuestGdtrBase, "Guest GDTR base"),
        new(VmcsField.GuestIdtrBase, "Guest IDTR base"),
        new(VmcsField.GuestDr7, "Guest DR7"),
        new(VmcsField.GuestRsp, "Guest RSP"),
        new(VmcsField.GuestRip, "Guest RIP"),
        new(VmcsField.GuestRflags, "Guest RFLAGS"),
        new(VmcsField.GuestPendingDebugExceptions, "Guest pending debug exceptions"),
        new(VmcsField.GuestSysenterEsp, "Guest IA32_SYSENTER_ESP"),
        new(VmcsField.GuestSysenterEip, "Guest IA32_SYSENTER_EIP"),
        new(VmcsField.GuestSCet, "Guest IA32_S_CET", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadCet)),
        new(VmcsField.GuestSsp, "Guest SSP", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadCet)),
        new(VmcsField.GuestInterruptSspTable, "Guest IA32_INTERRUPT_SSP_TABLE_ADDR", new(VmxControlWord.Entry, (ulong)Vmx.VmEntryControls.LoadCet)),
        new(VmcsField.HostCr0, "Host CR0"),
        new(VmcsField.HostCr3, "Host CR3"),
        new(VmcsField.HostCr4, "Host CR4"),
        new(VmcsField.HostFsBase, "Host FS base"),
        new(VmcsField.HostGsBase, "Host GS base"),
        new(VmcsField.HostTrBase, "Host TR base"),
        new(VmcsField.HostGdtrBase, "Host GDTR base"),
        new(VmcsField.HostIdtrBase, "Host IDTR base"),
        new(VmcsField.HostSysenterEsp, "Host IA32_SYSENTER_ESP"),
        new(VmcsField.HostSysenterEip, "Host IA32_SYSENTER_EIP"),
        new(VmcsField.HostRsp, "Host RSP"),
        new(VmcsField.HostRip, "Host RIP"),
        new(VmcsField.HostSCet, "Host IA32_S_CET", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadCet)),
        new(VmcsField.HostSsp, "Host SSP", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadCet)),
        new(VmcsField.HostInterruptSspTable, "Host IA32_INTERRUPT_SSP_TABLE_ADDR", new(VmxControlWord.Exit, (ulong)Vmx.VmExitControls.LoadCet)),
    ];

    private static readonly VmcsFieldEntry?[] BySlot = IndexBySlot();
    private static readonly int[] GroupSizes = SizeGroups();

    /// <summary>All fields, in the order of the enumeration.</summary>
    public static ImmutableArray<VmcsFieldEntry> Fields => Table;

    /// <summary>The entry of a field.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is not one of <see cref="VmcsField"/>.</exception>
    public static VmcsFieldEntry Of(VmcsField field) =>
        Find((uint)field, out bool high) is { } entry && !high ? entry
            : throw new ArgumentOutOfRangeException(nameof(field), field, "not a VMCS field");

    /// <summary>
    /// The field that an encoding names, as VMREAD and VMWRITE take it from a register (SDM volume 3, section 25.11.2); null
    /// where there is none.
    /// </summary>
    /// <param name="encoding">The register's value; any reserved bit makes it no field.</param>
    /// <param name="high">Whether the access is to bits 63:32 of a 64-bit field.</param>
    public static VmcsFieldEntry? Find(ulong encoding, out bool high) => Find(encoding, BySlot, out high);

    /// <summary>As <see cref="Find"/>, but only a field that exists with these capabilities.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static VmcsFieldEntry? Find(ulong encoding, VmxCapabilities capabilities, out bool high) => Find(encoding, capabilities.FieldsBySlot, out high);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static VmcsFieldEntry? Find(ulong encoding, VmcsFieldEntry?[] bySlot, out bool high)
    {
        high = (encoding & 1) != 0;
        // Bit 12 and everything above bit 14 is reserved; indices end below 64.
        if ((encoding & ~0x6C7FUL) != 0 || (high && (encoding >> 13 & 3) != (ulong)VmcsFieldWidth.Bits64))
            return null;
        return bySlot[Slot((uint)encoding)];
    }

    /// <summary>The fields that exist with these capabilities, each where its encoding says.</summary>
    internal static VmcsFieldEntry?[] SelectBySlot(VmxCapabilities capabilities) =>
        [.. BySlot.Select(entry => entry is not null && capabilities.Supports(entry) ? entry : null)];

    /// <summary>The highest index of any existing field: bits 9:1 of IA32_VMX_VMCS_ENUM (SDM volume 3, appendix A.9).</summary>
    public static int HighestIndex(VmxCapabilities capabilities)
    {
        int highest = 0;
        foreach (VmcsFieldEntry entry in Table)
        {
            if (entry.Index > highest && capabilities.Supports(entry))
                highest = entry.Index;
        }
        return highest;
    }

    /// <summary>One more than the highest index of the fields of a width and type.</summary>
    internal static int GroupSize(VmcsFieldWidth width, VmcsFieldType type) => GroupSizes[(int)width << 2 | (int)type];

    private static int[] SizeGroups()
    {
        var sizes = new int[16];
        foreach (VmcsFieldEntry entry in Table)
        {
            ref int size = ref sizes[(int)entry.Width << 2 | (int)entry.Type];
            size = Math.Max(size, entry.Index + 1);
        }
        return sizes;
    }

    private static VmcsFieldEntry?[] IndexBySlot()
    {
        var bySlot = new VmcsFieldEntry?[1024];
        foreach (VmcsFieldEntry entry in Table)
            bySlot[Slot(entry.Encoding)] = entry;
        return bySlot;
    }

    private static int Slot(uint encoding) => (int)((encoding >> 13 & 3) << 8 | (encoding >> 10 & 3) << 6 | encoding >> 1 & 63);
}
