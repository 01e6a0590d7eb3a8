namespace Vmm.Processor.Vmx.Checks;

/// <summary>The groups of VM-entry checks, in the order in which they are made.</summary>
public enum EntryCheckGroup
{
    /// <summary>VMX controls (SDM volume 3, section 27.2.1): a failure is VMfailValid with error 7.</summary>
    Controls,

    /// <summary>Host-state area (sections 27.2.2 to 27.2.4): a failure is VMfailValid with error 8.</summary>
    HostState,

    /// <summary>Guest-state area (section 27.3.1): a failure is a VM exit with basic reason 33.</summary>
    GuestState,
}

/// <summary>Whether a VMCS keeps a rule.</summary>
public delegate bool EntryPredicate(in EntrySubject subject);

/// <summary>One VM-entry check.</summary>
/// <param name="Group">The group, which decides how a violation is reported.</param>
/// <param name="Section">The section of SDM volume 3 that demands it.</param>
/// <param name="Description">What it demands, in one line; unique within the section.</param>
/// <param name="Holds">The check; without allocation.</param>
/// <param name="Qualification">The exit qualification of an entry failure: 0, 2 (PDPTEs), 3 (NMI under blocking by STI), 4 (link pointer).</param>
public sealed record EntryRule(EntryCheckGroup Group, string Section, string Description, EntryPredicate Holds, uint Qualification = 0)
{
    /// <summary>
    /// Whether the rule looks at more than controls and host state: the event to inject, guest state, memory. Such a rule has to be
    /// looked at for every entry, the others only after a change of controls or host state.
    /// </summary>
    public bool PerEntry { get; init; } = Group == EntryCheckGroup.GuestState;

    /// <summary>The VM-instruction error of a violation, 7 or 8; 0 for guest state, where the entry fails with an exit instead.</summary>
    public uint InstructionError => Group switch { EntryCheckGroup.Controls => 7, EntryCheckGroup.HostState => 8, _ => 0 };

    /// <summary>The exit reason of a violation in guest state, with bit 31 for a failed entry (SDM volume 3, section 27.8); 0 otherwise.</summary>
    public uint FailureExitReason => Group == EntryCheckGroup.GuestState ? 1u << 31 | (uint)ExitReason.InvalidGuestState : 0;

    /// <inheritdoc/>
    public override string ToString() => $"{Section}: {Description}";
}

/// <summary>Physical memory as the checks see it: that of whoever executes the VM entry.</summary>
public interface IEntryMemory
{
    /// <summary>Four bytes; all ones where there is no memory. Never throws.</summary>
    uint Read32(ulong address);

    /// <summary>Eight bytes; all ones where there is no memory. Never throws.</summary>
    ulong Read64(ulong address);
}

/// <summary>What the checks need to know of a processor beyond its VMX capabilities.</summary>
/// <param name="PhysicalAddressBits">MAXPHYADDR.</param>
/// <param name="EferAllowed">The bits of IA32_EFER that exist.</param>
public sealed record EntryLimits(int PhysicalAddressBits, ulong EferAllowed)
{
    /// <summary>
    /// The width of the addresses of VMX structures: MAXPHYADDR, but for hardware whose hypervisor keeps some of them where the
    /// guests' MAXPHYADDR does not reach.
    /// </summary>
    public int StructureAddressBits { get; init; } = PhysicalAddressBits;

    /// <summary>The bits of IA32_DEBUGCTL that exist; by default LBR, BTF, TR, BTS, BTINT, BTS_OFF_OS and BTS_OFF_USR, the freezes.</summary>
    public ulong DebugCtlAllowed { get; init; } = 0x1FC3;

    /// <summary>The bits of IA32_PERF_GLOBAL_CTRL that exist.</summary>
    public ulong PerfGlobalCtrlAllowed { get; init; }
}
