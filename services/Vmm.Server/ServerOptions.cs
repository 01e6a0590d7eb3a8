namespace Vmm.Server;

/// <summary>What <c>vmmd</c> is configured with.</summary>
public sealed record ServerOptions
{
    /// <summary>Where VMs, images and disks are kept.</summary>
    public required string StateDirectory { get; init; }

    /// <summary>
    /// Where to listen: <c>host:port</c> with a loopback host (port 0 for a free one), or <c>unix:/path</c>. There is no
    /// authentication yet, so nothing but this host is ever listened to.
    /// </summary>
    public string Listen { get; init; } = "127.0.0.1:7443";

    /// <summary>Folders whose files specs may name by path. Null allows every path; empty none.</summary>
    public IReadOnlyList<string>? AllowedPaths { get; init; } = [];

    /// <summary>The most memory that one VM may ask for, in MiB.</summary>
    public long MaxVmMemoryMib { get; init; } = 65_536;

    /// <summary>Memory that all running VMs may hold together, in MiB; null for no limit.</summary>
    public long? MaxRunningMemoryMib { get; init; }

    /// <summary>VMs that may exist.</summary>
    public int MaxVms { get; init; } = 10_000;

    /// <summary>The size of one image, in bytes.</summary>
    public long MaxImageBytes { get; init; } = 64L << 30;

    /// <summary>Console output that is kept per VM, in bytes.</summary>
    public int ScrollbackBytes { get; init; } = 1 << 20;

    /// <summary>Changes per project that a watch can resume over.</summary>
    public int WatchHistory { get; init; } = 8192;

    /// <summary>Whether the server logs what it does to standard error; warnings and errors are logged always.</summary>
    public bool Verbose { get; init; }
}
