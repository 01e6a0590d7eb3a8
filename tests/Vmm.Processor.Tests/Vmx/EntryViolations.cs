using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using F = Vmm.Processor.Vmx.VmcsField;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>For every rule a valid VMCS and a change that violates this rule and no other.</summary>
internal static class EntryViolations
{
    private const ulong Beyond = 1UL << 46, NotCanonical = 1UL << 60;
    private static readonly string[] Names = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

    public static readonly Dictionary<string, (Func<EntryCase> Valid, Action<EntryCase> Spoil)> All = Build();

    private static Dictionary<string, (Func<EntryCase>, Action<EntryCase>)> Build()
    {
        Dictionary<string, (Func<EntryCase>, Action<EntryCase>)> all = [];
        string section = "";
        void Long(string rule, Action<EntryCase> spoil) => all.Add($"{section}: {rule}", (EntryCase.Long, spoil));
        void Pae(string rule, Action<EntryCase> spoil) => all.Add($"{section}: {rule}", (EntryCase.Pae, spoil));
        void Real(string rule, Action<EntryCase> spoil) => all.Add($"{section}: {rule}", (EntryCase.Real, spoil));
        void Vm86(string rule, Action<EntryCase> spoil) => all.Add($"{section}: {rule}", (EntryCase.Virtual8086, spoil));
        void Host32(string rule, Action<EntryCase> spoil) => all.Add($"{section}: {rule}", (EntryCase.Host32, spoil));
        void Page(string rule, F field, Action<EntryCase>? enable = null) => Long($"{rule} page-aligned and within MAXPHYADDR", c =>
        {
            enable?.Invoke(c);
            c[field] = 0x800;
        });

        section = "27.2.1.1";
        Long("pin-based controls as IA32_VMX_PINBASED_CTLS allows", c => c.Pin &= ~(PinControls)2);
        Long("primary processor-based controls as IA32_VMX_PROCBASED_CTLS allows", c => c.Proc |= (ProcControls)1);
        Long("secondary processor-based controls as IA32_VMX_PROCBASED_CTLS2 allows", c => c.Secondary |= SecondaryControls.EnclsExiting);
        Long("no more CR3 targets than IA32_VMX_MISC allows", c => c[F.Cr3TargetCount] = 5);
        Page("I/O bitmap A", F.IoBitmapA);
        Page("I/O bitmap B", F.IoBitmapB);
        Page("MSR bitmaps", F.MsrBitmaps);
        Page("virtual-APIC page", F.VirtualApicAddress);
        Long("TPR threshold bits 31:4 zero without virtual-interrupt delivery", c => c[F.TprThreshold] = 16);
        Long("TPR threshold not above VTPR[7:4]", c =>
        {
            c[F.TprThreshold] = 5;
            c[F.VirtualApicAddress] = 0x3000;
            c.Write(0x3080, 0x4F);
        });
        Long("virtual NMIs only with NMI exiting", c => c.Pin &= ~PinControls.NmiExiting);
        Long("NMI-window exiting only with virtual NMIs", c =>
        {
            c.Pin &= ~PinControls.VirtualNmis;
            c.Proc |= ProcControls.NmiWindowExiting;
        });
        Page("APIC-access page", F.ApicAccessAddress, c => c.Secondary |= SecondaryControls.VirtualizeApicAccesses);
        Long("x2APIC mode, APIC-register virtualization and virtual-interrupt delivery only with TPR shadow", c =>
        {
            c.Proc &= ~ProcControls.TprShadow;
            c.Secondary |= SecondaryControls.ApicRegisterVirtualization;
        });
        Long("x2APIC mode not with virtualize APIC accesses",
            c => c.Secondary |= SecondaryControls.VirtualizeX2Apic | SecondaryControls.VirtualizeApicAccesses);
        Long("virtual-interrupt delivery only with external-interrupt exiting", c =>
        {
            c.Secondary |= SecondaryControls.VirtualInterruptDelivery;
            c.Pin &= ~PinControls.ExternalInterruptExiting;
        });
        Long("posted interrupts only with virtual-interrupt delivery", c => c.Pin |= PinControls.PostedInterrupts);
        Long("posted interrupts only with acknowledge interrupt on exit", c =>
        {
            Post(c);
            c.Exit &= ~VmExitControls.AcknowledgeInterrupt;
        });
        Long("posted-interrupt notification vector 0 to 255", c =>
        {
            Post(c);
            c[F.PostedInterruptVector] = 256;
        });
        Long("posted-interrupt descriptor 64-byte-aligned and within MAXPHYADDR", c =>
        {
            Post(c);
            c[F.PostedInterruptDescriptorAddress] = 32;
        });
        Long("VPID not 0", c => c[F.VirtualProcessorId] = 0);
        Long("EPTP memory type supported", c => c[F.EptPointer] ^= 1);
        Long("EPTP page-walk length supported", c => c[F.EptPointer] ^= 7 << 3);
        Long("EPTP accessed and dirty flags only where supported", c =>
        {
            c[F.EptPointer] |= 1 << 6;
            c.Restrict(VmxMsr.EptVpid, (ulong)(c.Capabilities.EptVpid & ~EptVpidCapabilities.AccessedDirty));
        });
        Long("EPTP reserved bits zero", c => c[F.EptPointer] |= Beyond);
        Long("PML only with EPT", c => c.Secondary ^= SecondaryControls.EnableEpt | SecondaryControls.EnablePml);
        Page("PML page", F.PmlAddress, c => c.Secondary |= SecondaryControls.EnablePml);
        Long("unrestricted guest only with EPT", c => c.Secondary ^= SecondaryControls.EnableEpt | SecondaryControls.UnrestrictedGuest);
        Long("mode-based execute control only with EPT", c => c.Secondary ^= SecondaryControls.EnableEpt | SecondaryControls.ModeBasedExecute);
        Long("VM-function controls as IA32_VMX_VMFUNC allows", c =>
        {
            c.Secondary |= SecondaryControls.EnableVmFunctions;
            c[F.VmFunctionControls] = 2;
        });
        Long("EPTP switching only with EPT", c =>
        {
            c.Secondary ^= SecondaryControls.EnableVmFunctions | SecondaryControls.EnableEpt;
            c[F.VmFunctionControls] = 1;
        });
        Page("EPTP list", F.EptpListAddress, c =>
        {
            c.Secondary |= SecondaryControls.EnableVmFunctions;
            c[F.VmFunctionControls] = 1;
        });
        Page("VMREAD bitmap", F.VmreadBitmap, c => c.Secondary |= SecondaryControls.VmcsShadowing);
        Page("VMWRITE bitmap", F.VmwriteBitmap, c => c.Secondary |= SecondaryControls.VmcsShadowing);
        Page("virtualization-exception area", F.VirtualizationExceptionAddress, c => c.Secondary |= SecondaryControls.EptViolationVe);
        Long("TSC multiplier not 0", c => c.Secondary |= SecondaryControls.TscScaling);

        section = "27.2.1.2";
        Long("VM-exit controls as IA32_VMX_EXIT_CTLS allows", c => c.Exit |= VmExitControls.LoadCet);
        Long("save preemption timer only with the preemption timer", c => c.Exit |= VmExitControls.SavePreemptionTimer);
        Long("VM-exit MSR-store list 16-byte-aligned and within MAXPHYADDR", c => (c[F.VmExitMsrStoreCount], c[F.VmExitMsrStoreAddress]) = (1, 8));
        Long("VM-exit MSR-load list 16-byte-aligned and within MAXPHYADDR",
            c => (c[F.VmExitMsrLoadCount], c[F.VmExitMsrLoadAddress]) = (2, Beyond - 16));
        section = "27.2.1.3";
        Long("VM-entry controls as IA32_VMX_ENTRY_CTLS allows", c => c.Entry |= VmEntryControls.LoadCet);
        Long("event type not reserved", c => c.Inject((EventType)1, 0));
        Long("event vector fits its type", c => c.Inject(EventType.Nmi, 3));
        Long("error code delivered exactly where the event has one", c => c.Inject(EventType.Nmi, 2, 1 << 11));
        Long("reserved bits of the event zero", c => c.Inject(EventType.Nmi, 2, 1 << 12));
        Long("error code's bits 31:16 zero", c =>
        {
            c.Inject(EventType.HardwareException, Vector.Gp, 1 << 11);
            c[F.VmEntryExceptionErrorCode] = 0x1_0000;
        });
        Long("instruction length 1 to 15 for software events", c =>
        {
            c.Inject(EventType.SoftwareInterrupt, 0x80);
            c[F.VmEntryInstructionLength] = 16;
        });
        Long("VM-entry MSR-load list 16-byte-aligned and within MAXPHYADDR", c => (c[F.VmEntryMsrLoadCount], c[F.VmEntryMsrLoadAddress]) = (1, 8));

        section = "27.2.2";
        Long("CR0 within its fixed bits", c => c[F.HostCr0] &= ~Cr0.Ne);
        Long("CR4 within its fixed bits", c => c[F.HostCr4] &= ~Cr4.Vmxe);
        Long("CR3 within MAXPHYADDR", c => c[F.HostCr3] = Beyond);
        Long("IA32_SYSENTER_ESP canonical", c => c[F.HostSysenterEsp] = NotCanonical);
        Long("IA32_SYSENTER_EIP canonical", c => c[F.HostSysenterEip] = NotCanonical);
        Long("IA32_PERF_GLOBAL_CTRL reserved bits zero", c => c[F.HostPerfGlobalCtrl] = 16);
        Long("IA32_PAT holds memory types", c => c[F.HostPat] = 3UL << 56);
        Long("IA32_EFER reserved bits zero", c => c[F.HostEfer] |= 2);
        Long("IA32_EFER.LMA and LME equal host address-space size", c => c[F.HostEfer] = Efer.Lma);
        section = "27.2.3";
        foreach ((string name, F field) in new[] { ("ES", F.HostEsSelector), ("CS", F.HostCsSelector), ("SS", F.HostSsSelector), ("DS", F.HostDsSelector),
            ("FS", F.HostFsSelector), ("GS", F.HostGsSelector), ("TR", F.HostTrSelector) })
            Long($"{name} selector with RPL 0 and TI 0", c => c[field] |= 4);
        Long("CS selector not null", c => c[F.HostCsSelector] = 0);
        Long("TR selector not null", c => c[F.HostTrSelector] = 0);
        Host32("SS selector not null for a 32-bit host", c => c[F.HostSsSelector] = 0);
        foreach ((string name, F field) in new[] { ("FS", F.HostFsBase), ("GS", F.HostGsBase), ("GDTR", F.HostGdtrBase), ("IDTR", F.HostIdtrBase), ("TR", F.HostTrBase) })
            Long($"{name} base canonical", c => c[field] = NotCanonical);
        section = "27.2.4";
        Host32("64-bit guest only from IA-32e mode", c =>
        {
            c.Entry |= VmEntryControls.Ia32eModeGuest;
            c[F.GuestEfer] = Efer.Lma | Efer.Lme;
        });
        Pae("host address-space size equals IA32_EFER.LMA at entry", c => c.HostInLongMode = false);
        Host32("CR4.PCIDE 0 for a 32-bit host", c => c[F.HostCr4] |= Cr4.Pcide);
        Host32("RIP below 4 GiB for a 32-bit host", c => c[F.HostRip] = 1UL << 32);
        Long("CR4.PAE 1 for a 64-bit host", c => c[F.HostCr4] &= ~Cr4.Pae);
        Long("RIP canonical for a 64-bit host", c => c[F.HostRip] = 1UL << 47);

        section = "27.3.1.1";
        Long("CR0 within its fixed bits", c => c[F.GuestCr0] &= ~Cr0.Ne);
        Real("CR0.PG only with CR0.PE", c => c[F.GuestCr0] |= Cr0.Pg);
        Long("CR4 within its fixed bits", c => c[F.GuestCr4] |= Cr4.Smxe);
        Long("IA32_DEBUGCTL reserved bits zero", c => c[F.GuestDebugCtl] = 4);
        Long("CR0.PG 1 in IA-32e mode", c =>
        {
            c.Secondary |= SecondaryControls.UnrestrictedGuest;
            c[F.GuestCr0] &= ~Cr0.Pg;
        });
        Long("CR4.PAE 1 in IA-32e mode", c => c[F.GuestCr4] &= ~Cr4.Pae);
        Pae("CR4.PCIDE 0 outside IA-32e mode", c => c[F.GuestCr4] |= Cr4.Pcide);
        Long("CR3 within MAXPHYADDR", c => c[F.GuestCr3] = Beyond);
        Long("DR7 bits 63:32 zero", c => c[F.GuestDr7] = 1UL << 32);
        Long("IA32_SYSENTER_ESP canonical", c => c[F.GuestSysenterEsp] = NotCanonical);
        Long("IA32_SYSENTER_EIP canonical", c => c[F.GuestSysenterEip] = NotCanonical);
        Long("IA32_PERF_GLOBAL_CTRL reserved bits zero", c => c[F.GuestPerfGlobalCtrl] = 16);
        Long("IA32_PAT holds memory types", c => c[F.GuestPat] = 2);
        Long("IA32_EFER reserved bits zero", c => c[F.GuestEfer] |= 2);
        Long("IA32_EFER.LMA equals IA-32e mode guest", c => c[F.GuestEfer] = 0);
        Long("IA32_EFER.LME equals LMA with paging", c => c[F.GuestEfer] = Efer.Lma);
        Long("IA32_BNDCFGS reserved bits zero", c => c[F.GuestBndcfgs] = 4);
        Long("IA32_BNDCFGS base canonical", c => c[F.GuestBndcfgs] = NotCanonical);

        section = "27.3.1.2";
        Segments(Long, Real, Vm86);
        section = "27.3.1.3";
        Long("GDTR base canonical", c => c[F.GuestGdtrBase] = NotCanonical);
        Long("IDTR base canonical", c => c[F.GuestIdtrBase] = NotCanonical);
        Long("GDTR limit at most FFFF", c => c[F.GuestGdtrLimit] = 0x1_0000);
        Long("IDTR limit at most FFFF", c => c[F.GuestIdtrLimit] = 0x1_0000);

        section = "27.3.1.4";
        Pae("RIP below 4 GiB outside 64-bit mode", c => c[F.GuestRip] = 1UL << 32);
        Long("RIP within the linear-address width in 64-bit mode", c => c[F.GuestRip] = NotCanonical);
        Long("RFLAGS reserved bits fixed", c => c[F.GuestRflags] = 0);
        Vm86("RFLAGS.VM 0 in IA-32e mode and without CR0.PE", c =>
        {
            c.Secondary |= SecondaryControls.UnrestrictedGuest;
            c[F.GuestCr0] = Cr0.Ne;
        });
        Long("RFLAGS.IF 1 for an injected external interrupt", c => c.Inject(EventType.ExternalInterrupt, 0x30));
        section = "27.3.1.5";
        Long("activity state supported", c => c[F.GuestActivityState] = 4);
        Long("HLT only with SS.DPL 0", c =>
        {
            c[F.GuestActivityState] = 1;
            (c[F.GuestCsSelector], c[F.GuestSsSelector]) = (11, 19);
            c[F.GuestCsAccessRights] |= 3 << 5;
            c[F.GuestSsAccessRights] |= 3 << 5;
        });
        Long("active under blocking by STI or MOV SS", c => (c[F.GuestActivityState], c[F.GuestInterruptibility]) = (1, 2));
        Long("injected event can be delivered in the activity state", c =>
        {
            c[F.GuestActivityState] = 2;
            c.Inject(EventType.HardwareException, Vector.Db);
        });
        Long("interruptibility reserved bits zero", c => c[F.GuestInterruptibility] = 16);
        Long("not blocked by STI and MOV SS at once", c => (c[F.GuestInterruptibility], c[F.GuestRflags]) = (3, Rflags.Fixed1 | Rflags.If));
        Long("blocking by STI only with RFLAGS.IF", c => c[F.GuestInterruptibility] = 1);
        Long("no external interrupt injected under blocking by STI or MOV SS", c =>
        {
            (c[F.GuestInterruptibility], c[F.GuestRflags]) = (1, Rflags.Fixed1 | Rflags.If);
            c.Inject(EventType.ExternalInterrupt, 0x30);
        });
        Long("no NMI injected under blocking by MOV SS", c =>
        {
            c[F.GuestInterruptibility] = 2;
            c.Inject(EventType.Nmi, 2);
        });
        Long("no blocking by SMI outside SMM", c => c[F.GuestInterruptibility] = 4);
        Long("no NMI injected under blocking by STI", c =>
        {
            (c[F.GuestInterruptibility], c[F.GuestRflags]) = (1, Rflags.Fixed1 | Rflags.If);
            c.Inject(EventType.Nmi, 2);
        });
        Long("no NMI injected under blocking by NMI with virtual NMIs", c =>
        {
            c[F.GuestInterruptibility] = 8;
            c.Inject(EventType.Nmi, 2);
        });
        Long("pending debug exceptions reserved bits zero", c => c[F.GuestPendingDebugExceptions] = 1 << 4);
        Long("pending BS as RFLAGS.TF and IA32_DEBUGCTL.BTF demand when it cannot be recomputed",
            c => (c[F.GuestInterruptibility], c[F.GuestRflags]) = (2, Rflags.Fixed1 | Rflags.Tf));
        Long("VMCS link pointer page-aligned and within MAXPHYADDR", c => c[F.VmcsLinkPointer] = 0x800);
        Long("linked VMCS of this revision, shadow exactly with VMCS shadowing", c =>
        {
            c[F.VmcsLinkPointer] = 0x5000;
            c.Write(0x5000, c.Capabilities.RevisionId | 1u << 31);
        });
        Long("VMCS not linked to itself", c =>
        {
            c[F.VmcsLinkPointer] = c.VmcsAddress;
            c.Write(c.VmcsAddress, c.Capabilities.RevisionId);
        });
        section = "27.3.1.6";
        for (int k = 0; k < 4; k++)
        {
            int n = k;
            Pae($"PDPTE{n} reserved bits zero", c => c[EntryCase.Field(F.GuestPdpte0, n)] = 1 | Beyond);
        }
        return all;
    }

    private static void Segments(Action<string, Action<EntryCase>> inLong, Action<string, Action<EntryCase>> inReal, Action<string, Action<EntryCase>> inVm86)
    {
        inLong("TR selector with TI 0", c => c[F.GuestTrSelector] |= 4);
        inLong("LDTR selector with TI 0", c => c.SetSegment(Seg.Ldtr, 4, 0xFFFF, 0x82));
        inLong("SS.RPL equals CS.RPL", c => c[F.GuestCsSelector] |= 3);
        inLong("TR base canonical", c => c[F.GuestTrBase] = NotCanonical);
        inLong("FS base canonical", c => c[F.GuestFsBase] = NotCanonical);
        inLong("GS base canonical", c => c[F.GuestGsBase] = NotCanonical);
        inLong("LDTR base canonical", c =>
        {
            c.SetSegment(Seg.Ldtr, 32, 0xFFFF, 0x82);
            c[F.GuestLdtrBase] = NotCanonical;
        });
        foreach (int k in new[] { Seg.Cs, Seg.Ss, Seg.Ds, Seg.Es })
        {
            int n = k;
            inLong($"{Names[n]} base below 4 GiB", c => c[EntryCase.Field(F.GuestEsBase, n)] = 1UL << 32);
        }
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            F rights = EntryCase.Field(F.GuestEsAccessRights, n);
            inVm86($"{Names[n]} base is its selector times 16 in virtual-8086 mode", c => c[EntryCase.Field(F.GuestEsBase, n)]++);
            inVm86($"{Names[n]} limit FFFF in virtual-8086 mode", c => c[EntryCase.Field(F.GuestEsLimit, n)]--);
            inVm86($"{Names[n]} access rights F3 in virtual-8086 mode", c => c[rights] = 0x93);
            inLong($"{Names[n]} S 1", c => c[rights] ^= 1 << 4);
            inLong($"{Names[n]} present", c => c[rights] ^= 1 << 7);
            inLong($"{Names[n]} reserved access-rights bits zero", c => c[rights] |= 1 << 17);
            inLong($"{Names[n]} G agrees with the limit", c => c[EntryCase.Field(F.GuestEsLimit, n)] = 0xFFFF_F000);
            if (n is Seg.Cs or Seg.Ss)
                continue;
            inLong($"{Names[n]} type accessed, and readable if code", c => c[rights] = 0xC099);
            inLong($"{Names[n]}.DPL at least its RPL", c => c[EntryCase.Field(F.GuestEsSelector, n)] |= 1);
        }
        inLong("CS type accessed code, or read/write data for an unrestricted guest", c => c[F.GuestCsAccessRights] = 0xA091);
        inLong("SS type accessed read/write data", c => c[F.GuestSsAccessRights] = 0xC091);
        inLong("CS.DPL 0 for data, SS.DPL if not conforming, at most SS.DPL if conforming", c => c[F.GuestCsAccessRights] |= 1 << 5);
        inLong("SS.DPL equals SS.RPL", c => (c[F.GuestCsSelector], c[F.GuestSsSelector]) = (9, 17));
        inReal("SS.DPL 0 where CS is data or CR0.PE is 0", c => c[F.GuestSsAccessRights] |= 3 << 5);
        inLong("CS.D 0 in 64-bit mode", c => c[F.GuestCsAccessRights] |= SegmentRights.Big);
        inLong("TR type busy TSS, 32- or 64-bit in IA-32e mode", c => c[F.GuestTrAccessRights] = 0x83);
        inLong("TR S 0", c => c[F.GuestTrAccessRights] |= 1 << 4);
        inLong("TR present", c => c[F.GuestTrAccessRights] = 0x0B);
        inLong("TR reserved access-rights bits zero", c => c[F.GuestTrAccessRights] |= 1 << 8);
        inLong("TR G agrees with the limit", c => c[F.GuestTrAccessRights] |= SegmentRights.Granular);
        inLong("TR usable", c => c[F.GuestTrAccessRights] |= SegmentRights.Unusable);
        inLong("LDTR type LDT", c => c.SetSegment(Seg.Ldtr, 32, 0xFFFF, 0x83));
        inLong("LDTR S 0", c => c.SetSegment(Seg.Ldtr, 32, 0xFFFF, 0x92));
        inLong("LDTR present", c => c.SetSegment(Seg.Ldtr, 32, 0xFFFF, 0x02));
        inLong("LDTR reserved access-rights bits zero", c => c.SetSegment(Seg.Ldtr, 32, 0xFFFF, 0x182));
        inLong("LDTR G agrees with the limit", c => c.SetSegment(Seg.Ldtr, 32, 0x10_0000, 0x82));
    }

    private static void Post(EntryCase c)
    {
        c.Pin |= PinControls.PostedInterrupts;
        c.Secondary |= SecondaryControls.VirtualInterruptDelivery;
    }
}
