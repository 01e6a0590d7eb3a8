namespace Vmm.Processor.Vmx.Checks;

/// <summary>
/// Checks on the guest's control registers, debug registers and MSRs (SDM volume 3, section 27.3.1.1). RIP and RFLAGS come after the
/// segments, in <see cref="GuestActivityRules"/>.
/// </summary>
internal static class GuestRegisterRules
{
    public static readonly EntryRule[] List =
    [
        Rule("CR0 within its fixed bits", (in s) => s.Capabilities.AllowsCr0(s[VmcsField.GuestCr0],
            (s.Unrestricted ? Cr0.Pe | Cr0.Pg : 0) | Cr0.Nw | Cr0.Cd)),
        // Only an unrestricted guest gets here without PE.
        Rule("CR0.PG only with CR0.PE", (in s) => !s.Unrestricted || (s[VmcsField.GuestCr0] & (Cr0.Pg | Cr0.Pe)) != Cr0.Pg),
        Rule("CR4 within its fixed bits", (in s) => s.Capabilities.AllowsCr4(s[VmcsField.GuestCr4])),
        Rule("IA32_DEBUGCTL reserved bits zero",
            (in s) => !s.Has(VmEntryControls.LoadDebugControls) || (s[VmcsField.GuestDebugCtl] & ~s.Limits.DebugCtlAllowed) == 0),
        Rule("CR0.PG 1 in IA-32e mode", (in s) => !s.LongMode || (s[VmcsField.GuestCr0] & Cr0.Pg) != 0),
        Rule("CR4.PAE 1 in IA-32e mode", (in s) => !s.LongMode || (s[VmcsField.GuestCr4] & Cr4.Pae) != 0),
        Rule("CR4.PCIDE 0 outside IA-32e mode", (in s) => s.LongMode || (s[VmcsField.GuestCr4] & Cr4.Pcide) == 0),
        Rule("CR3 within MAXPHYADDR", (in s) => s.Physical(s[VmcsField.GuestCr3])),
        Rule("DR7 bits 63:32 zero", (in s) => !s.Has(VmEntryControls.LoadDebugControls) || s[VmcsField.GuestDr7] >> 32 == 0),
        Rule("IA32_SYSENTER_ESP canonical", (in s) => s.Canonical(VmcsField.GuestSysenterEsp)),
        Rule("IA32_SYSENTER_EIP canonical", (in s) => s.Canonical(VmcsField.GuestSysenterEip)),
        Rule("IA32_PERF_GLOBAL_CTRL reserved bits zero", (in s) => !s.Has(VmEntryControls.LoadPerfGlobalCtrl)
            || (s[VmcsField.GuestPerfGlobalCtrl] & ~s.Limits.PerfGlobalCtrlAllowed) == 0),
        Rule("IA32_PAT holds memory types", (in s) => !s.Has(VmEntryControls.LoadPat) || EntrySubject.MemoryTypes(s[VmcsField.GuestPat])),
        Rule("IA32_EFER reserved bits zero",
            (in s) => !s.Has(VmEntryControls.LoadEfer) || (s[VmcsField.GuestEfer] & ~s.Limits.EferAllowed) == 0),
        Rule("IA32_EFER.LMA equals IA-32e mode guest",
            (in s) => !s.Has(VmEntryControls.LoadEfer) || (s[VmcsField.GuestEfer] & Efer.Lma) != 0 == s.LongMode),
        Rule("IA32_EFER.LME equals LMA with paging", (in s) => !s.Has(VmEntryControls.LoadEfer) || (s[VmcsField.GuestCr0] & Cr0.Pg) == 0
            || (s[VmcsField.GuestEfer] & Efer.Lme) != 0 == ((s[VmcsField.GuestEfer] & Efer.Lma) != 0)),
        Rule("IA32_BNDCFGS reserved bits zero", (in s) => !s.Has(VmEntryControls.LoadBndcfgs) || (s[VmcsField.GuestBndcfgs] & 0xFFC) == 0),
        Rule("IA32_BNDCFGS base canonical", (in s) => !s.Has(VmEntryControls.LoadBndcfgs) || s.Canonical(s[VmcsField.GuestBndcfgs] & ~0xFFFUL)),
    ];

    private static EntryRule Rule(string description, EntryPredicate holds) => new(EntryCheckGroup.GuestState, "27.3.1.1", description, holds);
}
