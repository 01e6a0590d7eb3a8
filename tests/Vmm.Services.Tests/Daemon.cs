using Vmm.Client;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing.Processes;

namespace Vmm.Services.Tests;

/// <summary>A <c>vmmd</c> that is all in one, in a process of its own, with the engine's machines.</summary>
internal sealed class Daemon : IDisposable
{
    private const string Program = "vmmd.dll";

    private readonly FleetProcess _process;

    private Daemon(FleetProcess process) => _process = process;

    /// <summary>Everything that it has written.</summary>
    public string Output => _process.Output;

    /// <summary>Starts one and waits until it listens.</summary>
    public static async Task<(Daemon Daemon, VmmConnection Connection)> StartAsync(string folder, string arguments = "", IReadOnlyDictionary<string, string>? environment = null)
    {
        string socket = Path.Combine(folder, "vmmd.sock");
        FleetProcess process = await FleetProcess.StartAsync(
            Program, environment ?? new Dictionary<string, string>(), ["--state", Path.Combine(folder, "state"), "--listen", $"unix:{socket}", .. Split(arguments)]);
        return (new Daemon(process), VmmConnection.Open($"unix:{socket}"));
    }

    /// <summary>Runs one that is expected to end by itself.</summary>
    public static Task<(int ExitCode, string Output)> RunAsync(string arguments, IReadOnlyDictionary<string, string>? environment = null) =>
        FleetProcess.RunAsync(Program, environment ?? new Dictionary<string, string>(), Split(arguments));

    /// <summary>As <c>kill -9</c>.</summary>
    public void Kill() => _process.Kill();

    /// <summary>As <c>kill -TERM</c>, and waits for the end.</summary>
    public Task<int> TerminateAsync() => _process.TerminateAsync();

    public void Dispose() => _process.Dispose();

    private static string[] Split(string arguments) => arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}
