using System.Collections.Immutable;
using System.Globalization;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Vmx;

/// <summary>The words of controls that have allowed settings.</summary>
public enum VmxControlWord
{
    None, Pin, Proc, Secondary, Tertiary, Exit, Entry, SecondaryExit, VmFunction, Cr3Targets,
}

/// <summary>The VMX capability MSRs by number (SDM volume 3, appendix A).</summary>
public static class VmxMsr
{
    public const uint Basic = 0x480, PinBased = 0x481, ProcBased = 0x482, Exit = 0x483, Entry = 0x484, Misc = 0x485, Cr0Fixed0 = 0x486,
        Cr0Fixed1 = 0x487, Cr4Fixed0 = 0x488, Cr4Fixed1 = 0x489, VmcsEnum = 0x48A, ProcBased2 = 0x48B, EptVpid = 0x48C,
        TruePinBased = 0x48D, TrueProcBased = 0x48E, TrueExit = 0x48F, TrueEntry = 0x490, VmFunctions = 0x491, ProcBased3 = 0x492,
        Exit2 = 0x493, First = Basic, Last = Exit2;
}

/// <summary>Bits of IA32_VMX_EPT_VPID_CAP (SDM volume 3, appendix A.10).</summary>
[Flags]
public enum EptVpidCapabilities : ulong
{
    ExecuteOnly = 1 << 0, WalkLength4 = 1 << 6, WalkLength5 = 1 << 7, MemoryTypeUncacheable = 1 << 8, MemoryTypeWriteBack = 1 << 14,
    Pages2M = 1 << 16, Pages1G = 1 << 17, Invept = 1 << 20, AccessedDirty = 1 << 21, AdvancedExitInformation = 1 << 22,
    SupervisorShadowStack = 1 << 23, InveptSingle = 1 << 25, InveptAll = 1 << 26, Invvpid = 1UL << 32, InvvpidAddress = 1UL << 40,
    InvvpidSingle = 1UL << 41, InvvpidAll = 1UL << 42, InvvpidSingleRetainingGlobals = 1UL << 43,
}

/// <summary>
/// The VMX capability MSRs 0x480 to 0x493, the only source of what VMX allows (SDM volume 3, appendix A). Immutable. The hardware
/// has one set, <see cref="Hardware"/>; what a guest hypervisor sees is a <see cref="Restrict">restriction</see> of it.
/// </summary>
public sealed class VmxCapabilities
{
    private const uint PinDefault1 = 0x16, ProcDefault1 = 0x0401_E172, ExitDefault1 = 0x0003_6DFF, EntryDefault1 = 0x11FF;
    private const ulong TrueControls = 1UL << 55;
    private const ulong MiscFeatures = 1 << 5 | 7 << 6 | 1 << 14 | 1 << 15 | 1 << 28 | 1 << 29 | 1 << 30;
    private const ulong MiscNumbers = 0x1F | 0x1FF << 16 | 7 << 25;
    private readonly ImmutableArray<ulong> _values;

    private VmxCapabilities(ImmutableArray<ulong> values) => _values = values;

    /// <summary>
    /// The full model of the emulated hardware: the manual's features without SMM monitor, processor trace, SGX, CET, sub-page
    /// permissions, tertiary controls and secondary VM-exit controls.
    /// </summary>
    /// <param name="cr4Allowed">The bits of CR4 that the processor has, CR4.VMXE aside.</param>
    /// <param name="performanceMonitoring">Whether CPUID offers IA32_PERF_GLOBAL_CTRL: gives the controls that load it.</param>
    /// <param name="memoryProtection">Whether CPUID offers MPX: gives the controls for IA32_BNDCFGS.</param>
    public static VmxCapabilities Hardware(ulong cr4Allowed, bool performanceMonitoring = false, bool memoryProtection = false)
    {
        const PinControls pin = PinControls.ExternalInterruptExiting | PinControls.NmiExiting | PinControls.VirtualNmis
            | PinControls.PreemptionTimer | PinControls.PostedInterrupts;
        const ProcControls proc = ProcControls.InterruptWindowExiting | ProcControls.TscOffsetting | ProcControls.HltExiting
            | ProcControls.InvlpgExiting | ProcControls.MwaitExiting | ProcControls.RdpmcExiting | ProcControls.RdtscExiting
            | ProcControls.Cr3LoadExiting | ProcControls.Cr3StoreExiting | ProcControls.Cr8LoadExiting | ProcControls.Cr8StoreExiting
            | ProcControls.TprShadow | ProcControls.NmiWindowExiting | ProcControls.MovDrExiting | ProcControls.UnconditionalIoExiting
            | ProcControls.UseIoBitmaps | ProcControls.MonitorTrapFlag | ProcControls.UseMsrBitmaps | ProcControls.MonitorExiting
            | ProcControls.PauseExiting | ProcControls.ActivateSecondary;
        const SecondaryControls secondary = SecondaryControls.VirtualizeApicAccesses | SecondaryControls.EnableEpt
            | SecondaryControls.DescriptorTableExiting | SecondaryControls.EnableRdtscp | SecondaryControls.VirtualizeX2Apic
            | SecondaryControls.EnableVpid | SecondaryControls.WbinvdExiting | SecondaryControls.UnrestrictedGuest
            | SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery | SecondaryControls.PauseLoopExiting
            | SecondaryControls.RdrandExiting | SecondaryControls.EnableInvpcid | SecondaryControls.EnableVmFunctions
            | SecondaryControls.VmcsShadowing | SecondaryControls.RdseedExiting | SecondaryControls.EnablePml
            | SecondaryControls.EptViolationVe | SecondaryControls.ConcealFromPt | SecondaryControls.EnableXsaves
            | SecondaryControls.ModeBasedExecute | SecondaryControls.TscScaling | SecondaryControls.UserWaitPause;
        VmExitControls exit = VmExitControls.SaveDebugControls | VmExitControls.HostAddressSpaceSize | VmExitControls.AcknowledgeInterrupt
            | VmExitControls.SavePat | VmExitControls.LoadPat | VmExitControls.SaveEfer | VmExitControls.LoadEfer
            | VmExitControls.SavePreemptionTimer | (performanceMonitoring ? VmExitControls.LoadPerfGlobalCtrl : 0)
            | (memoryProtection ? VmExitControls.ClearBndcfgs : 0);
        VmEntryControls entry = VmEntryControls.LoadDebugControls | VmEntryControls.Ia32eModeGuest | VmEntryControls.LoadPat
            | VmEntryControls.LoadEfer | (performanceMonitoring ? VmEntryControls.LoadPerfGlobalCtrl : 0)
            | (memoryProtection ? VmEntryControls.LoadBndcfgs : 0);
        const EptVpidCapabilities ept = EptVpidCapabilities.ExecuteOnly | EptVpidCapabilities.WalkLength4
            | EptVpidCapabilities.MemoryTypeUncacheable | EptVpidCapabilities.MemoryTypeWriteBack | EptVpidCapabilities.Pages2M
            | EptVpidCapabilities.Pages1G | EptVpidCapabilities.Invept | EptVpidCapabilities.AccessedDirty
            | EptVpidCapabilities.InveptSingle | EptVpidCapabilities.InveptAll | EptVpidCapabilities.Invvpid
            | EptVpidCapabilities.InvvpidAddress | EptVpidCapabilities.InvvpidSingle | EptVpidCapabilities.InvvpidAll
            | EptVpidCapabilities.InvvpidSingleRetainingGlobals;

        var v = new ulong[VmxMsr.Last - VmxMsr.First + 1];
        // Revision 1, a region of 4096 bytes, write-back, INS/OUTS information, TRUE controls, error codes free of the vector.
        v[0] = 1 | 0x1000UL << 32 | 6UL << 50 | 1UL << 54 | TrueControls | 1UL << 56;
        Set(v, VmxMsr.PinBased, VmxMsr.TruePinBased, PinDefault1, PinDefault1, (uint)pin);
        // The default-1 controls that software may clear: CR3-load and CR3-store exiting, and loading and saving of debug controls.
        Set(v, VmxMsr.ProcBased, VmxMsr.TrueProcBased, ProcDefault1,
            ProcDefault1 & ~(uint)(ProcControls.Cr3LoadExiting | ProcControls.Cr3StoreExiting), (uint)proc);
        Set(v, VmxMsr.Exit, VmxMsr.TrueExit, ExitDefault1, ExitDefault1 & ~(uint)VmExitControls.SaveDebugControls, (uint)exit);
        Set(v, VmxMsr.Entry, VmxMsr.TrueEntry, EntryDefault1, EntryDefault1 & ~(uint)VmEntryControls.LoadDebugControls, (uint)entry);
        // Timer at TSC/32, LMA stored on exit, HLT, shutdown and wait-for-SIPI, 4 CR3 targets, 512 MSRs, VMWRITE to all, length 0.
        v[VmxMsr.Misc - VmxMsr.First] = 5 | 1 << 5 | 7 << 6 | 4 << 16 | 1 << 29 | 1 << 30;
        v[VmxMsr.Cr0Fixed0 - VmxMsr.First] = Cr0.Pe | Cr0.Ne | Cr0.Pg;
        v[VmxMsr.Cr0Fixed1 - VmxMsr.First] = 0xFFFF_FFFF;
        v[VmxMsr.Cr4Fixed0 - VmxMsr.First] = Cr4.Vmxe;
        v[VmxMsr.Cr4Fixed1 - VmxMsr.First] = cr4Allowed | Cr4.Vmxe;
        v[VmxMsr.ProcBased2 - VmxMsr.First] = (ulong)secondary << 32;
        v[VmxMsr.EptVpid - VmxMsr.First] = (ulong)ept;
        v[VmxMsr.VmFunctions - VmxMsr.First] = 1;
        return WithEnumeration(v);
    }

    /// <summary>
    /// Reads a capability MSR. False where it does not exist (RDMSR raises #GP): outside the range, or without the feature that
    /// brings it.
    /// </summary>
    public bool TryRead(uint msr, out ulong value)
    {
        bool exists = msr switch
        {
            VmxMsr.ProcBased2 => Allows(ProcControls.ActivateSecondary),
            VmxMsr.EptVpid => Allows(SecondaryControls.EnableEpt) || Allows(SecondaryControls.EnableVpid),
            >= VmxMsr.TruePinBased and <= VmxMsr.TrueEntry => HasTrueControls,
            VmxMsr.VmFunctions => Allows(SecondaryControls.EnableVmFunctions),
            VmxMsr.ProcBased3 => Allows(ProcControls.ActivateTertiary),
            VmxMsr.Exit2 => Allows(VmExitControls.ActivateSecondary),
            _ => msr is >= VmxMsr.First and <= VmxMsr.Last,
        };
        value = exists ? Raw(msr) : 0;
        return exists;
    }

    /// <summary>The VMCS revision identifier, 31 bits.</summary>
    public uint RevisionId => (uint)_values[0] & 0x7FFF_FFFF;

    /// <summary>Whether the TRUE MSRs exist (IA32_VMX_BASIC bit 55).</summary>
    public bool HasTrueControls => (_values[0] & TrueControls) != 0;

    /// <summary>Whether hardware exceptions can be injected with or without error code whatever their vector (IA32_VMX_BASIC bit 56).</summary>
    public bool AnyErrorCode => (_values[0] >> 56 & 1) != 0;

    /// <summary>Whether physical addresses of VMX structures are limited to 32 bits (IA32_VMX_BASIC bit 48).</summary>
    public bool Addresses32Bit => (_values[0] >> 48 & 1) != 0;

    /// <summary>How many CR3-target values there are (IA32_VMX_MISC bits 24:16).</summary>
    public int Cr3Targets => (int)(Raw(VmxMsr.Misc) >> 16 & 0x1FF);

    /// <summary>The VMX-preemption timer counts down each time this bit of the TSC changes (IA32_VMX_MISC bits 4:0).</summary>
    public int PreemptionTimerShift => (int)(Raw(VmxMsr.Misc) & 0x1F);

    /// <summary>The most MSRs that a list should have (IA32_VMX_MISC bits 27:25).</summary>
    public int MsrListLimit => 512 * ((int)(Raw(VmxMsr.Misc) >> 25 & 7) + 1);

    /// <summary>Whether VMWRITE may write VM-exit information fields (IA32_VMX_MISC bit 29).</summary>
    public bool VmwriteToAll => (Raw(VmxMsr.Misc) >> 29 & 1) != 0;

    /// <summary>Whether software events may be injected with instruction length 0 (IA32_VMX_MISC bit 30).</summary>
    public bool ZeroInstructionLength => (Raw(VmxMsr.Misc) >> 30 & 1) != 0;

    /// <summary>What EPT and VPID offer.</summary>
    public EptVpidCapabilities EptVpid => (EptVpidCapabilities)Raw(VmxMsr.EptVpid);

    /// <summary>The width of linear addresses: 57 where CR4.LA57 can be set, 48 otherwise.</summary>
    public int LinearAddressBits => Canonical.Width(Raw(VmxMsr.Cr4Fixed1));

    /// <summary>Whether the VMX operation's fixed bits of CR0 are as required; <paramref name="exempt"/> bits are not looked at.</summary>
    public bool AllowsCr0(ulong value, ulong exempt = 0) => Fixed(value, VmxMsr.Cr0Fixed0, exempt);

    /// <summary>The same for CR4.</summary>
    public bool AllowsCr4(ulong value) => Fixed(value, VmxMsr.Cr4Fixed0, 0);

    /// <summary>Whether an activity state other than active is supported (IA32_VMX_MISC bits 8:6).</summary>
    public bool Allows(ActivityState state) =>
        state == ActivityState.Active || (state <= ActivityState.WaitForSipi && (Raw(VmxMsr.Misc) >> 5 + (int)state & 1) != 0);

    /// <summary>Whether the control may be 1.</summary>
    public bool Allows(PinControls control) => (Allowed1(VmxControlWord.Pin) & (ulong)control) == (ulong)control;

    /// <inheritdoc cref="Allows(PinControls)"/>
    public bool Allows(ProcControls control) => (Allowed1(VmxControlWord.Proc) & (ulong)control) == (ulong)control;

    /// <inheritdoc cref="Allows(PinControls)"/>
    public bool Allows(SecondaryControls control) => (Allowed1(VmxControlWord.Secondary) & (ulong)control) == (ulong)control;

    /// <inheritdoc cref="Allows(PinControls)"/>
    public bool Allows(VmExitControls control) => (Allowed1(VmxControlWord.Exit) & (ulong)control) == (ulong)control;

    /// <inheritdoc cref="Allows(PinControls)"/>
    public bool Allows(VmEntryControls control) => (Allowed1(VmxControlWord.Entry) & (ulong)control) == (ulong)control;

    /// <summary>Whether EPT or VPID offers something.</summary>
    public bool Allows(EptVpidCapabilities capability) => (EptVpid & capability) == capability
        && (Allows(SecondaryControls.EnableEpt) || Allows(SecondaryControls.EnableVpid));

    /// <summary>The same set under another VMCS revision identifier (31 bits).</summary>
    public VmxCapabilities WithRevision(uint revision) =>
        new(_values.SetItem(0, (_values[0] & ~0x7FFF_FFFFUL) | (revision & 0x7FFF_FFFF)));

    /// <summary>The bits of a word that must be 1 (the allowed 0-settings' complement), from the TRUE MSR where there is one.</summary>
    public ulong Required(VmxControlWord word) => word switch
    {
        VmxControlWord.Pin => (uint)Control(VmxMsr.PinBased),
        VmxControlWord.Proc => (uint)Control(VmxMsr.ProcBased),
        VmxControlWord.Exit => (uint)Control(VmxMsr.Exit),
        VmxControlWord.Entry => (uint)Control(VmxMsr.Entry),
        VmxControlWord.Secondary => (uint)Raw(VmxMsr.ProcBased2),
        _ => 0,
    };

    /// <summary>The bits of a word that may be 1: none of a word whose activation is not allowed.</summary>
    public ulong Allowed1(VmxControlWord word) => word switch
    {
        VmxControlWord.Pin => Control(VmxMsr.PinBased) >> 32,
        VmxControlWord.Proc => Control(VmxMsr.ProcBased) >> 32,
        VmxControlWord.Exit => Control(VmxMsr.Exit) >> 32,
        VmxControlWord.Entry => Control(VmxMsr.Entry) >> 32,
        VmxControlWord.Secondary => Allows(ProcControls.ActivateSecondary) ? Raw(VmxMsr.ProcBased2) >> 32 : 0,
        VmxControlWord.Tertiary => Allows(ProcControls.ActivateTertiary) ? Raw(VmxMsr.ProcBased3) : 0,
        VmxControlWord.SecondaryExit => Allows(VmExitControls.ActivateSecondary) ? Raw(VmxMsr.Exit2) : 0,
        VmxControlWord.VmFunction => Allows(SecondaryControls.EnableVmFunctions) ? Raw(VmxMsr.VmFunctions) : 0,
        _ => 0,
    };

    /// <summary>Whether a control word's value has every bit that is required and none that is not allowed.</summary>
    public bool Accepts(VmxControlWord word, ulong value) => (value & ~Allowed1(word)) == 0 && (~value & Required(word)) == 0;

    /// <summary>The fields that exist, each where its encoding says.</summary>
    internal VmcsFieldEntry?[] FieldsBySlot => field ??= VmcsCatalogue.SelectBySlot(this);

    /// <summary>Whether a VMCS field exists.</summary>
    public bool Supports(VmcsFieldEntry field)
    {
        VmcsFieldRequirement r = field.Requirement;
        return Has(r.Word, r.Bits) || (r.OrWord != VmxControlWord.None && Has(r.OrWord, r.OrBits));
    }

    /// <summary>
    /// A set that offers less: the given MSRs replace this set's, the others stay. Of a pair of a control MSR and its TRUE MSR one
    /// may be given and the other follows; IA32_VMX_VMCS_ENUM follows from the rest. Any value that would offer more than this set,
    /// or force fewer bits to 1, is refused, so a saved set restores exactly where it is supported.
    /// </summary>
    /// <param name="values">MSR numbers and values.</param>
    /// <param name="refusal">Why not, for a caller's error message; null on success.</param>
    /// <returns>The restricted set, or null.</returns>
    public VmxCapabilities? Restrict(IReadOnlyDictionary<uint, ulong> values, out string? refusal)
    {
        ulong[] v = [.. _values];
        foreach ((uint msr, ulong value) in values)
        {
            refusal = msr is < VmxMsr.First or > VmxMsr.Last ? "is not a VMX capability MSR" : VmxRestriction.Refusal(msr, value, Raw(msr));
            if (refusal is not null)
            {
                refusal = string.Create(CultureInfo.InvariantCulture, $"MSR {msr:x} cannot be {value:x}: it {refusal}");
                return null;
            }
            v[msr - VmxMsr.First] = value;
        }
        for (uint pair = 0; pair < 4; pair++)
        {
            uint plain = VmxMsr.PinBased + pair, exact = VmxMsr.TruePinBased + pair;
            if (values.ContainsKey(plain) && !values.ContainsKey(exact))
                v[exact - VmxMsr.First] = v[plain - VmxMsr.First] & ~0xFFFF_FFFFUL | (uint)(v[exact - VmxMsr.First] | v[plain - VmxMsr.First] & ~Default1(pair));
            else if (values.ContainsKey(exact) && !values.ContainsKey(plain))
                v[plain - VmxMsr.First] = v[exact - VmxMsr.First] | Default1(pair);
            if (v[plain - VmxMsr.First] != (v[exact - VmxMsr.First] | Default1(pair)))
            {
                refusal = string.Create(CultureInfo.InvariantCulture, $"MSR {plain:x} and its TRUE counterpart {exact:x} disagree");
                return null;
            }
        }
        VmxCapabilities restricted = WithEnumeration(v);
        if (values.TryGetValue(VmxMsr.VmcsEnum, out ulong enumeration) && enumeration != restricted.Raw(VmxMsr.VmcsEnum))
        {
            refusal = string.Create(CultureInfo.InvariantCulture, $"MSR 48a cannot be {enumeration:x}: the other MSRs make it {restricted.Raw(VmxMsr.VmcsEnum):x}");
            return null;
        }
        refusal = null;
        return restricted;
    }

    private bool Has(VmxControlWord word, ulong bits) => word switch
    {
        VmxControlWord.None => true,
        VmxControlWord.Cr3Targets => (ulong)Cr3Targets >= bits,
        _ => (Allowed1(word) & bits) == bits,
    };

    private bool Fixed(ulong value, uint msr, ulong exempt) =>
        (~value & Raw(msr) & ~exempt) == 0 && (value & ~Raw(msr + 1) & ~exempt) == 0;

    private ulong Control(uint plain) => Raw(HasTrueControls ? plain - VmxMsr.PinBased + VmxMsr.TruePinBased : plain);

    private ulong Raw(uint msr) => _values[(int)(msr - VmxMsr.First)];

    private static uint Default1(uint pair) => pair switch { 0 => PinDefault1, 1 => ProcDefault1, 2 => ExitDefault1, _ => EntryDefault1 };

    private static void Set(ulong[] v, uint plain, uint exact, uint default1, uint required, uint allowed)
    {
        ulong high = (ulong)(allowed | default1) << 32;
        v[plain - VmxMsr.First] = high | default1;
        v[exact - VmxMsr.First] = high | required;
    }

    private static VmxCapabilities WithEnumeration(ulong[] v)
    {
        var set = new VmxCapabilities([.. v]);
        v[VmxMsr.VmcsEnum - VmxMsr.First] = (ulong)VmcsCatalogue.HighestIndex(set) << 1;
        return new VmxCapabilities([.. v]);
    }

    /// <summary>The rules of <see cref="Restrict"/>, an MSR at a time.</summary>
    private static class VmxRestriction
    {
        /// <summary>What is wrong with a value, as the rest of a sentence that begins with "it"; null where nothing is.</summary>
        public static string? Refusal(uint msr, ulong value, ulong supported)
        {
            switch (msr)
            {
                case VmxMsr.Basic:
                    const ulong features = 1UL << 54 | TrueControls | 1UL << 56;
                    if ((value & ~features) != (supported & ~features))
                        return "must keep revision, region size, memory type and address width";
                    return Fewer(value, supported);
                case VmxMsr.Misc:
                    if ((value & ~(MiscFeatures | MiscNumbers)) != (supported & ~(MiscFeatures | MiscNumbers)))
                        return "must keep its reserved bits and the MSEG revision";
                    if ((value & 0x1F) != (supported & 0x1F))
                        return "must keep the rate of the preemption timer";
                    if ((value >> 16 & 0x1FF) > (supported >> 16 & 0x1FF) || (value >> 25 & 7) > (supported >> 25 & 7))
                        return "has more CR3 targets or MSRs than are supported";
                    return Fewer(value & MiscFeatures, supported & MiscFeatures);
                case VmxMsr.Cr0Fixed0 or VmxMsr.Cr4Fixed0:
                    return value == supported ? null : "must be the supported value";
                case VmxMsr.Cr0Fixed1:
                    return value == supported ? null : "must be the supported value";
                case VmxMsr.Cr4Fixed1:
                    return (value & Cr4.Vmxe) == 0 ? "must allow CR4.VMXE" : Fewer(value, supported);
                case VmxMsr.VmcsEnum:
                    return (value & ~0x3FEUL) != 0 || value > supported ? "has more fields than are supported" : null;
                case >= VmxMsr.PinBased and <= VmxMsr.Entry or VmxMsr.ProcBased2 or (>= VmxMsr.TruePinBased and <= VmxMsr.TrueEntry):
                    if ((~value & (uint)supported) != 0)
                        return "allows 0 where the processor requires 1";
                    if (((uint)value & ~(value >> 32)) != 0)
                        return "requires 1 where it does not allow it";
                    return Fewer(value >> 32, supported >> 32);
                default:
                    return Fewer(value, supported);
            }
        }

        private static string? Fewer(ulong value, ulong supported) => (value & ~supported) == 0 ? null : "offers what is not supported";
    }
}
