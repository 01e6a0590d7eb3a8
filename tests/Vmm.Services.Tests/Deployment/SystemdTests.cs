using System.Diagnostics;
using System.Text.RegularExpressions;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.Services.Tests.Deployment;

/// <summary>The units for systemd: read by its own tools, and compared with what vmmd can be told. A systemd that starts them is in the end-to-end tests.</summary>
public sealed partial class SystemdTests : IDisposable
{
    private static readonly string Units = Path.Combine(Repository.Root, "deploy", "systemd");

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-systemd-").FullName;

    public static TheoryData<string> Roles => [.. "frontend worker".Split(' ')];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [RequiresPackageTheory("systemd")]
    [MemberData(nameof(Roles))]
    public async Task Systemd_understands_a_unit_and_finds_little_that_it_could_do_beside_its_work(string role)
    {
        string text = await File.ReadAllTextAsync(Path.Combine(Units, $"vmm-{role}.service")), program = $"/opt/vmm/vmmd {role}\n";
        Assert.Contains($"ExecStart={program}", text, StringComparison.Ordinal);
        string unit = Path.Combine(_folder, $"vmm-{role}.service");
        // The program is not installed here.
        await File.WriteAllTextAsync(unit, text.Replace(program, "/bin/true\n", StringComparison.Ordinal));
        Assert.Equal((0, ""), await AnalyzeAsync("verify", unit));
        // In tenths, of 10 for everything.
        (int exitCode, string security) = await AnalyzeAsync("security", "--offline=true", "--threshold=20", unit);
        Assert.True(exitCode == 0, security);
    }

    [Theory]
    [MemberData(nameof(Roles))]
    public async Task Vmmd_knows_the_variables_that_a_unit_speaks_of(string role)
    {
        (int exitCode, string help) = await FleetProcess.RunAsync("vmmd.dll", new Dictionary<string, string>(), "--help");
        Assert.Equal(0, exitCode);
        string[] known = [.. Variables().Matches(help).Select(variable => variable.Value)], environment = await File.ReadAllLinesAsync(Path.Combine(Units, $"{role}.env"));
        string unit = await File.ReadAllTextAsync(Path.Combine(Units, $"vmm-{role}.service"));
        Assert.Contains($"EnvironmentFile=/etc/vmm/{role}.env\n", unit, StringComparison.Ordinal);
        string[] used = [.. Variables().Matches(unit).Select(variable => variable.Value), .. environment.Where(line => !line.StartsWith('#')).Select(line => line.Split('=')[0])];
        Assert.True(used.Length > environment.Length, string.Join(' ', used));
        Assert.All(used, variable => Assert.Contains(variable, known));
    }

    private static async Task<(int ExitCode, string Output)> AnalyzeAsync(params string[] arguments)
    {
        var start = new ProcessStartInfo(DebianTool.Find("systemd")!, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        string[] outputs = await Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync();
        return (process.ExitCode, string.Concat(outputs).Trim());
    }

    [GeneratedRegex("VMMD_[A-Z_]+")]
    private static partial Regex Variables();
}
