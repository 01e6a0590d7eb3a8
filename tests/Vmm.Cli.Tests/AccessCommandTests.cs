using System.Text.Json;
using Vmm.Machine;
using Vmm.Server;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl project</c>, <c>token</c> and <c>audit</c>, with a server that wants tokens.</summary>
public sealed class AccessCommandTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmmctl-access-").FullName;
    private VmmServer _server = null!;

    private string AdminToken => Path.Combine(_folder, "admin-token");

    public async Task InitializeAsync() => _server = await VmmServer.StartAsync(
        new ServerOptions { StateDirectory = Path.Combine(_folder, "state"), Listen = "127.0.0.1:0", RequireTokens = true, AdminTokenFile = AdminToken }, new MachineFactory());

    public async Task DisposeAsync()
    {
        await _server.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task A_team_gets_a_project_with_limits_and_a_token_for_it()
    {
        Assert.Contains("[TOKEN_REQUIRED]", (await Invocation.RunAsync("vm", "list", "--server", _server.Address)).Error, StringComparison.Ordinal);
        Assert.Equal("TEAM", (await AdminAsync("project", "create", "team", "--display-name", "TEAM", "--max-vms", "3", "--max-memory", "4096")).Output.Split('\n')[1].Split("  ", StringSplitOptions.RemoveEmptyEntries)[1].Trim());
        Assert.Equal(
            ["team", "TEAM", "-", "-", "4096 MiB", "-", "7"],
            (await AdminAsync("project", "update", "team", "--max-vms", "none", "--max-streams", "7")).Output.Split('\n')[1].Split("  ", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)[..7]);
        Assert.Equal(["default", "team"], (await AdminAsync("project", "list")).Output.Trim().Split('\n').Skip(1).Select(line => line.Split(' ')[0]));

        Invocation made = await AdminAsync("token", "create", "ci", "--role", "operator", "--project", "team", "--display-name", "CI");
        Assert.Matches("^vmm_ci_[0-9a-f]{64}\n$", made.Output);
        string file = Path.Combine(_folder, "ci-token");
        await File.WriteAllTextAsync(file, made.Output);
        Assert.Equal(0, (await AsAsync(file, "vm", "list", "--project", "team")).ExitCode);
        Assert.Contains("--project or VMM_PROJECT names another project. [NOT_FOUND]", (await AsAsync(file, "vm", "list")).Error, StringComparison.Ordinal);
        var environment = new Dictionary<string, string> { ["VMM_PROJECT"] = "team", ["VMM_TOKEN_FILE"] = file, ["VMM_SERVER"] = _server.Address };
        Assert.Equal(0, (await Invocation.RunAsync(["vm", "list"], null, environment: environment)).ExitCode);
        Assert.Contains("[NOT_FOUND]", (await Invocation.RunAsync(["vm", "list", "--project", "other"], null, environment: environment)).Error, StringComparison.Ordinal);
        Assert.Contains("[ROLE_REQUIRED]", (await AsAsync(file, "token", "list")).Error, StringComparison.Ordinal);
        string[] row = (await AdminAsync("token", "get", "ci")).Output.Split('\n')[1].Split("  ", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        Assert.Equal(["ci", "CI", "team", "operator"], row[..4]);
        Assert.Equal("2", JsonDocument.Parse((await AdminAsync("token", "list", "-o", "json")).Output).RootElement.GetProperty("tokens").GetArrayLength().ToString(System.Globalization.CultureInfo.InvariantCulture));
        Assert.Equal(["ci"], (await AdminAsync("token", "list", "--filter", "role = operator")).Output.Trim().Split('\n').Skip(1).Select(line => line.Split(' ')[0]));

        Assert.Equal(0, (await AdminAsync("token", "revoke", "ci")).ExitCode);
        Assert.Contains("[TOKEN_INVALID]", (await AsAsync(file, "vm", "list", "--project", "team")).Error, StringComparison.Ordinal);
        Assert.Equal(0, (await AdminAsync("project", "delete", "team")).ExitCode);
        Assert.Equal(ExitCode.Failed, (await AdminAsync("project", "get", "team")).ExitCode);

        Invocation audit = await AdminAsync("audit", "--all-projects", "--limit", "3", "--filter", "token = \"tokens/admin\"");
        Assert.Equal(["DeleteProject", "DeleteToken", "CreateToken"], audit.Output.Trim().Split('\n').Skip(1).Select(line => line.Split("  ", StringSplitOptions.RemoveEmptyEntries)[2].Trim()));
        Assert.Contains("NOT_FOUND", (await AdminAsync("audit", "--project", "team")).Output, StringComparison.Ordinal);
        foreach (string output in (string[])[audit.Output, audit.Error])
            Assert.DoesNotContain("vmm_", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_secret_goes_to_a_new_file_that_only_its_owner_can_read()
    {
        string file = Path.Combine(_folder, "viewer-token");
        Invocation made = await AdminAsync("token", "create", "seer", "--role", "viewer", "--out", file);
        Assert.Equal((0, "", $"vmmctl: tokens/seer is made; its secret is in {file}.\n"), (made.ExitCode, made.Output, made.Error));
        Assert.Matches("^vmm_seer_[0-9a-f]{64}\n$", await File.ReadAllTextAsync(file));
        if (!OperatingSystem.IsWindows())
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(file));
        Assert.Equal(0, (await AsAsync(file, "vm", "list")).ExitCode);

        // It is not overwritten, and no token is made for which there is no place; a token that is refused leaves no file.
        string before = await File.ReadAllTextAsync(file);
        Invocation again = await AdminAsync("token", "create", "other", "--role", "viewer", "--out", file);
        Assert.Equal((ExitCode.Usage, before), (again.ExitCode, await File.ReadAllTextAsync(file)));
        Assert.Equal(ExitCode.Failed, (await AdminAsync("token", "get", "other")).ExitCode);
        string refused = Path.Combine(_folder, "refused");
        Assert.Equal((ExitCode.Failed, false), ((await AdminAsync("token", "create", "seer", "--role", "viewer", "--out", refused)).ExitCode, File.Exists(refused)));

        // Nor does the secret go anywhere else.
        Invocation json = await AdminAsync("token", "create", "third", "--role", "viewer", "--out", refused, "-o", "json");
        Assert.Equal("tokens/third", JsonDocument.Parse(json.Output).RootElement.GetProperty("token").GetProperty("name").GetString());
        Assert.DoesNotContain((await File.ReadAllTextAsync(refused)).Trim(), json.Output + json.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("project", "update", "default")]
    [InlineData("project", "update", "default", "--max-vms", "x")]
    [InlineData("token", "create", "t")]
    [InlineData("token", "create", "t", "--role", "king")]
    [InlineData("token", "create", "t", "--role", "viewer", "--days", "0")]
    [InlineData("audit", "--limit", "0")]
    public async Task A_wrong_command_line_does_nothing(params string[] arguments) => Assert.Equal(ExitCode.Usage, (await AdminAsync(arguments)).ExitCode);

    [Fact]
    public async Task Without_a_token_it_is_said_where_one_can_be_given()
    {
        Invocation run = await Invocation.RunAsync("vm", "list", "--server", _server.Address);
        Assert.NotEqual(ExitCode.Success, run.ExitCode);
        foreach (string way in (string[])["--token-file", "VMM_TOKEN_FILE", "VMM_TOKEN has", "[TOKEN_REQUIRED]"])
            Assert.Contains(way, run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_token_is_sent_to_nobody_who_could_lose_it()
    {
        Invocation run = await Invocation.RunAsync("vm", "list", "--server", "http://192.0.2.1:1", "--token-file", AdminToken);
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Contains("without TLS", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_with_more_than_a_secret_is_not_sent()
    {
        string file = Path.Combine(_folder, "more");
        await File.WriteAllTextAsync(file, $"vmmctl: tokens/ci is made.\n{await File.ReadAllTextAsync(AdminToken)}");
        Invocation run = await AsAsync(file, "vm", "list");
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Contains("which is one word", run.Error, StringComparison.Ordinal);
    }

    private Task<Invocation> AdminAsync(params string[] arguments) => AsAsync(AdminToken, arguments);

    private Task<Invocation> AsAsync(string file, params string[] arguments) => Invocation.RunAsync([.. arguments, "--server", _server.Address, "--token-file", file]);
}
