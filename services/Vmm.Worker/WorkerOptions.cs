namespace Vmm.Worker;

/// <summary>What a worker is configured with.</summary>
public sealed record WorkerOptions
{
    /// <summary>Where VMs' specs, images and disks are kept. One worker at a time.</summary>
    public required string StateDirectory { get; init; }

    /// <summary>A directory that workers share, where the content of their snapshots is kept too; null for none.</summary>
    public string? SharedSnapshotDirectory { get; init; }

    /// <summary><c>workers/{worker}</c>; null for a name that is made from the state directory.</summary>
    public string? Name { get; init; }

    /// <summary>
    /// Folders whose files specs may name by path, absolute. Null allows every path: only for a server that its user runs
    /// with his own rights. Empty allows none.
    /// </summary>
    public IReadOnlyList<string>? AllowedPaths { get; init; } = [];

    /// <summary>Memory that all running VMs may hold together, in MiB.</summary>
    public long MaxRunningMemoryMib { get; init; } = long.MaxValue >> 20;

    /// <summary>VMs that may exist.</summary>
    public int MaxVms { get; init; } = 10_000;

    /// <summary>Snapshots that may exist.</summary>
    public int MaxSnapshots { get; init; } = 10_000;

    /// <summary>The size of one image, in bytes.</summary>
    public long MaxImageBytes { get; init; } = 64L << 30;

    /// <summary>Console output that is kept per VM, in bytes.</summary>
    public int ScrollbackBytes { get; init; } = 1 << 20;

    /// <summary>Changes per project that a watch can resume over.</summary>
    public int WatchHistory { get; init; } = 8192;

    /// <summary>Events of APICv per VM that a watch can resume over.</summary>
    public int ApicvHistory { get; init; } = 4096;

    /// <summary>Records of a trace of VM exits that wait for a reader who is slow; those beyond are lost.</summary>
    public int ExitTraceRecords { get; init; } = 16_384;

    /// <summary>VMs that may have metrics of their own, of those that ask for them.</summary>
    public int MaxVmSeries { get; init; } = 100;

    /// <summary>Completed requests that are remembered.</summary>
    public int MaxRememberedRequests { get; init; } = 20_000;

    /// <summary>How long completed requests are remembered.</summary>
    public TimeSpan RememberRequests { get; init; } = TimeSpan.FromDays(1);
}
