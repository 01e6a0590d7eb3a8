using System.Globalization;
using System.Runtime.InteropServices;
using Vmm.Machine;
using Vmm.Worker.Storage;

namespace Vmm.Server;

/// <summary><c>vmmd</c> as a program.</summary>
internal static class Daemon
{
    private const int ExitOk = 0;
    private const int ExitUsage = 64;
    private const int ExitFailed = 1;
    private const uint PrivateFiles = 0x3F; // 077

    private const string Usage = """
        vmmd: virtual machines on an emulated x86-64 processor, behind a gRPC API.

          --state DIR           where VMs, images and disks are kept
                                (VMMD_STATE; default: vmmd in $STATE_DIRECTORY, $XDG_STATE_HOME or ~/.local/state)
          --listen ADDRESS      127.0.0.1:PORT, [::1]:PORT or unix:/PATH (VMMD_LISTEN; default 127.0.0.1:7443)
          --allow-path DIR      a folder whose kernels and disks may be named by path; may be repeated
                                (VMMD_ALLOW_PATHS, separated by ':'; default: none, images only)
          --max-vm-memory MIB   the most memory of one VM (VMMD_MAX_VM_MEMORY; default 65536)
          --max-memory MIB      memory of all running VMs together (VMMD_MAX_MEMORY; default: no limit)
          --max-vms N           VMs that may exist (VMMD_MAX_VMS; default 10000)
          --max-image BYTES     the size of one image (VMMD_MAX_IMAGE; default 64 GiB)
          --verbose             log what happens, to standard error
          --help

        SIGTERM and Ctrl-C stop every VM and then the server. There is no authentication: whoever reaches the address may do
        everything, so only loopback addresses and unix sockets are possible.
        Exit status: 0 after an orderly end, 1 where the server could not start, 64 for a wrong command line.

        """;

    /// <summary>Runs until a signal comes.</summary>
    public static async Task<int> RunAsync(string[] arguments)
    {
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

        using var ending = new CancellationTokenSource();
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, End);
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, End);
        if (!OperatingSystem.IsWindows())
            _ = SetFileCreationMask(PrivateFiles);
        try
        {
            await using VmmServer server = await VmmServer.StartAsync(options, new MachineFactory(), cancellation: ending.Token);
            await Console.Out.WriteLineAsync($"vmmd listens on {server.Address}; state in {options.StateDirectory}");
            await Console.Out.FlushAsync();
            await Task.Delay(Timeout.Infinite, ending.Token).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
            return ExitOk;
        }
        catch (OperationCanceledException) when (ending.IsCancellationRequested)
        {
            return ExitOk;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or ArgumentException or DamagedJournalException or System.Net.Sockets.SocketException)
        {
            await Console.Error.WriteLineAsync($"vmmd: {exception.Message}");
            return ExitFailed;
        }

        void End(PosixSignalContext signal)
        {
            // The process ends when everything is stopped, not with the signal.
            signal.Cancel = true;
            ending.Cancel();
        }
    }

    /// <summary>The options of a command line, over those of the environment; null where help is asked for.</summary>
    /// <exception cref="FormatException">The message says what is wrong.</exception>
    internal static ServerOptions? Parse(string[] arguments, Func<string, string?> environment)
    {
        var options = new ServerOptions { StateDirectory = environment("VMMD_STATE") ?? DefaultState(environment) };
        List<string> paths = [.. (environment("VMMD_ALLOW_PATHS") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)];
        foreach ((string variable, string option) in (ReadOnlySpan<(string, string)>)
            [("VMMD_LISTEN", "--listen"), ("VMMD_MAX_VM_MEMORY", "--max-vm-memory"), ("VMMD_MAX_MEMORY", "--max-memory"), ("VMMD_MAX_VMS", "--max-vms"), ("VMMD_MAX_IMAGE", "--max-image")])
        {
            if (environment(variable) is { Length: > 0 } value)
                options = With(options, option, value, paths);
        }

        for (int i = 0; i < arguments.Length; i++)
        {
            string[] parts = arguments[i].Split('=', 2);
            if (parts[0] is "--help" or "-h")
                return null;
            if (parts[0] == "--verbose")
            {
                options = options with { Verbose = true };
                continue;
            }

            string value = parts.Length == 2 ? parts[1] : i + 1 < arguments.Length ? arguments[++i] : throw new FormatException($"{parts[0]} needs a value.");
            options = With(options, parts[0], value, paths);
        }

        foreach (string path in paths)
            if (!Path.IsPathFullyQualified(path) || !Directory.Exists(path))
                throw new FormatException($"--allow-path {path}: this is not the absolute path of a folder.");
        return options with { AllowedPaths = paths, StateDirectory = Path.GetFullPath(options.StateDirectory) };
    }

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
            default:
                throw new FormatException($"{option} is not an option.");
        }
    }

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
