using System.Globalization;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>The same fleet as processes of this host, with the database of Debian's packages; set up as <c>deploy/README.md</c> says.</summary>
public sealed class ProcessFleet : Fleet, IAsyncLifetime
{
    /// <summary>In seconds. So long VMs of a worker that was killed wait for another.</summary>
    private const int Lease = 15;

    private readonly Dictionary<string, FleetProcess> _processes = new(StringComparer.Ordinal);
    private PostgresServer? _database;
    private string _registry = "";

    /// <summary>Why there is none on this host, or null.</summary>
    public static string? MissingReason { get; } = DebianTool.MissingReason("postgresql");

    private string Lab => Path.Combine(Folder, "lab");

    /// <inheritdoc/>
    public async Task InitializeAsync()
    {
        if (MissingReason is not null)
            return;
        _database = await PostgresServer.StartAsync();
        _registry = await _database.NewSchemaAsync();
        (int code, _, string errors) = await TryAsync(new Dictionary<string, string>(), "certs", "init", Lab, "--host", "localhost");
        Assert.True(code == 0, errors);
        File.Copy(Path.Combine(Lab, "ca.crt"), Authority);
        await MakeWholeAsync();
    }

    /// <inheritdoc/>
    public async Task DisposeAsync()
    {
        foreach (FleetProcess process in _processes.Values)
            process.Dispose();
        if (_database is not null)
            await _database.DisposeAsync();
        Directory.Delete(Folder, recursive: true);
    }

    /// <inheritdoc/>
    public override Task KillFrontendAsync(int frontend)
    {
        Remove(Frontend(frontend)).Dispose();
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public override Task KillWorkerAsync(string id)
    {
        Remove(id).Dispose();
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public override async Task StopWorkerAsync(string id)
    {
        using FleetProcess worker = Remove(id);
        int code = await worker.TerminateAsync();
        Assert.True(code == 0, $"worker {id} ended with {code}: {worker.Output}");
    }

    /// <inheritdoc/>
    protected override async Task StartMissingAsync()
    {
        for (int frontend = 0; frontend < 2; frontend++)
            await StartAsync(Frontend(frontend), "frontend", "--listen", $"127.0.0.1:{PortOf(frontend)}", "--admin-token", AdminToken, "--tls-cert", Certificate("frontend"), "--tls-key", Key("frontend"));
        foreach (string id in Workers)
            await StartAsync(id, "worker", "--state", Path.Combine(Folder, $"state-{id}"), "--worker-id", id, "--listen", "127.0.0.1:0", "--lease", Lease.ToString(CultureInfo.InvariantCulture));
    }

    private static string Frontend(int number) => number == 0 ? "frontend-1" : "frontend-2";

    private async Task StartAsync(string id, string role, params string[] arguments)
    {
        if (!_processes.ContainsKey(id))
            _processes[id] = await FleetProcess.StartAsync(
                "vmmd.dll", [role, "--registry", _registry, "--fleet-cert", Certificate(role), "--fleet-key", Key(role), "--fleet-ca", Authority, .. arguments]);
    }

    private FleetProcess Remove(string id) => _processes.Remove(id, out FleetProcess? process) ? process : throw new InvalidOperationException($"{id} does not run.");

    private string Certificate(string name) => Path.Combine(Lab, $"{name}.crt");

    private string Key(string name) => Path.Combine(Lab, $"{name}.key");
}
