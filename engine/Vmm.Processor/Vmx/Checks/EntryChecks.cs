using System.Collections.Immutable;

namespace Vmm.Processor.Vmx.Checks;

/// <summary>
/// The checks of VM entry in the manual's order (SDM volume 3, sections 27.2.1 to 27.3.1). One list serves the hardware and a
/// hypervisor that emulates VMX: only the capabilities differ. Not covered, because no capability set allows it here: SMM entry and
/// the dual-monitor treatment, Intel PT, CET, PKS, UINTR, FRED, LBRs, sub-page permissions, tertiary and secondary VM-exit controls;
/// and RTM and SGX, whose bits in the pending debug exceptions and the interruptibility state are taken as reserved.
/// </summary>
public static class EntryChecks
{
    private static readonly EntryRule[] ControlList = [.. ExecutionControlRules.List, .. ExitAndEntryControlRules.List];
    private static readonly EntryRule[] PerEntryExecutionList = [.. ExecutionControlRules.List.Where(r => r.PerEntry)];
    private static readonly EntryRule[] EventList = [.. ExitAndEntryControlRules.List.Where(r => r.PerEntry)];
    private static readonly EntryRule[] HostList = [.. HostStateRules.List];
    private static readonly EntryRule[] GuestList = [.. GuestRegisterRules.List, .. GuestSegmentRules.List, .. GuestActivityRules.Registers, .. GuestActivityRules.State];

    /// <summary>The rules on the controls.</summary>
    public static ImmutableArray<EntryRule> Controls { get; } = [.. ControlList];

    /// <summary>The rules on the host-state area.</summary>
    public static ImmutableArray<EntryRule> HostState { get; } = [.. HostList];

    /// <summary>The rules on the guest-state area.</summary>
    public static ImmutableArray<EntryRule> GuestState { get; } = [.. GuestList];

    /// <summary>The first rule that the VMCS violates; null where the entry may go on to load the guest. Allocates nothing.</summary>
    public static EntryRule? FirstViolation(in EntrySubject subject) =>
        First(ControlList, subject) ?? First(HostList, subject) ?? First(GuestList, subject);

    /// <summary>
    /// As <see cref="FirstViolation(in EntrySubject)"/>, for a VMCS whose controls and host state are known to have passed in the same
    /// mode of the processor: their <see cref="Vmcs.ConfigurationVersion"/> is what it was then.
    /// </summary>
    public static EntryRule? FirstViolationOfPassed(in EntrySubject subject) => FirstViolationOfUnchanged(subject) ?? FirstViolationOfGuest(subject);

    /// <summary>
    /// The first violation among the controls of a VMCS whose controls and host state have passed and were not written since, the event
    /// to inject aside.
    /// </summary>
    internal static EntryRule? FirstViolationOfUnchanged(in EntrySubject subject) =>
        First(PerEntryExecutionList, subject) ?? (subject.Injection == 0 ? null : First(EventList, subject));

    /// <summary>The first violation in guest state. Registers that have passed are not looked at again while they stay the same.</summary>
    internal static EntryRule? FirstViolationOfGuest(in EntrySubject subject)
    {
        Vmcs vmcs = subject.Vmcs;
        ulong controls = (uint)subject.Entry | (subject.Unrestricted ? 1UL << 32 : 0);
        if (!vmcs.Passed.Registers(vmcs, controls))
        {
            if (First(GuestRegisterRules.List, subject) is { } failed)
                return failed;
            vmcs.Passed.NoteRegisters(vmcs, controls);
        }
        uint mode = (subject.Virtual8086 ? 1u : 0) | (subject.LongMode ? 2u : 0) | (subject.Unrestricted ? 4u : 0)
            | ((subject[VmcsField.GuestCr0] & Cr0.Pe) != 0 ? 8u : 0);
        if (!vmcs.Passed.Segments(vmcs, mode))
        {
            if (First(GuestSegmentRules.List, subject) is { } failed)
                return failed;
            vmcs.Passed.NoteSegments(vmcs, mode);
        }
        return (GuestActivityRules.ArePlainRegisters(subject) ? null : First(GuestActivityRules.Registers, subject))
            ?? (GuestActivityRules.IsPlain(subject) ? null : First(GuestActivityRules.State, subject));
    }

    /// <summary>The first violation within a group.</summary>
    public static EntryRule? FirstViolation(EntryCheckGroup group, in EntrySubject subject) => group switch
    {
        EntryCheckGroup.Controls => First(ControlList, subject),
        EntryCheckGroup.HostState => First(HostList, subject),
        _ => First(GuestList, subject),
    };

    private static EntryRule? First(EntryRule[] rules, in EntrySubject subject)
    {
        foreach (EntryRule rule in rules)
        {
            if (!rule.Holds(subject))
                return rule;
        }
        return null;
    }
}
