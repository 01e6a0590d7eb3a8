namespace Vmm.Hypervisor.SavedState;

/// <summary>An armed timer. One that is not armed has no state: null.</summary>
public sealed record TimerState
{
    /// <summary>The nanosecond of the machine's clock at which it is due.</summary>
    public required ulong Deadline { get; init; }

    /// <summary>Of timers with the same deadline the one with the lower number is first. The clock gives a higher one to each that is armed later.</summary>
    public required ulong Order { get; init; }
}
