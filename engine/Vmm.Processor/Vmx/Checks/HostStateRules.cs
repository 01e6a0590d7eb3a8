using Vmm.Processor.Execution;

namespace Vmm.Processor.Vmx.Checks;

/// <summary>Checks on the host-state area (SDM volume 3, sections 27.2.2 to 27.2.4).</summary>
internal static class HostStateRules
{
    public static readonly EntryRule[] List =
    [
        Rule("27.2.2", "CR0 within its fixed bits", (in s) => s.Capabilities.AllowsCr0(s[VmcsField.HostCr0])),
        Rule("27.2.2", "CR4 within its fixed bits", (in s) => s.Capabilities.AllowsCr4(s[VmcsField.HostCr4])),
        Rule("27.2.2", "CR3 within MAXPHYADDR", (in s) => s.Physical(s[VmcsField.HostCr3])),
        Rule("27.2.2", "IA32_SYSENTER_ESP canonical", (in s) => s.Canonical(VmcsField.HostSysenterEsp)),
        Rule("27.2.2", "IA32_SYSENTER_EIP canonical", (in s) => s.Canonical(VmcsField.HostSysenterEip)),
        Rule("27.2.2", "IA32_PERF_GLOBAL_CTRL reserved bits zero", (in s) => !s.Has(VmExitControls.LoadPerfGlobalCtrl)
            || (s[VmcsField.HostPerfGlobalCtrl] & ~s.Limits.PerfGlobalCtrlAllowed) == 0),
        Rule("27.2.2", "IA32_PAT holds memory types", (in s) => !s.Has(VmExitControls.LoadPat) || EntrySubject.MemoryTypes(s[VmcsField.HostPat])),
        Rule("27.2.2", "IA32_EFER reserved bits zero",
            (in s) => !s.Has(VmExitControls.LoadEfer) || (s[VmcsField.HostEfer] & ~s.Limits.EferAllowed) == 0),
        Rule("27.2.2", "IA32_EFER.LMA and LME equal host address-space size", (in s) => !s.Has(VmExitControls.LoadEfer)
            || (s[VmcsField.HostEfer] & (Efer.Lma | Efer.Lme)) == (Is64(s) ? Efer.Lma | Efer.Lme : 0)),

        Selector("ES", VmcsField.HostEsSelector), Selector("CS", VmcsField.HostCsSelector), Selector("SS", VmcsField.HostSsSelector),
        Selector("DS", VmcsField.HostDsSelector), Selector("FS", VmcsField.HostFsSelector), Selector("GS", VmcsField.HostGsSelector),
        Selector("TR", VmcsField.HostTrSelector),
        Rule("27.2.3", "CS selector not null", (in s) => s[VmcsField.HostCsSelector] != 0),
        Rule("27.2.3", "TR selector not null", (in s) => s[VmcsField.HostTrSelector] != 0),
        Rule("27.2.3", "SS selector not null for a 32-bit host", (in s) => Is64(s) || s[VmcsField.HostSsSelector] != 0),
        Base("FS", VmcsField.HostFsBase), Base("GS", VmcsField.HostGsBase), Base("GDTR", VmcsField.HostGdtrBase),
        Base("IDTR", VmcsField.HostIdtrBase), Base("TR", VmcsField.HostTrBase),

        // The first two together also keep a 64-bit guest from a 32-bit host.
        Rule("27.2.4", "64-bit guest only from IA-32e mode", (in s) => s.HostInLongMode || !s.LongMode),
        Rule("27.2.4", "host address-space size equals IA32_EFER.LMA at entry", (in s) => Is64(s) == s.HostInLongMode),
        Rule("27.2.4", "CR4.PCIDE 0 for a 32-bit host", (in s) => Is64(s) || (s[VmcsField.HostCr4] & Cr4.Pcide) == 0),
        Rule("27.2.4", "RIP below 4 GiB for a 32-bit host", (in s) => Is64(s) || s[VmcsField.HostRip] >> 32 == 0),
        Rule("27.2.4", "CR4.PAE 1 for a 64-bit host", (in s) => !Is64(s) || (s[VmcsField.HostCr4] & Cr4.Pae) != 0),
        // RIP must be good under the paging that the host will have, not under the widest that the processor has.
        Rule("27.2.4", "RIP canonical for a 64-bit host", (in s) => !Is64(s)
            || Canonical.IsWithin(s[VmcsField.HostRip], Canonical.Width(s[VmcsField.HostCr4]))),
    ];

    private static EntryRule Rule(string section, string description, EntryPredicate holds) =>
        new(EntryCheckGroup.HostState, section, description, holds);

    private static EntryRule Selector(string name, VmcsField field) => Rule("27.2.3", $"{name} selector with RPL 0 and TI 0", (in s) => (s[field] & 7) == 0);

    private static EntryRule Base(string name, VmcsField field) => Rule("27.2.3", $"{name} base canonical", (in s) => s.Canonical(field));

    private static bool Is64(in EntrySubject s) => s.Has(VmExitControls.HostAddressSpaceSize);
}
