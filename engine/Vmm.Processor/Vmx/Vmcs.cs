using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Processor.Vmx;

/// <summary>Which checks of VM entry the processor makes on a VMCS: hardware makes all of them, every time.</summary>
public enum EntryCheckPolicy
{
    /// <summary>None: the VMCS is taken at its word.</summary>
    None,

    /// <summary>
    /// Controls and host state, after one of them was written; neither guest state nor the event to inject. For a VMCS that a
    /// hypervisor of ours fills by itself.
    /// </summary>
    Configuration,

    /// <summary>All of them, on every entry.</summary>
    Full,
}

/// <summary>
/// A virtual-machine control structure: a value for every field of <see cref="VmcsField"/>, reached by the field's own
/// encoding (SDM volume 3, section 25.11.2: width in bits 14:13, type in 11:10, index in 9:1).
/// </summary>
public sealed unsafe class Vmcs : IDisposable
{
    private const int Slots = 1024;
    private const int EventBits = 1 << ((int)VmcsField.VmEntryInterruptionInformation >> 1 & 31)
        | 1 << ((int)VmcsField.VmEntryExceptionErrorCode >> 1 & 31) | 1 << ((int)VmcsField.VmEntryInstructionLength >> 1 & 31);
    private ulong* _fields = (ulong*)NativeMemory.AllocZeroed(Slots, sizeof(ulong));

    /// <summary>A field's value, zero-extended to 64 bits.</summary>
    public ulong this[VmcsField field]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => _fields[Slot(field)];
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        set
        {
            if (IsConfiguration(field) && ((_fields[Slot(field)] ^ value) & Judged(field)) != 0)
                ConfigurationVersion++;
            if (IsHeld(field) && _fields[Slot(field)] != value)
                Holder = null;
            _fields[Slot(field)] = value;
        }
    }

    /// <summary>Which checks <see cref="LogicalProcessor.Enter"/> makes.</summary>
    public EntryCheckPolicy EntryChecks { get; set; }

    /// <summary>
    /// Whether guest-physical addresses are host-physical ones as if EPT mapped everything onto itself, though the control is 0: what
    /// "unrestricted guest" needs is then there without the walks.
    /// </summary>
    public bool IdentityMapped { get; init; }

    /// <summary>
    /// With VMCS shadowing: what the VMCS link pointer names, for VMREAD and VMWRITE of the guest. Null where the pointer is not valid.
    /// Who enters this VMCS sets it, and writes it back to where it belongs.
    /// </summary>
    public Vmcs? Shadow { get; set; }

    /// <summary>The rule that the last entry has violated; null where there was none or the entry failed elsewhere.</summary>
    public EntryRule? FailedRule { get; internal set; }

    /// <summary>The VMX-abort indicator (SDM volume 3, section 28.7); 0 where there was no abort.</summary>
    public uint AbortIndicator { get; internal set; }

    /// <summary>
    /// The processor whose registers had the values of the guest-state area at its last exit from this VMCS: null where a field of that
    /// area was written since, but for those that every entry loads (<see cref="GuestState.Resume"/>).
    /// </summary>
    internal LogicalProcessor? Holder { get; set; }

    /// <summary>The registers of the guest-state area as they last passed the checks.</summary>
    internal PassedGuestState Passed { get; } = new();

    /// <summary>Counts the changes of controls and host state, but for the event to inject and interrupt-window exiting.</summary>
    public uint ConfigurationVersion { get; private set; } = 1;

    /// <summary>The version of controls and host state that has passed the hardware's checks; 0 for none.</summary>
    internal uint PassedVersion { get; set; }

    /// <summary>Whether a control or host field was written since the last check.</summary>
    internal bool ConfigurationChanged => ConfigurationVersion != PassedVersion;

    /// <summary>A 32-bit field's value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public uint Read32(VmcsField field) => (uint)_fields[Slot(field)];

    /// <summary>
    /// Where a field lives. Fields of one width and type with neighbouring indices are neighbours, so the eight fields of the
    /// segment registers from ES to TR are an array.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal ulong* Location(VmcsField field) => _fields + Slot(field);

    /// <summary>Sets the four fields of a segment register of the guest.</summary>
    /// <param name="segment">Its number, as in <see cref="Seg"/>.</param>
    /// <param name="selector">The selector.</param>
    /// <param name="baseAddress">The base.</param>
    /// <param name="limit">The limit in bytes.</param>
    /// <param name="rights">The access rights (SDM volume 3, table 25-2).</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such segment register.</exception>
    public void SetGuestSegment(int segment, ushort selector, ulong baseAddress, uint limit, uint rights)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)segment, (uint)Seg.Tr, nameof(segment));
        ulong* selectors = Location(VmcsField.GuestEsSelector) + segment;
        ulong* bases = Location(VmcsField.GuestEsBase) + segment;
        ulong* limits = Location(VmcsField.GuestEsLimit) + segment;
        ulong* allRights = Location(VmcsField.GuestEsAccessRights) + segment;
        if (((*selectors ^ selector) | (*bases ^ baseAddress) | (*limits ^ limit) | (*allRights ^ rights)) == 0)
            return;
        *selectors = selector;
        *bases = baseAddress;
        *limits = limit;
        *allRights = rights;
        Holder = null;
    }

    /// <summary>Stores what the processor saves at an exit: no change that it would have to be told of.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Save(VmcsField field, ulong value) => _fields[Slot(field)] = value;

    /// <summary>Takes every field from another VMCS.</summary>
    public void CopyFrom(Vmcs other)
    {
        foreach (VmcsFieldType type in Enum.GetValues<VmcsFieldType>())
            CopyFrom(other, type);
    }

    /// <summary>Takes every field of one type from another VMCS.</summary>
    public void CopyFrom(Vmcs other, VmcsFieldType type)
    {
        for (int width = 0; width < 4; width++)
        {
            int first = width << 8 | (int)type << 6, end = first + VmcsCatalogue.GroupSize((VmcsFieldWidth)width, type);
            // Whole vectors: every group has room for 64 fields, of which those behind its last one are nobody's.
            for (int k = first; k < end; k += Vector256<ulong>.Count)
                Vector256.Load(other._fields + k).Store(_fields + k);
        }
        if (type is VmcsFieldType.Control or VmcsFieldType.Host)
            ConfigurationVersion++;
        if (type == VmcsFieldType.Guest)
            Holder = null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_fields);
        _fields = null;
    }

    // The event to inject is among the controls but belongs to the one entry. The group of the 32-bit controls has no more than 32 fields.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool IsConfiguration(VmcsField field) => ((int)field >> 10 & 3) switch
    {
        (int)VmcsFieldType.Host => true,
        (int)VmcsFieldType.Control => ((int)field >> 13 & 3) != (int)VmcsFieldWidth.Bits32 || (EventBits >> ((int)field >> 1 & 31) & 1) == 0,
        _ => false,
    };

    // The fields of the guest-state area that an entry need not load again. GuestState.Resume loads the others.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool IsHeld(VmcsField field) => ((int)field >> 10 & 3) == (int)VmcsFieldType.Guest
        && field is not (VmcsField.GuestRip or VmcsField.GuestRsp or VmcsField.GuestRflags or VmcsField.GuestInterruptibility
            or VmcsField.GuestActivityState or VmcsField.GuestPendingDebugExceptions or VmcsField.GuestInterruptStatus or VmcsField.PmlIndex
            or VmcsField.PreemptionTimerValue or VmcsField.GuestPdpte0 or VmcsField.GuestPdpte1 or VmcsField.GuestPdpte2 or VmcsField.GuestPdpte3);

    // No rule looks at interrupt-window exiting, which a hypervisor turns on and off for an interrupt that must wait.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Judged(VmcsField field) =>
        field == VmcsField.ProcessorBasedControls ? ~(ulong)ProcControls.InterruptWindowExiting : ulong.MaxValue;

    // Width and type are two bits each, the index stays below 64 in every group of the manual's list.
    private static int Slot(VmcsField field) => (((int)field >> 13 & 3) << 8) | (((int)field >> 10 & 3) << 6) | ((int)field >> 1 & 63);
}
