namespace Vmm.Processor.Vmx.Checks;

/// <summary>A VMCS about to be entered, with what it is judged by. The control words that the rules ask for most are taken out once.</summary>
public readonly struct EntrySubject
{
    /// <summary>A subject.</summary>
    /// <param name="vmcs">The VMCS.</param>
    /// <param name="capabilities">What VMX allows: the hardware's capabilities, or those that a guest hypervisor sees.</param>
    /// <param name="limits">What else the processor allows.</param>
    /// <param name="memory">The memory that the addresses in the VMCS mean.</param>
    /// <param name="hostInLongMode">IA32_EFER.LMA of the processor that executes VMLAUNCH or VMRESUME.</param>
    /// <param name="vmcsAddress">The address of the VMCS itself (the current-VMCS pointer); all ones where it has none.</param>
    public EntrySubject(Vmcs vmcs, VmxCapabilities capabilities, EntryLimits limits, IEntryMemory memory, bool hostInLongMode = true,
        ulong vmcsAddress = ulong.MaxValue)
    {
        Vmcs = vmcs;
        Capabilities = capabilities;
        Limits = limits;
        Memory = memory;
        HostInLongMode = hostInLongMode;
        VmcsAddress = vmcsAddress;
        Pin = (PinControls)vmcs.Read32(VmcsField.PinBasedControls);
        Proc = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls);
        // Without "activate secondary controls" the processor works as if they were all 0.
        Secondary = (Proc & ProcControls.ActivateSecondary) != 0 ? (SecondaryControls)vmcs.Read32(VmcsField.SecondaryControls) : 0;
        Exit = (VmExitControls)vmcs.Read32(VmcsField.VmExitControls);
        Entry = (VmEntryControls)vmcs.Read32(VmcsField.VmEntryControls);
        uint information = vmcs.Read32(VmcsField.VmEntryInterruptionInformation);
        Injection = (information & 1u << 31) != 0 ? information : 0;
    }

    public readonly Vmcs Vmcs;
    public readonly VmxCapabilities Capabilities;
    public readonly EntryLimits Limits;
    public readonly IEntryMemory Memory;
    public readonly bool HostInLongMode;
    public readonly ulong VmcsAddress;
    public readonly PinControls Pin;
    public readonly ProcControls Proc;
    public readonly SecondaryControls Secondary;
    public readonly VmExitControls Exit;
    public readonly VmEntryControls Entry;

    /// <summary>The VM-entry interruption information, or 0 where its valid bit is clear.</summary>
    public readonly uint Injection;

    /// <summary>Any of these controls.</summary>
    public bool Has(PinControls control) => (Pin & control) != 0;
    /// <inheritdoc cref="Has(PinControls)"/>
    public bool Has(ProcControls control) => (Proc & control) != 0;
    /// <inheritdoc cref="Has(PinControls)"/>
    public bool Has(SecondaryControls control) => (Secondary & control) != 0;
    /// <inheritdoc cref="Has(PinControls)"/>
    public bool Has(VmExitControls control) => (Exit & control) != 0;
    /// <inheritdoc cref="Has(PinControls)"/>
    public bool Has(VmEntryControls control) => (Entry & control) != 0;

    /// <summary>A field's value.</summary>
    public ulong this[VmcsField field] => Vmcs[field];

    /// <summary>Whether an event of this type is injected.</summary>
    public bool Injects(EventType type) => Injection != 0 && InjectionType == type;

    /// <summary>The injected event's type; meaningful when <see cref="Injection"/> is not 0.</summary>
    public EventType InjectionType => (EventType)(Injection >> 8 & 7);

    /// <summary>Whether the guest will be in IA-32e mode.</summary>
    public bool LongMode => Has(VmEntryControls.Ia32eModeGuest);

    /// <summary>Whether the guest will be in virtual-8086 mode.</summary>
    public bool Virtual8086 => (Vmcs[VmcsField.GuestRflags] & Rflags.Vm) != 0;

    /// <summary>"Unrestricted guest".</summary>
    public bool Unrestricted => Has(SecondaryControls.UnrestrictedGuest);

    /// <summary>Whether the guest will use PAE paging.</summary>
    public bool PaePaging => !LongMode && (Vmcs[VmcsField.GuestCr0] & Cr0.Pg) != 0 && (Vmcs[VmcsField.GuestCr4] & Cr4.Pae) != 0;

    /// <summary>Whether no bit is set beyond MAXPHYADDR.</summary>
    public bool Physical(ulong address) => address >> Limits.PhysicalAddressBits == 0;

    /// <summary>Whether a VMX structure may be here: aligned, within MAXPHYADDR and below 4 GiB if IA32_VMX_BASIC demands it.</summary>
    public bool Structure(VmcsField field, uint alignment)
    {
        ulong address = Vmcs[field];
        return (address & alignment - 1) == 0 && address >> Limits.StructureAddressBits == 0 && (!Capabilities.Addresses32Bit || address >> 32 == 0);
    }

    /// <summary>Whether a list of <paramref name="count"/> MSRs of 16 bytes each may be here; an empty one may be anywhere.</summary>
    public bool MsrList(VmcsField address, VmcsField count)
    {
        uint entries = Vmcs.Read32(count);
        // The last byte cannot overflow 64 bits: the first is within 52 bits, the length within 36.
        return entries == 0 || (Structure(address, 16) && (Vmcs[address] + entries * 16UL - 1) >> Limits.StructureAddressBits == 0);
    }

    /// <summary>Whether an address is canonical for the widest linear addresses that the processor has.</summary>
    public bool Canonical(ulong address) => Execution.Canonical.IsWithin(address, Capabilities.LinearAddressBits);

    /// <inheritdoc cref="Canonical(ulong)"/>
    public bool Canonical(VmcsField field) => Canonical(Vmcs[field]);

    /// <summary>Whether each byte of an IA32_PAT value is a memory type: 0, 1, 4, 5, 6 or 7.</summary>
    public static bool MemoryTypes(ulong pat)
    {
        // Types 2 and 3 have bit 1 and not bit 2.
        ulong two = pat >> 1 & ~(pat >> 2);
        return (pat & 0xF8F8_F8F8_F8F8_F8F8) == 0 && (two & 0x0101_0101_0101_0101) == 0;
    }
}

/// <summary>Fields of one group with consecutive indices, such as those of the segment registers, as an array.</summary>
internal static class FieldArray
{
    /// <summary>The field <paramref name="index"/> places after this one (the index begins at bit 1 of the encoding).</summary>
    public static VmcsField At(this VmcsField first, int index) => (VmcsField)((int)first + 2 * index);
}
