namespace Vmm.Frontend;

/// <summary>What a front end lets through.</summary>
public sealed record FrontendOptions
{
    /// <summary>The most memory that one VM may ask for, in MiB; the engine's own limit is 65,536.</summary>
    public long MaxVmMemoryMib { get; init; } = 65_536;

    /// <summary>The most vCPUs that one VM may ask for; the engine's own limit is 16.</summary>
    public int MaxVmCpus { get; init; } = 16;

    /// <summary>Calls with one answer that may be under way at a time.</summary>
    public int MaxConcurrentCalls { get; init; } = 2_000;

    /// <summary>Streams that may be under way at a time.</summary>
    public int MaxConcurrentStreams { get; init; } = 20_000;

    /// <summary>As the registry has it: for how long this front end's streams count unless it renews its lease of them.</summary>
    public TimeSpan LeaseDuration { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Cancelled when nothing happens any more because the server closes: watches end then.</summary>
    public CancellationToken Closing { get; init; }
}
