using System.Net;

namespace Vmm.Server;

/// <summary>How log records are written to standard error.</summary>
public enum LogFormat
{
    /// <summary>A line of text each.</summary>
    Text,
    /// <summary>A line of JSON each, with trace ids.</summary>
    Json,
    /// <summary>A line of text each, with its priority in front for journald: sd-daemon(3).</summary>
    Systemd,
}

/// <summary>What a <c>vmmd</c> is.</summary>
public enum ServerRole
{
    /// <summary>Front end, worker and registry in one process.</summary>
    All,
    /// <summary>A front end of a fleet.</summary>
    Frontend,
    /// <summary>A worker of a fleet.</summary>
    Worker,
}

/// <summary>Certificates as PEM files, which are read again when they change.</summary>
public sealed record TlsFiles
{
    /// <summary>The certificate of this process, and those that lead to its authority.</summary>
    public required string Certificate { get; init; }

    /// <summary>Its private key.</summary>
    public required string Key { get; init; }

    /// <summary>
    /// Authorities of the certificates that the other end must have. Between the processes of a fleet it is required; of the public API's
    /// clients a certificate is asked for where it is not null.
    /// </summary>
    public string? Authorities { get; init; }
}

/// <summary>What <c>vmmd</c> is configured with.</summary>
public sealed record ServerOptions
{
    /// <summary>What it is.</summary>
    public ServerRole Role { get; init; }

    /// <summary>Where VMs, images and disks are kept; a front end keeps nothing.</summary>
    public required string StateDirectory { get; init; }

    /// <summary>Of a worker: a directory that the fleet's workers share, where the content of snapshots is kept for all of them; null for none.</summary>
    public string? SharedSnapshotDirectory { get; init; }

    /// <summary>The fleet's registry: a connection string of PostgreSQL, as Npgsql has them. Required of a fleet's processes.</summary>
    public string? Registry { get; init; }

    /// <summary>The worker's id in the fleet; null for one that is made from its state directory.</summary>
    public string? WorkerId { get; init; }

    /// <summary>The worker's labels, which placements select by.</summary>
    public IReadOnlyDictionary<string, string> WorkerLabels { get; init; } = new Dictionary<string, string>();

    /// <summary>vCPUs that VMs on the worker may have together, running or not; null for sixteen per processor of the host.</summary>
    public int? MaxVcpus { get; init; }

    /// <summary>How long the worker may run VMs after it renewed its lease.</summary>
    public TimeSpan LeaseDuration { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>
    /// Where to listen: <c>address:port</c> (port 0 for a free one), or <c>unix:/path</c>. Beyond loopback addresses only a worker
    /// with <see cref="FleetTls"/> listens, and a public API with <see cref="Tls"/> and <see cref="RequireTokens"/>.
    /// </summary>
    public string Listen { get; init; } = "127.0.0.1:7443";

    /// <summary>A worker's address as front ends and other workers reach it, <c>host:port</c>; null for the one it listens on.</summary>
    public string? Advertise { get; init; }

    /// <summary>Whether calls of the public API need a token.</summary>
    public bool RequireTokens { get; init; }

    /// <summary>A file with the secret of the first administrator's token, which is made where it does not exist; null for none.</summary>
    public string? AdminTokenFile { get; init; }

    /// <summary>TLS of the public API; null for none.</summary>
    public TlsFiles? Tls { get; init; }

    /// <summary>Mutual TLS between the processes of a fleet; null for none.</summary>
    public TlsFiles? FleetTls { get; init; }

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

    /// <summary>Where metrics are served for Prometheus, by HTTP and to whoever asks; null for nowhere.</summary>
    public IPEndPoint? Metrics { get; init; }

    /// <summary>Whether others in this process look after the traces of calls that it makes.</summary>
    public bool IsEmbedded { get; init; }

    /// <summary>VMs of a worker that may have metrics of their own, of those that ask for them by the label <c>vmm-metrics</c>.</summary>
    public int MaxVmSeries { get; init; } = 100;

    /// <summary>How the server logs.</summary>
    public LogFormat LogFormat { get; init; }

    /// <summary>Whether the server logs what it does to standard error; warnings and errors are logged always.</summary>
    public bool Verbose { get; init; }
}
