namespace Vmm.Processor.Vmx.Checks;

/// <summary>
/// The registers of a VMCS's guest-state area as they last passed their checks. They are most of what VM entry looks at, and few exits
/// change them. RIP, RFLAGS and what is not a register are looked at each time.
/// </summary>
internal sealed unsafe class PassedGuestState
{
    // Each is one run of fields: selectors; limits, those of GDTR and IDTR and access rights; bases with those of GDTR and IDTR.
    private const int Selectors = 8, LimitsAndRights = 18, Bases = 10;
    // From CR0 to CR4; IA32_SYSENTER_ESP and EIP; from IA32_DEBUGCTL to IA32_EFER and IA32_PERF_GLOBAL_CTRL. DR7 and IA32_BNDCFGS are alone.
    private const int Control = 3, Sysenter = 2, Msrs = 4;
    private readonly ulong[] _segments = new ulong[Selectors + LimitsAndRights + Bases];
    private readonly ulong[] _registers = new ulong[Control + Sysenter + Msrs + 2];
    private uint _mode = uint.MaxValue;
    private ulong _controls = ulong.MaxValue;

    /// <summary>
    /// Whether segment and descriptor-table registers are as they last passed, in a guest of the same mode (a number that stands for all
    /// else that the rules look at).
    /// </summary>
    public bool Segments(Vmcs vmcs, uint mode) => mode == _mode
        && Same(_segments, 0, vmcs, VmcsField.GuestEsSelector, Selectors)
        && Same(_segments, Selectors, vmcs, VmcsField.GuestEsLimit, LimitsAndRights)
        && Same(_segments, Selectors + LimitsAndRights, vmcs, VmcsField.GuestEsBase, Bases);

    /// <summary>They have passed.</summary>
    public void NoteSegments(Vmcs vmcs, uint mode)
    {
        Copy(_segments, 0, vmcs, VmcsField.GuestEsSelector, Selectors);
        Copy(_segments, Selectors, vmcs, VmcsField.GuestEsLimit, LimitsAndRights);
        Copy(_segments, Selectors + LimitsAndRights, vmcs, VmcsField.GuestEsBase, Bases);
        _mode = mode;
    }

    /// <summary>
    /// Whether control and debug registers and MSRs are as they last passed, under the same controls (a number that stands for those that
    /// the rules look at).
    /// </summary>
    public bool Registers(Vmcs vmcs, ulong controls) => controls == _controls
        && Same(_registers, 0, vmcs, VmcsField.GuestCr0, Control)
        && Same(_registers, Control, vmcs, VmcsField.GuestSysenterEsp, Sysenter)
        && Same(_registers, Control + Sysenter, vmcs, VmcsField.GuestDebugCtl, Msrs)
        && _registers[^2] == vmcs[VmcsField.GuestDr7] && _registers[^1] == vmcs[VmcsField.GuestBndcfgs];

    /// <summary>They have passed.</summary>
    public void NoteRegisters(Vmcs vmcs, ulong controls)
    {
        Copy(_registers, 0, vmcs, VmcsField.GuestCr0, Control);
        Copy(_registers, Control, vmcs, VmcsField.GuestSysenterEsp, Sysenter);
        Copy(_registers, Control + Sysenter, vmcs, VmcsField.GuestDebugCtl, Msrs);
        _registers[^2] = vmcs[VmcsField.GuestDr7];
        _registers[^1] = vmcs[VmcsField.GuestBndcfgs];
        _controls = controls;
    }

    private static bool Same(ulong[] passed, int at, Vmcs vmcs, VmcsField first, int count) =>
        new ReadOnlySpan<ulong>(passed, at, count).SequenceEqual(new(vmcs.Location(first), count));

    private static void Copy(ulong[] passed, int at, Vmcs vmcs, VmcsField first, int count) =>
        new ReadOnlySpan<ulong>(vmcs.Location(first), count).CopyTo(passed.AsSpan(at));
}
