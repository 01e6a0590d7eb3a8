using System.Diagnostics;
using System.Globalization;
using Vmm.Client;

namespace Vmm.Services.Tests;

/// <summary>A <c>vmmd</c> in a process of its own, with the engine's machines.</summary>
internal sealed class Daemon : IDisposable
{
    private readonly Process _process;
    private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<string> _errors = [];

    private Daemon(string arguments, IReadOnlyDictionary<string, string>? environment = null)
    {
        var start = new ProcessStartInfo("dotnet", $"\"{Path.Combine(AppContext.BaseDirectory, "vmmd.dll")}\" {arguments}")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>())
            start.Environment[name] = value;
        _process = new Process { StartInfo = start, EnableRaisingEvents = true };
        _process.OutputDataReceived += (_, line) =>
        {
            if (line.Data?.StartsWith("vmmd listens on ", StringComparison.Ordinal) == true)
                _ready.TrySetResult();
        };
        _process.ErrorDataReceived += (_, line) =>
        {
            lock (_errors)
                if (line.Data is not null)
                    _errors.Add(line.Data);
        };
        _process.Exited += (_, _) => _ready.TrySetException(new InvalidOperationException($"vmmd ended with {_process.ExitCode}"));
        _process.Start();
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    public string Errors
    {
        get
        {
            lock (_errors)
                return string.Join('\n', _errors);
        }
    }

    /// <summary>Starts one and waits until it listens.</summary>
    public static async Task<(Daemon Daemon, VmmConnection Connection)> StartAsync(string folder, string arguments = "", IReadOnlyDictionary<string, string>? environment = null)
    {
        string socket = Path.Combine(folder, "vmmd.sock");
        var daemon = new Daemon($"--state {Path.Combine(folder, "state")} --listen unix:{socket} {arguments}", environment);
        try
        {
            await daemon._ready.Task.WaitAsync(TimeSpan.FromMinutes(2));
        }
        catch
        {
            daemon.Dispose();
            throw;
        }

        return (daemon, VmmConnection.Open($"unix:{socket}"));
    }

    /// <summary>Runs one that is expected to end by itself.</summary>
    public static async Task<(int ExitCode, string Errors)> RunAsync(string arguments, IReadOnlyDictionary<string, string>? environment = null)
    {
        using var daemon = new Daemon(arguments, environment);
        daemon._ready.Task.ContinueWith(static task => _ = task.Exception, TaskScheduler.Default).Forget();
        return (await daemon.EndAsync(), daemon.Errors);
    }

    /// <summary>As <c>kill -9</c>.</summary>
    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
    }

    /// <summary>As <c>kill -TERM</c>, and waits for the end.</summary>
    public async Task<int> TerminateAsync()
    {
        using Process kill = Process.Start("kill", ["-TERM", _process.Id.ToString(CultureInfo.InvariantCulture)]);
        await kill.WaitForExitAsync();
        return await EndAsync();
    }

    public void Dispose()
    {
        if (!_process.HasExited)
            Kill();
        _process.Dispose();
    }

    private async Task<int> EndAsync()
    {
        await _process.WaitForExitAsync().WaitAsync(TimeSpan.FromMinutes(2));
        return _process.ExitCode;
    }
}

internal static class TaskExtensions
{
    /// <summary>Says that nobody waits for the task, on purpose.</summary>
    public static void Forget(this Task task) => ArgumentNullException.ThrowIfNull(task);
}
