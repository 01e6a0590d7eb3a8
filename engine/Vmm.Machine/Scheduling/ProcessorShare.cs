namespace Vmm.Machine.Scheduling;

/// <summary>
/// What a machine is to have of the processors of the host on which machines execute. It is of the machine, however many vCPUs it has, and
/// L2 counts as the machine that it runs in. A machine executes on one thread at a time, so that it has at most one processor.
/// </summary>
public sealed record ProcessorShare
{
    /// <summary>The least <see cref="Weight"/>.</summary>
    public const int LeastWeight = 1;

    /// <summary>The greatest <see cref="Weight"/>.</summary>
    public const int MostWeight = 10_000;

    /// <summary>The <see cref="Weight"/> of machines for which nobody says another.</summary>
    public const int DefaultWeight = 100;

    /// <summary>The least <see cref="LimitMillicpus"/> that is one.</summary>
    public const int LeastLimit = 10;

    /// <summary>The greatest <see cref="LimitMillicpus"/>.</summary>
    public const int MostLimit = 16_000;

    /// <summary>Machines that want more than there is get processor time in proportion to their weights, as with cgroup v2's cpu.weight.</summary>
    public int Weight { get; init; } = DefaultWeight;

    /// <summary>The most that the machine gets, in thousandths of a processor, also while others want nothing; 0 for no limit.</summary>
    public int LimitMillicpus { get; init; }

    /// <summary>What is wrong with it, in a sentence without its end; null where nothing is.</summary>
    public string? Refusal =>
        Weight is < LeastWeight or > MostWeight ? $"A weight is from {LeastWeight} to {MostWeight}, not {Weight}"
        : LimitMillicpus is not 0 and (< LeastLimit or > MostLimit) ? $"A limit is from {LeastLimit} to {MostLimit} thousandths of a processor, or 0 for none, not {LimitMillicpus}"
        : null;
}
