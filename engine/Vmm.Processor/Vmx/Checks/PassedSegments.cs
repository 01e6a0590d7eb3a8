namespace Vmm.Processor.Vmx.Checks;

/// <summary>
/// The segment and descriptor-table registers of a VMCS as they last passed their checks: they are half of all that VM entry looks at,
/// and few exits change them.
/// </summary>
internal sealed unsafe class PassedSegments
{
    // Selectors; limits, those of GDTR and IDTR and access rights; bases with those of GDTR and IDTR. Each is one run of fields.
    private const int Selectors = 8, LimitsAndRights = 18, Bases = 10;
    private readonly ulong[] _passed = new ulong[Selectors + LimitsAndRights + Bases];
    private uint _mode = uint.MaxValue;

    /// <summary>Whether they are as they last passed, in a guest of the same mode (a number that stands for all else that the rules look at).</summary>
    public bool Passed(Vmcs vmcs, uint mode) => mode == _mode
        && new ReadOnlySpan<ulong>(_passed, 0, Selectors).SequenceEqual(new(vmcs.Location(VmcsField.GuestEsSelector), Selectors))
        && new ReadOnlySpan<ulong>(_passed, Selectors, LimitsAndRights).SequenceEqual(new(vmcs.Location(VmcsField.GuestEsLimit), LimitsAndRights))
        && new ReadOnlySpan<ulong>(_passed, Selectors + LimitsAndRights, Bases).SequenceEqual(new(vmcs.Location(VmcsField.GuestEsBase), Bases));

    /// <summary>They have passed.</summary>
    public void Note(Vmcs vmcs, uint mode)
    {
        new ReadOnlySpan<ulong>(vmcs.Location(VmcsField.GuestEsSelector), Selectors).CopyTo(_passed);
        new ReadOnlySpan<ulong>(vmcs.Location(VmcsField.GuestEsLimit), LimitsAndRights).CopyTo(_passed.AsSpan(Selectors));
        new ReadOnlySpan<ulong>(vmcs.Location(VmcsField.GuestEsBase), Bases).CopyTo(_passed.AsSpan(Selectors + LimitsAndRights));
        _mode = mode;
    }
}
