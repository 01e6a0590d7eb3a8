namespace Vmm.Processor.Vmx.Checks;

/// <summary>Checks on the guest's RIP and RFLAGS, non-register state and PDPTEs (SDM volume 3, sections 27.3.1.4 to 27.3.1.6).</summary>
internal static class GuestActivityRules
{
    private const uint Sti = 1, MovSs = 2, Smi = 4, Nmi = 8;
    private const ulong DebugBs = 1 << 14, DebugCtlBtf = 2;

    /// <summary>RIP and RFLAGS.</summary>
    public static readonly EntryRule[] Registers =
    [
        Rule("27.3.1.4", "RIP below 4 GiB outside 64-bit mode", (in s) => In64BitMode(s) || s[VmcsField.GuestRip] >> 32 == 0),
        Rule("27.3.1.4", "RIP within the linear-address width in 64-bit mode", (in s) => !In64BitMode(s) || s.Canonical(VmcsField.GuestRip)),
        Rule("27.3.1.4", "RFLAGS reserved bits fixed",
            (in s) => (s[VmcsField.GuestRflags] & ~Rflags.All) == Rflags.Fixed1),
        Rule("27.3.1.4", "RFLAGS.VM 0 in IA-32e mode and without CR0.PE",
            (in s) => !s.Virtual8086 || (!s.LongMode && (s[VmcsField.GuestCr0] & Cr0.Pe) != 0)),
        Rule("27.3.1.4", "RFLAGS.IF 1 for an injected external interrupt",
            (in s) => !s.Injects(EventType.ExternalInterrupt) || (s[VmcsField.GuestRflags] & Rflags.If) != 0),
    ];

    /// <summary>What comes behind them.</summary>
    public static readonly EntryRule[] State =
    [
        Rule("27.3.1.5", "activity state supported",
            (in s) => s[VmcsField.GuestActivityState] <= 3 && s.Capabilities.Allows((ActivityState)s[VmcsField.GuestActivityState])),
        Rule("27.3.1.5", "HLT only with SS.DPL 0", (in s) => Activity(s) != ActivityState.Hlt
            || (s[VmcsField.GuestSsAccessRights] & 3 << 5) == 0),
        Rule("27.3.1.5", "active under blocking by STI or MOV SS", (in s) => Activity(s) == ActivityState.Active || !Blocked(s, Sti | MovSs)),
        Rule("27.3.1.5", "injected event can be delivered in the activity state", EventFitsActivity),
        Rule("27.3.1.5", "interruptibility reserved bits zero", (in s) => s[VmcsField.GuestInterruptibility] <= 15),
        Rule("27.3.1.5", "not blocked by STI and MOV SS at once", (in s) => (s[VmcsField.GuestInterruptibility] & 3) != 3),
        Rule("27.3.1.5", "blocking by STI only with RFLAGS.IF", (in s) => !Blocked(s, Sti) || (s[VmcsField.GuestRflags] & Rflags.If) != 0),
        Rule("27.3.1.5", "no external interrupt injected under blocking by STI or MOV SS",
            (in s) => !s.Injects(EventType.ExternalInterrupt) || !Blocked(s, Sti | MovSs)),
        Rule("27.3.1.5", "no NMI injected under blocking by MOV SS", (in s) => !s.Injects(EventType.Nmi) || !Blocked(s, MovSs)),
        Rule("27.3.1.5", "no blocking by SMI outside SMM", (in s) => !Blocked(s, Smi)),
        // The manual leaves this one to the processor; this one, like most, makes the check.
        Rule("27.3.1.5", "no NMI injected under blocking by STI", (in s) => !s.Injects(EventType.Nmi) || !Blocked(s, Sti), 3),
        Rule("27.3.1.5", "no NMI injected under blocking by NMI with virtual NMIs",
            (in s) => !s.Has(PinControls.VirtualNmis) || !s.Injects(EventType.Nmi) || !Blocked(s, Nmi)),
        Rule("27.3.1.5", "pending debug exceptions reserved bits zero",
            (in s) => (s[VmcsField.GuestPendingDebugExceptions] & ~0x500FUL) == 0),
        Rule("27.3.1.5", "pending BS as RFLAGS.TF and IA32_DEBUGCTL.BTF demand when it cannot be recomputed", SingleStepFits),
        Rule("27.3.1.5", "VMCS link pointer page-aligned and within MAXPHYADDR",
            (in s) => !Linked(s) || s.Structure(VmcsField.VmcsLinkPointer, 4096), 4),
        Rule("27.3.1.5", "linked VMCS of this revision, shadow exactly with VMCS shadowing", (in s) => !Linked(s)
            || !s.Structure(VmcsField.VmcsLinkPointer, 4096)
            || s.Memory.Read32(s[VmcsField.VmcsLinkPointer])
                == (s.Capabilities.RevisionId | (s.Has(SecondaryControls.VmcsShadowing) ? 1u << 31 : 0)), 4),
        Rule("27.3.1.5", "VMCS not linked to itself", (in s) => !Linked(s) || s[VmcsField.VmcsLinkPointer] != s.VmcsAddress, 4),

        Pdpte(0), Pdpte(1), Pdpte(2), Pdpte(3),
    ];

    /// <summary>
    /// Whether there is no event, and the guest is in 64-bit mode or has RIP below 4 GiB, without virtual-8086 mode, as nearly all are: then RIP
    /// and RFLAGS keep every rule of <see cref="Registers"/>.
    /// </summary>
    public static bool ArePlainRegisters(in EntrySubject s)
    {
        ulong rip = s[VmcsField.GuestRip];
        return s.Injection == 0 && (s[VmcsField.GuestRflags] & ~(Rflags.All & ~Rflags.Vm)) == Rflags.Fixed1
            && (In64BitMode(s) ? s.Canonical(rip) : rip >> 32 == 0);
    }

    /// <summary>
    /// Whether the guest is active with nothing blocked, nothing pending, no linked VMCS and no PDPTEs, as nearly all are: then it keeps every
    /// rule of <see cref="State"/>, whatever event is injected.
    /// </summary>
    public static bool IsPlain(in EntrySubject s) =>
        (s[VmcsField.GuestActivityState] | s[VmcsField.GuestInterruptibility] | s[VmcsField.GuestPendingDebugExceptions]) == 0
        && !Linked(s) && !s.PaePaging;

    private static EntryRule Rule(string section, string description, EntryPredicate holds, uint qualification = 0) =>
        new(EntryCheckGroup.GuestState, section, description, holds, qualification);

    // With EPT the PDPTEs are fields, without they are in memory at CR3. Only a present one has reserved bits.
    private static EntryRule Pdpte(int k) => Rule("27.3.1.6", $"PDPTE{k} reserved bits zero", (in s) =>
    {
        if (!s.PaePaging)
            return true;
        ulong entry = s.Has(SecondaryControls.EnableEpt)
            ? s[VmcsField.GuestPdpte0.At(k)]
            : s.Memory.Read64((s[VmcsField.GuestCr3] & 0xFFFF_FFE0) + 8 * (ulong)k);
        return (entry & 1) == 0 || ((entry & 0x1E6) == 0 && s.Physical(entry));
    }, 2);

    private static ActivityState Activity(in EntrySubject s) => (ActivityState)s.Vmcs.Read32(VmcsField.GuestActivityState);

    private static bool Blocked(in EntrySubject s, uint by) => (s[VmcsField.GuestInterruptibility] & by) != 0;

    private static bool Linked(in EntrySubject s) => s[VmcsField.VmcsLinkPointer] != ulong.MaxValue;

    private static bool In64BitMode(in EntrySubject s) => s.LongMode && (s[VmcsField.GuestCsAccessRights] & SegmentRights.Long) != 0;

    private static bool EventFitsActivity(in EntrySubject s)
    {
        if (s.Injection == 0)
            return true;
        uint vector = s.Injection & 0xFF;
        bool machineCheck = s.InjectionType == EventType.HardwareException && vector == Vector.Mc;
        return Activity(s) switch
        {
            ActivityState.Hlt => machineCheck || s.InjectionType is EventType.ExternalInterrupt or EventType.Nmi
                || (s.InjectionType == EventType.HardwareException && vector == Vector.Db)
                || (s.InjectionType == EventType.Other && vector == 0),
            ActivityState.Shutdown => machineCheck || s.InjectionType == EventType.Nmi,
            ActivityState.WaitForSipi => false,
            _ => true,
        };
    }

    private static bool SingleStepFits(in EntrySubject s)
    {
        if (!Blocked(s, Sti | MovSs) && Activity(s) != ActivityState.Hlt)
            return true;
        bool stepping = (s[VmcsField.GuestRflags] & Rflags.Tf) != 0 && (s[VmcsField.GuestDebugCtl] & DebugCtlBtf) == 0;
        return (s[VmcsField.GuestPendingDebugExceptions] & DebugBs) != 0 == stepping;
    }
}
