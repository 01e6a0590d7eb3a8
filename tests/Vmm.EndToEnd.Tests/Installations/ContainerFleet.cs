using System.Diagnostics;
using System.Security.Cryptography;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>The fleet of <c>docker-compose.yml</c>: brought up once for all journeys, and taken down with its volumes.</summary>
public sealed class ContainerFleet : Fleet, IAsyncLifetime
{
    private readonly string _project = $"vmmtest{RandomNumberGenerator.GetHexString(6, lowercase: true)}";
    private readonly string _password = RandomNumberGenerator.GetHexString(32);

    /// <inheritdoc/>
    public async Task InitializeAsync()
    {
        if (DockerCompose.MissingReason is not null)
            return;
        await ComposeAsync("up", "--detach");
        try
        {
            await CopyAsync("/etc/vmm/ca.crt", Authority);
            await CopyAsync("/var/lib/vmm/admin-token", AdminToken);
            await MakeWholeAsync();
        }
        catch (Exception exception)
        {
            throw new InvalidOperationException($"The fleet does not come up: {exception.Message}\n{await ComposeAsync("logs", "--no-color", "--tail", "20")}", exception);
        }
    }

    /// <inheritdoc/>
    public async Task DisposeAsync()
    {
        if (DockerCompose.MissingReason is null)
            await ComposeAsync("down", "--volumes", "--timeout", "5");
        Directory.Delete(Folder, recursive: true);
    }

    /// <inheritdoc/>
    public override Task KillFrontendAsync(int frontend) => ComposeAsync("kill", Frontend(frontend));

    /// <inheritdoc/>
    public override Task KillWorkerAsync(string id) => ComposeAsync("kill", Worker(id));

    /// <inheritdoc/>
    public override Task StopWorkerAsync(string id) => ComposeAsync("stop", Worker(id));

    /// <summary>Restarts the database, which cuts everyone's connections.</summary>
    public Task RestartDatabaseAsync() => ComposeAsync("restart", "postgres");

    /// <summary>What Docker says of each front end and worker: its health, and as which user it runs.</summary>
    public async Task<IReadOnlyList<string>> InspectAsync()
    {
        var states = new List<string>();
        foreach (string service in (string[])[Frontend(0), Frontend(1), .. Workers.Select(Worker)])
            states.Add((await RunAsync("docker", "inspect", "--format", "{{.State.Health.Status}} {{.Config.User}}", (await ComposeAsync("ps", "-q", service)).Trim())).Trim());
        return states;
    }

    /// <summary>What all of its processes have logged.</summary>
    public Task<string> LogsAsync() => ComposeAsync("logs", "--no-color");

    /// <inheritdoc/>
    protected override Task StartMissingAsync() => ComposeAsync(["start", Frontend(0), Frontend(1), .. Workers.Select(Worker)]);

    private static string Frontend(int number) => number == 0 ? "frontend-1" : "frontend-2";

    private static string Worker(string id) => $"worker-{id}";

    private Task CopyAsync(string path, string target) => Eventually.HoldsAsync(
        async () =>
        {
            (int code, string content, _) = await TryRunAsync(Compose("exec", "-T", Frontend(0), "cat", path));
            await File.WriteAllTextAsync(target, content);
            return code == 0 && content.Length > 0;
        },
        $"the front end has {path}");

    private Task<string> ComposeAsync(params string[] arguments) => RunAsync(Compose(arguments));

    private string[] Compose(params string[] arguments) =>
        [.. DockerCompose.Command, "--project-name", _project, "--file", Path.Combine(Repository.Root, "docker-compose.yml"), .. arguments];

    private async Task<string> RunAsync(params string[] command)
    {
        (int code, string output, string errors) = await TryRunAsync(command);
        return code == 0 ? output : throw new InvalidOperationException($"{string.Join(' ', command)} ended with {code}: {errors}");
    }

    private async Task<(int Code, string Output, string Errors)> TryRunAsync(string[] command)
    {
        var start = new ProcessStartInfo(command[0], command[1..]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["VMM_POSTGRES_PASSWORD"] = _password;
        start.Environment["VMM_POSTGRES_IMAGE"] = "vmm-postgres:latest";
        (start.Environment["VMM_PORT_1"], start.Environment["VMM_PORT_2"]) = (PortOf(0), PortOf(1));
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return (process.ExitCode, await output, await errors);
    }
}
