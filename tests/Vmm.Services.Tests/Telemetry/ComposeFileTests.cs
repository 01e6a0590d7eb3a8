using System.Diagnostics;
using Vmm.Testing;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>The telemetry profile of <c>docker-compose.yml</c>, as Compose reads it.</summary>
public sealed class ComposeFileTests
{
    [RequiresPackageFact("docker-compose")]
    public async Task The_profile_has_the_stack_and_every_process_a_page()
    {
        string[] fleet = ["frontend-1", "frontend-2", "worker-a", "worker-b", "worker-c"], stack = ["collector", "grafana", "prometheus"];
        string services = await ComposeAsync("config", "--services");
        Assert.Equal(
            ((string[])[.. fleet, .. stack, "certificates", "postgres"]).Order(StringComparer.Ordinal), services.Split('\n', StringSplitOptions.RemoveEmptyEntries).Order(StringComparer.Ordinal));
        string configuration = await ComposeAsync("--profile", "telemetry", "config");
        Assert.Equal(stack.Length, configuration.Split('\n').Count(line => line.Trim() == "- telemetry"));
        Assert.Equal(fleet.Length, configuration.Split('\n').Count(line => line.Trim() == "VMMD_METRICS: 0.0.0.0:9464"));

        // What is mounted is there, and Prometheus looks for the processes by the names that they have.
        foreach (string path in (string[])["prometheus/prometheus.yml", "prometheus/rules.yml", "grafana/dashboards/fleet.json", "grafana/provisioning/datasources/prometheus.yml", "grafana/provisioning/dashboards/vmm.yml", "collector/collector.yml"])
        {
            Assert.True(File.Exists(Path.Combine(Repository.Root, "deploy", path)), path);
            Assert.Contains(Path.Combine(Repository.Root, "deploy", path.Split('/')[0]), configuration, StringComparison.Ordinal);
        }

        string scrapes = await File.ReadAllTextAsync(Path.Combine(Repository.Root, "deploy", "prometheus", "prometheus.yml"));
        Assert.All(fleet, service => Assert.Contains($"\"{service}:9464\"", scrapes, StringComparison.Ordinal));
    }

    private static async Task<string> ComposeAsync(params string[] arguments)
    {
        var start = new ProcessStartInfo("docker-compose", ["--file", Path.Combine(Repository.Root, "docker-compose.yml"), .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["VMM_POSTGRES_PASSWORD"] = "password";
        using Process compose = Process.Start(start)!;
        Task<string> output = compose.StandardOutput.ReadToEndAsync(), errors = compose.StandardError.ReadToEndAsync();
        await compose.WaitForExitAsync();
        Assert.True(compose.ExitCode == 0, await errors);
        return await output;
    }
}
