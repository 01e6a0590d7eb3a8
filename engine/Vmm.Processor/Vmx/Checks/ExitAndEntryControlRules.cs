namespace Vmm.Processor.Vmx.Checks;

/// <summary>Checks on the VM-exit and VM-entry control fields (SDM volume 3, sections 27.2.1.2 and 27.2.1.3).</summary>
internal static class ExitAndEntryControlRules
{
    // #DF, #TS, #NP, #SS, #GP, #PF, #AC: the exceptions that push an error code.
    private const uint WithErrorCode = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

    public static readonly EntryRule[] List =
    [
        Exit("VM-exit controls as IA32_VMX_EXIT_CTLS allows", (in s) => s.Capabilities.Accepts(VmxControlWord.Exit, (uint)s.Exit)),
        Exit("save preemption timer only with the preemption timer",
            (in s) => s.Has(PinControls.PreemptionTimer) || !s.Has(VmExitControls.SavePreemptionTimer)),
        Exit("VM-exit MSR-store list 16-byte-aligned and within MAXPHYADDR",
            (in s) => s.MsrList(VmcsField.VmExitMsrStoreAddress, VmcsField.VmExitMsrStoreCount)),
        Exit("VM-exit MSR-load list 16-byte-aligned and within MAXPHYADDR",
            (in s) => s.MsrList(VmcsField.VmExitMsrLoadAddress, VmcsField.VmExitMsrLoadCount)),
        Entry("VM-entry controls as IA32_VMX_ENTRY_CTLS allows", (in s) => s.Capabilities.Accepts(VmxControlWord.Entry, (uint)s.Entry)),
        Event("event type not reserved", (in s) => s.Injection == 0 || s.InjectionType is not (EventType)1
            && (s.InjectionType != EventType.Other || s.Capabilities.Allows(ProcControls.MonitorTrapFlag))),
        Event("event vector fits its type", (in s) => s.Injection == 0 || s.InjectionType switch
        {
            EventType.Nmi => Number(s) == Vector.Nmi,
            EventType.HardwareException => Number(s) <= 31,
            EventType.Other => Number(s) == 0,
            _ => true,
        }),
        Event("error code delivered exactly where the event has one", ErrorCodeFits),
        Event("reserved bits of the event zero", (in s) => (s.Injection & 0x7FFF_F000) == 0),
        Event("error code's bits 31:16 zero", (in s) => (s.Injection & 1 << 11) == 0 || s[VmcsField.VmEntryExceptionErrorCode] <= 0xFFFF),
        Event("instruction length 1 to 15 for software events", (in s) => s.Injection == 0
            || s.InjectionType is not (EventType.SoftwareInterrupt or EventType.PrivilegedSoftwareException or EventType.SoftwareException)
            || (s[VmcsField.VmEntryInstructionLength] <= 15
                && (s[VmcsField.VmEntryInstructionLength] != 0 || s.Capabilities.ZeroInstructionLength))),
        Entry("VM-entry MSR-load list 16-byte-aligned and within MAXPHYADDR",
            (in s) => s.MsrList(VmcsField.VmEntryMsrLoadAddress, VmcsField.VmEntryMsrLoadCount)),
    ];

    private static EntryRule Exit(string description, EntryPredicate holds) => new(EntryCheckGroup.Controls, "27.2.1.2", description, holds);

    private static EntryRule Entry(string description, EntryPredicate holds) => new(EntryCheckGroup.Controls, "27.2.1.3", description, holds);

    private static EntryRule Event(string description, EntryPredicate holds) => Entry(description, holds) with { PerEntry = true };

    private static uint Number(in EntrySubject s) => s.Injection & 0xFF;

    private static bool ErrorCodeFits(in EntrySubject s)
    {
        if (s.Injection == 0)
            return true;
        bool delivered = (s.Injection & 1 << 11) != 0;
        bool realMode = s.Unrestricted && (s[VmcsField.GuestCr0] & Cr0.Pe) == 0;
        if (realMode || s.InjectionType != EventType.HardwareException)
            return !delivered;
        // Vectors above 31 are another rule's business.
        return s.Capabilities.AnyErrorCode || delivered == (Number(s) <= 31 && (WithErrorCode >> (int)Number(s) & 1) != 0);
    }
}
