namespace Vmm.Frontend;

/// <summary>What a front end lets through.</summary>
public sealed record FrontendOptions
{
    /// <summary>The most memory that one VM may ask for, in MiB; the engine's own limit is 65,536.</summary>
    public long MaxVmMemoryMib { get; init; } = 65_536;

    /// <summary>The most vCPUs that one VM may ask for; the engine's own limit is 16.</summary>
    public int MaxVmCpus { get; init; } = 16;
}
