using System.Diagnostics;
using System.Globalization;
using Vmm.Client;

namespace Vmm.Testing.Processes;

/// <summary>A process of a fleet: the real <c>vmmd frontend</c> or <c>vmmd worker</c>, or a worker with stub machines.</summary>
public sealed class FleetProcess : IDisposable
{
    private readonly Process _process;
    private readonly TaskCompletionSource<string> _address = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<string> _output = [];

    private FleetProcess(string[] command, IReadOnlyDictionary<string, string> environment)
    {
        var start = new ProcessStartInfo(command[0], command[1..]) { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach ((string name, string value) in environment)
            start.Environment[name] = value;
        _process = new Process { StartInfo = start, EnableRaisingEvents = true };
        _process.OutputDataReceived += Read;
        _process.ErrorDataReceived += Read;
        _process.Exited += (_, _) => Task.Run(async () =>
        {
            // With the last of its output.
            await _process.WaitForExitAsync();
            _address.TrySetException(new InvalidOperationException($"{string.Join(' ', command)} ended: {Output}"));
        });
        _process.Start();
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    /// <summary>Its process id.</summary>
    public int Id => _process.Id;

    /// <summary>Where it listens.</summary>
    public string Address => _address.Task.Result;

    /// <summary>Where it has its page of metrics; null for nowhere.</summary>
    public Uri? Metrics => Output.Split('\n').Select(line => line.Split("; metrics on ")).FirstOrDefault(parts => parts.Length == 2) is [_, var address] ? new Uri(address) : null;

    /// <summary>Everything that it has written.</summary>
    public string Output
    {
        get
        {
            lock (_output)
                return string.Join('\n', _output);
        }
    }

    /// <summary>Starts one and waits until it listens; a worker has registered by then.</summary>
    public static Task<FleetProcess> StartAsync(string program, params string[] arguments) => StartAsync(program, new Dictionary<string, string>(), arguments);

    /// <summary>Likewise, with variables of its environment.</summary>
    public static Task<FleetProcess> StartAsync(string program, IReadOnlyDictionary<string, string> environment, params string[] arguments) =>
        StartAsync([.. Command(program), .. arguments], environment);

    /// <summary>Likewise, by a program that becomes it in the end: the command follows its arguments.</summary>
    public static Task<FleetProcess> StartWrappedAsync(string[] wrapper, string program, params string[] arguments) =>
        StartAsync([.. wrapper, .. Command(program), .. arguments], new Dictionary<string, string>());

    /// <summary>Runs one that is expected to end by itself; gives what it has written.</summary>
    public static async Task<(int ExitCode, string Output)> RunAsync(string program, IReadOnlyDictionary<string, string> environment, params string[] arguments)
    {
        using var process = new FleetProcess([.. Command(program), .. arguments], environment);
        // That it ends before it listens is what is expected.
        _ = process._address.Task.ContinueWith(static address => _ = address.Exception, TaskScheduler.Default);
        return (await process.EndAsync(), process.Output);
    }

    private static string[] Command(string program) => ["dotnet", Path.Combine(AppContext.BaseDirectory, program)];

    private static async Task<FleetProcess> StartAsync(string[] command, IReadOnlyDictionary<string, string> environment)
    {
        var process = new FleetProcess(command, environment);
        try
        {
            await process._address.Task.WaitAsync(TimeSpan.FromMinutes(5));
            return process;
        }
        catch
        {
            process.Dispose();
            throw;
        }
    }

    /// <summary>A connection to it.</summary>
    public VmmConnection Connect(VmmCredentials? credentials = null) => VmmConnection.Open(Address, credentials);

    /// <summary>As <c>kill -9</c>.</summary>
    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
    }

    /// <summary>As <c>kill -NAME</c>.</summary>
    public async Task SignalAsync(string name)
    {
        using Process kill = Process.Start("kill", [$"-{name}", _process.Id.ToString(CultureInfo.InvariantCulture)]);
        await kill.WaitForExitAsync();
    }

    /// <summary>As <c>kill -TERM</c>, and waits for the end.</summary>
    public async Task<int> TerminateAsync()
    {
        await SignalAsync("TERM");
        return await EndAsync();
    }

    /// <inheritdoc/>
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

    private void Read(object sender, DataReceivedEventArgs line)
    {
        const string listening = "vmmd listens on ";
        if (line.Data is null)
            return;
        lock (_output)
            _output.Add(line.Data);
        if (line.Data.StartsWith(listening, StringComparison.Ordinal))
            _address.TrySetResult(line.Data[listening.Length..].Split(';')[0]);
    }
}
