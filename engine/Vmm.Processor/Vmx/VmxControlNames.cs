using System.Collections.Frozen;

namespace Vmm.Processor.Vmx;

/// <summary>
/// The manual's names of the bits of those VMCS fields that are sets of bits (SDM volume 3, tables 25-5 to 25-8, 25-13 to 25-15 and
/// 25-3). A table: bits that are not in it are reserved.
/// </summary>
public static class VmxControlNames
{
    private static readonly FrozenDictionary<VmcsField, string?[]> Names = new Dictionary<VmcsField, (int Bit, string Name)[]>
    {
        [VmcsField.PinBasedControls] =
        [
            (0, "External-interrupt exiting"), (3, "NMI exiting"), (5, "Virtual NMIs"), (6, "Activate VMX-preemption timer"),
            (7, "Process posted interrupts"),
        ],
        [VmcsField.ProcessorBasedControls] =
        [
            (2, "Interrupt-window exiting"), (3, "Use TSC offsetting"), (7, "HLT exiting"), (9, "INVLPG exiting"), (10, "MWAIT exiting"),
            (11, "RDPMC exiting"), (12, "RDTSC exiting"), (15, "CR3-load exiting"), (16, "CR3-store exiting"),
            (17, "Activate tertiary controls"), (19, "CR8-load exiting"), (20, "CR8-store exiting"), (21, "Use TPR shadow"),
            (22, "NMI-window exiting"), (23, "MOV-DR exiting"), (24, "Unconditional I/O exiting"), (25, "Use I/O bitmaps"),
            (27, "Monitor trap flag"), (28, "Use MSR bitmaps"), (29, "MONITOR exiting"), (30, "PAUSE exiting"),
            (31, "Activate secondary controls"),
        ],
        [VmcsField.SecondaryControls] =
        [
            (0, "Virtualize APIC accesses"), (1, "Enable EPT"), (2, "Descriptor-table exiting"), (3, "Enable RDTSCP"),
            (4, "Virtualize x2APIC mode"), (5, "Enable VPID"), (6, "WBINVD exiting"), (7, "Unrestricted guest"),
            (8, "APIC-register virtualization"), (9, "Virtual-interrupt delivery"), (10, "PAUSE-loop exiting"), (11, "RDRAND exiting"),
            (12, "Enable INVPCID"), (13, "Enable VM functions"), (14, "VMCS shadowing"), (15, "Enable ENCLS exiting"),
            (16, "RDSEED exiting"), (17, "Enable PML"), (18, "EPT-violation #VE"), (19, "Conceal VMX from PT"),
            (20, "Enable XSAVES/XRSTORS"), (21, "PASID translation"), (22, "Mode-based execute control for EPT"),
            (23, "Sub-page write permissions for EPT"), (24, "Intel PT uses guest physical addresses"), (25, "Use TSC scaling"),
            (26, "Enable user wait and pause"), (27, "Enable PCONFIG"), (28, "Enable ENCLV exiting"), (30, "VMM bus-lock detection"),
            (31, "Instruction timeout"),
        ],
        [VmcsField.TertiaryControls] =
        [
            (0, "LOADIWKEY exiting"), (1, "Enable HLAT"), (2, "EPT paging-write control"), (3, "Guest-paging verification"),
            (4, "IPI virtualization"), (6, "Enable MSR-list instructions"), (7, "Virtualize IA32_SPEC_CTRL"),
        ],
        [VmcsField.VmExitControls] =
        [
            (2, "Save debug controls"), (9, "Host address-space size"), (12, "Load IA32_PERF_GLOBAL_CTRL"),
            (15, "Acknowledge interrupt on exit"), (18, "Save IA32_PAT"), (19, "Load IA32_PAT"), (20, "Save IA32_EFER"),
            (21, "Load IA32_EFER"), (22, "Save VMX-preemption timer value"), (23, "Clear IA32_BNDCFGS"), (24, "Conceal VMX from PT"),
            (25, "Clear IA32_RTIT_CTL"), (26, "Clear IA32_LBR_CTL"), (27, "Clear UINV"), (28, "Load CET state"), (29, "Load PKRS"),
            (30, "Save IA32_PERF_GLOBAL_CTL"), (31, "Activate secondary controls"),
        ],
        [VmcsField.VmEntryControls] =
        [
            (2, "Load debug controls"), (9, "IA-32e mode guest"), (10, "Entry to SMM"), (11, "Deactivate dual-monitor treatment"),
            (13, "Load IA32_PERF_GLOBAL_CTRL"), (14, "Load IA32_PAT"), (15, "Load IA32_EFER"), (16, "Load IA32_BNDCFGS"),
            (17, "Conceal VMX from PT"), (18, "Load IA32_RTIT_CTL"), (19, "Load UINV"), (20, "Load CET state"),
            (21, "Load guest IA32_LBR_CTL"), (22, "Load PKRS"),
        ],
        [VmcsField.VmFunctionControls] = [(0, "EPTP switching")],
        [VmcsField.ExceptionBitmap] =
        [
            (0, "#DE"), (1, "#DB"), (3, "#BP"), (4, "#OF"), (5, "#BR"), (6, "#UD"), (7, "#NM"), (8, "#DF"), (10, "#TS"), (11, "#NP"),
            (12, "#SS"), (13, "#GP"), (14, "#PF"), (16, "#MF"), (17, "#AC"), (18, "#MC"), (19, "#XM"), (20, "#VE"), (21, "#CP"),
        ],
        [VmcsField.GuestInterruptibility] =
        [
            (0, "Blocking by STI"), (1, "Blocking by MOV SS"), (2, "Blocking by SMI"), (3, "Blocking by NMI"), (4, "Enclave interruption"),
        ],
    }.ToFrozenDictionary(field => field.Key, field => Columns(field.Value));

    /// <summary>The names of those bits of a field that are set and not reserved, from the lowest. Empty for a field that is not a set of bits.</summary>
    /// <param name="field">The field.</param>
    /// <param name="value">Its value.</param>
    public static IReadOnlyList<string> Decode(VmcsField field, ulong value)
    {
        if (!Names.TryGetValue(field, out string?[]? names))
            return [];
        var set = new List<string>();
        for (int bit = 0; bit < names.Length; bit++)
            if ((value >> bit & 1) != 0 && names[bit] is { } name)
                set.Add(name);
        return set;
    }

    private static string?[] Columns((int Bit, string Name)[] bits)
    {
        var names = new string?[bits[^1].Bit + 1];
        foreach ((int bit, string name) in bits)
            names[bit] = name;
        return names;
    }
}
