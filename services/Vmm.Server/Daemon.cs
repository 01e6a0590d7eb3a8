using System.Globalization;
using System.Net;
using System.Runtime.InteropServices;
using Microsoft.Extensions.Hosting.Systemd;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Worker.Storage;

namespace Vmm.Server;

/// <summary><c>vmmd</c> as a program.</summary>
internal static class Daemon
{
    private const int ExitOk = 0;
    private const int ExitUsage = 64;
    private const int ExitFailed = 1;
    private const uint PrivateFiles = 0x3F; // 077
    private const int MaxLeaseSeconds = 3600;
    private const string ErrorPriority = "<3>"; // of sd-daemon(3)
    /// <summary>Options with a value, and the variables that they are taken from where they are not given.</summary>
    private static readonly (string Variable, string Option)[] Variables =
    [
        ("VMMD_LISTEN", "--listen"), ("VMMD_MAX_VM_MEMORY", "--max-vm-memory"), ("VMMD_MAX_MEMORY", "--max-memory"), ("VMMD_MAX_VMS", "--max-vms"), ("VMMD_MAX_IMAGE", "--max-image"),
        ("VMMD_REGISTRY", "--registry"), ("VMMD_WORKER_ID", "--worker-id"), ("VMMD_MAX_VCPUS", "--max-vcpus"), ("VMMD_LEASE", "--lease"), ("VMMD_SNAPSHOT_STORE", "--snapshot-store"),
        ("VMMD_TLS_CERT", "--tls-cert"), ("VMMD_TLS_KEY", "--tls-key"), ("VMMD_TLS_CLIENT_CA", "--tls-client-ca"), ("VMMD_ADVERTISE", "--advertise"),
        ("VMMD_ADMIN_TOKEN", "--admin-token"), ("VMMD_METRICS", "--metrics"), ("VMMD_MAX_VM_SERIES", "--max-vm-series"), ("VMMD_LOG_FORMAT", "--log-format"),
        ("VMMD_FLEET_CERT", "--fleet-cert"), ("VMMD_FLEET_KEY", "--fleet-key"), ("VMMD_FLEET_CA", "--fleet-ca"),
    ];

    private static readonly TlsFiles NoFiles = new() { Certificate = "", Key = "" };

    private const string Usage = """
        vmmd: virtual machines on an emulated x86-64 processor, behind a gRPC API.

          vmmd [OPTIONS]            all in one process
          vmmd frontend [OPTIONS]   a front end of a fleet: the API, without VMs; any number of them
          vmmd worker [OPTIONS]     a worker of a fleet: VMs, which front ends find by the registry
          vmmd health [frontend|worker] [OPTIONS]
                                    asks the one that runs with these options on this host whether it serves

          --state DIR           where VMs, images and disks are kept
                                (VMMD_STATE; default: vmmd in $STATE_DIRECTORY, $XDG_STATE_HOME or ~/.local/state)
          --listen ADDRESS      ADDRESS:PORT or unix:/PATH (VMMD_LISTEN; default 127.0.0.1:7443)
          --tls-cert FILE       of the public API: its certificate, PEM (VMMD_TLS_CERT; default: no TLS)
          --tls-key FILE        and the certificate's key (VMMD_TLS_KEY)
          --tls-client-ca FILE  and whose certificates clients must show (VMMD_TLS_CLIENT_CA; default: they need none)
          --allow-path DIR      a folder whose kernels and disks may be named by path; may be repeated
                                (VMMD_ALLOW_PATHS, separated by ':'; default: none, images only)
          --max-vm-memory MIB   the most memory of one VM (VMMD_MAX_VM_MEMORY; default 65536)
          --max-memory MIB      memory of all running VMs together (VMMD_MAX_MEMORY; default: no limit)
          --max-vms N           VMs that may exist (VMMD_MAX_VMS; default 10000)
          --max-image BYTES     the size of one image (VMMD_MAX_IMAGE; default 64 GiB)
          --registry STRING     of a fleet: its PostgreSQL database, as "Host=...;Database=...;Username=..."
                                (VMMD_REGISTRY, where a password is better off)
          --worker-id ID        of a worker: its id in the fleet (VMMD_WORKER_ID; default: made from its state directory)
          --label KEY=VALUE     of a worker: what placements may ask for; may be repeated (VMMD_LABELS, separated by ',')
          --max-vcpus N         of a worker: vCPUs of all its VMs together (VMMD_MAX_VCPUS; default: 16 per processor)
          --snapshot-store DIR  of a worker: a directory that the fleet's workers share, for the content of snapshots, which any of them
                                can then restore (VMMD_SNAPSHOT_STORE; default: workers fetch it from each other)
          --lease SECONDS       of a worker: how long it may run VMs without the registry, before others take them; of a front end: how
                                long its streams count without it (VMMD_LEASE; default 60)
          --admin-token FILE    of the public API: calls need a token; FILE has the first administrator's, and is made where it does
                                not exist (VMMD_ADMIN_TOKEN)
          --tokens              the same, where there are tokens already (VMMD_TOKENS=1)
          --advertise HOST:PORT of a worker: where the fleet reaches it (VMMD_ADVERTISE; default: where it listens)
          --fleet-cert FILE     of a fleet's processes: the certificate that they show each other, PEM, which says in a URI what
                                they are: spiffe://vmm/frontend or spiffe://vmm/worker, with /ID or not (VMMD_FLEET_CERT)
          --fleet-key FILE      and its key (VMMD_FLEET_KEY)
          --fleet-ca FILE       and the fleet's authority (VMMD_FLEET_CA)
          --metrics ADDRESS     ADDRESS:PORT where Prometheus finds the metrics at /metrics, by HTTP and without asking who it is
                                (VMMD_METRICS; default: nowhere)
          --max-vm-series N     of a worker: VMs that may have metrics of their own, of those with the label vmm-metrics=true
                                (VMMD_MAX_VM_SERIES; default 100)
          --log-format FORMAT   text, json, or systemd: with priorities for the journal; to standard error (VMMD_LOG_FORMAT; default text)
          --verbose             log what happens, to standard error
          --version             the version of this program
          --help

        SIGTERM and Ctrl-C stop every VM and then the server; a worker first moves its VMs to others that have room. Certificates
        and keys are read again when they change. Without TLS and tokens whoever reaches the public API may do everything: it is then
        served on loopback addresses and unix sockets only, and so is a worker without the fleet's certificates.
        Metrics, traces and logs go by OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says; the other OTEL_* variables count too.
        Exit status: 0 after an orderly end, 1 where the server could not start, 64 for a wrong command line; of health 0 or 1.

        """;

    /// <summary>Runs until a signal comes.</summary>
    public static async Task<int> RunAsync(string[] arguments)
    {
        if (arguments is ["--version"])
        {
            await Console.Out.WriteLineAsync(typeof(Daemon).Assembly.GetName().Version!.ToString(3));
            return ExitOk;
        }

        bool asks = arguments is ["health", ..];
        if (asks)
            arguments = arguments[1..];
        ServerOptions? options;
        try
        {
            options = Parse(arguments, Environment.GetEnvironmentVariable);
        }
        catch (FormatException exception)
        {
            await Console.Error.WriteLineAsync($"vmmd: {exception.Message}\nTry --help.");
            return ExitUsage;
        }

        if (options is null)
        {
            await Console.Out.WriteAsync(Usage);
            return ExitOk;
        }

        // Without systemd it tells nobody.
        var systemd = new SystemdNotifier();
        using var ending = new CancellationTokenSource();
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, End);
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, End);
        if (!OperatingSystem.IsWindows())
            _ = SetFileCreationMask(PrivateFiles);
        try
        {
            if (asks)
            {
                if (await HealthProbe.AskAsync(options, ending.Token) is not { } problem)
                    return ExitOk;
                return await FailAsync(problem);
            }

            await using VmmServer server = await VmmServer.StartAsync(options, new MachineFactory(), cancellation: ending.Token);
            await Console.Out.WriteLineAsync(
                (options.Role == ServerRole.Frontend ? $"vmmd listens on {server.Address}; front end" : $"vmmd listens on {server.Address}; state in {options.StateDirectory}")
                + (server.MetricsAddress is null ? "" : $"; metrics on {server.MetricsAddress}"));
            await Console.Out.FlushAsync();
            systemd.Notify(ServiceState.Ready);
            await Task.Delay(Timeout.Infinite, ending.Token).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
            return ExitOk;
        }
        catch (OperationCanceledException) when (ending.IsCancellationRequested)
        {
            return ExitOk;
        }
        catch (Grpc.Core.RpcException exception)
        {
            return await FailAsync(exception.Status.Detail);
        }
        catch (Exception exception) when (exception is IOException or InvalidOperationException or UnauthorizedAccessException or ArgumentException or DamagedJournalException or System.Net.Sockets.SocketException)
        {
            return await FailAsync(exception.Message);
        }

        void End(PosixSignalContext signal)
        {
            // The process ends when everything is stopped, not with the signal.
            signal.Cancel = true;
            systemd.Notify(ServiceState.Stopping);
            ending.Cancel();
        }

        async Task<int> FailAsync(string problem)
        {
            await Console.Error.WriteLineAsync($"{(options.LogFormat == LogFormat.Systemd ? ErrorPriority : "")}vmmd: {problem}");
            return ExitFailed;
        }
    }

    /// <summary>The options of a command line, over those of the environment; null where help is asked for.</summary>
    /// <exception cref="FormatException">The message says what is wrong.</exception>
    internal static ServerOptions? Parse(string[] arguments, Func<string, string?> environment)
    {
        ServerRole role = arguments switch { ["frontend", ..] => ServerRole.Frontend, ["worker", ..] => ServerRole.Worker, _ => ServerRole.All };
        if (role != ServerRole.All)
            arguments = arguments[1..];
        var options = new ServerOptions { Role = role, StateDirectory = environment("VMMD_STATE") ?? DefaultState(environment), RequireTokens = environment("VMMD_TOKENS") is "1" or "true" };
        List<string> paths = [.. (environment("VMMD_ALLOW_PATHS") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)];
        foreach ((string variable, string option) in Variables)
        {
            if (environment(variable) is { Length: > 0 } value)
                options = With(options, option, value, paths);
        }

        foreach (string label in (environment("VMMD_LABELS") ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries))
            options = With(options, "--label", label, paths);
        for (int i = 0; i < arguments.Length; i++)
        {
            string[] parts = arguments[i].Split('=', 2);
            if (parts[0] is "--help" or "-h")
                return null;
            if (parts[0] is "--verbose" or "--tokens")
            {
                options = parts[0] == "--tokens" ? options with { RequireTokens = true } : options with { Verbose = true };
                continue;
            }

            if (parts[0] is not ("--state" or "--allow-path" or "--label") && !Variables.Any(each => each.Option == parts[0]))
                throw new FormatException($"{ApiError.Quote(parts[0])} is {(parts[0].StartsWith('-') ? "not an option" : "neither an option nor frontend, worker or health, which come first")}.");
            string value = parts.Length == 2 ? parts[1] : i + 1 < arguments.Length ? arguments[++i] : throw new FormatException($"{parts[0]} needs a value.");
            options = With(options, parts[0], value, paths);
        }

        foreach (string path in paths)
            if (!Path.IsPathFullyQualified(path) || !Directory.Exists(path))
                throw new FormatException($"--allow-path {path}: this is not the absolute path of a folder.");
        return options with
        {
            AllowedPaths = paths,
            StateDirectory = Path.GetFullPath(options.StateDirectory),
            Tls = Complete(options.Tls, "--tls-cert", "--tls-key"),
            FleetTls = Complete(options.FleetTls, "--fleet-cert", "--fleet-key"),
        };
    }

    private static TlsFiles? Complete(TlsFiles? files, string certificate, string key) => files is null or { Certificate.Length: > 0, Key.Length: > 0 }
        ? files
        : throw new FormatException($"{certificate} and {key} are needed together.");

    private static ServerOptions With(ServerOptions options, string option, string value, List<string> paths)
    {
        switch (option)
        {
            case "--state":
                return options with { StateDirectory = value };
            case "--listen":
                return options with { Listen = value };
            case "--allow-path":
                paths.Add(value);
                return options;
            case "--max-vm-memory":
                return options with { MaxVmMemoryMib = Number(option, value, 65_536) };
            case "--max-memory":
                return options with { MaxRunningMemoryMib = Number(option, value, long.MaxValue >> 20) };
            case "--max-vms":
                return options with { MaxVms = (int)Number(option, value, int.MaxValue) };
            case "--max-image":
                return options with { MaxImageBytes = Number(option, value, long.MaxValue) };
            case "--registry":
                return options with { Registry = value };
            case "--worker-id":
                return ResourceName.IsId(value) ? options with { WorkerId = value } : throw new FormatException($"{option} {value}: an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])? is needed.");
            case "--label":
                return options with { WorkerLabels = new Dictionary<string, string>(options.WorkerLabels, StringComparer.Ordinal) { [Label(value).Key] = Label(value).Value } };
            case "--advertise":
                return options with { Advertise = Uri.TryCreate($"http://{value}", UriKind.Absolute, out Uri? uri) && uri.PathAndQuery == "/" && value.Contains(':', StringComparison.Ordinal) ? value : throw new FormatException($"{option} {value}: HOST:PORT is needed.") };
            case "--tls-cert":
                return options with { Tls = (options.Tls ?? NoFiles) with { Certificate = value } };
            case "--tls-key":
                return options with { Tls = (options.Tls ?? NoFiles) with { Key = value } };
            case "--tls-client-ca":
                return options with { Tls = (options.Tls ?? NoFiles) with { Authorities = value } };
            case "--admin-token":
                return options with { AdminTokenFile = value, RequireTokens = true };
            case "--fleet-cert":
                return options with { FleetTls = (options.FleetTls ?? NoFiles) with { Certificate = value } };
            case "--fleet-key":
                return options with { FleetTls = (options.FleetTls ?? NoFiles) with { Key = value } };
            case "--fleet-ca":
                return options with { FleetTls = (options.FleetTls ?? NoFiles) with { Authorities = value } };
            case "--max-vcpus":
                return options with { MaxVcpus = (int)Number(option, value, int.MaxValue) };
            case "--lease":
                return options with { LeaseDuration = TimeSpan.FromSeconds(Number(option, value, MaxLeaseSeconds)) };
            case "--metrics":
                return options with { Metrics = IPEndPoint.TryParse(value.StartsWith("localhost:", StringComparison.Ordinal) ? $"127.0.0.1:{value["localhost:".Length..]}" : value, out IPEndPoint? metrics) && value.Contains(':', StringComparison.Ordinal) ? metrics : throw new FormatException($"{option} {value}: ADDRESS:PORT is needed, as 127.0.0.1:9464.") };
            case "--max-vm-series":
                return options with { MaxVmSeries = (int)Number(option, value, 100_000) };
            case "--log-format":
                return options with { LogFormat = value switch { "text" => LogFormat.Text, "json" => LogFormat.Json, "systemd" => LogFormat.Systemd, _ => throw new FormatException($"{option} {value}: text, json or systemd is needed.") } };
            case "--snapshot-store":
                return options with { SharedSnapshotDirectory = Path.GetFullPath(value) };
            default:
                throw new ArgumentOutOfRangeException(nameof(option), option, "An option of the table that nothing is done about.");
        }
    }

    private static (string Key, string Value) Label(string text) =>
        text.Split('=', 2) is [{ Length: > 0 } key, var value] ? (key, value) : throw new FormatException($"--label {text}: KEY=VALUE is needed.");

    private static long Number(string option, string value, long max) =>
        long.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out long number) && number >= 1 && number <= max
            ? number
            : throw new FormatException($"{option} {value}: a number from 1 to {max} is needed.");

    /// <summary>Sockets and files of the server are its user's only, from the moment they exist.</summary>
    [DllImport("libc", EntryPoint = "umask")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern uint SetFileCreationMask(uint mask);

    private static string DefaultState(Func<string, string?> environment)
    {
        string above = environment("STATE_DIRECTORY") ?? environment("XDG_STATE_HOME")
            ?? Path.Combine(environment("HOME") ?? Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".local", "state");
        return Path.Combine(above, "vmmd");
    }
}
