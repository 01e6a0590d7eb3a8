using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>A Debian that systemd runs, in a container, on which what <c>deploy/README.md</c> says of systemd has been done to the letter.</summary>
public sealed partial class SystemdHost : IAsyncLifetime
{
    /// <summary>What the container is made of.</summary>
    public const string Image = "vmm-base-host";

    /// <summary>What makes that.</summary>
    public const string Makes = "deploy/images/base --host";

    /// <summary>Where its commands are given, as at the top of a working copy.</summary>
    private const string Copy = "/root/vmm";

    private readonly string _container = $"vmmhost{RandomNumberGenerator.GetHexString(6, lowercase: true)}";

    /// <summary>The commands of the page: the installation, an upgrade, and its rollback.</summary>
    public static (string Install, string Upgrade, string Rollback) Page { get; } = Read();

    /// <inheritdoc/>
    public async Task InitializeAsync()
    {
        if (Docker.MissingReason(Image, Makes) is not null)
            return;
        // What systemd needs of a container: to mount, and mounts that its services see. Not root's rights on this host: its devices and settings stay out of reach.
        await DockerAsync(
            "run", "--detach", "--name", _container, "--hostname", "vmm", "--env", "container=docker", "--stop-signal", "SIGRTMIN+3", "--cgroupns", "private",
            "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
            "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", Image, "/bin/sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd");
        try
        {
            await BootedAsync();
            await DockerAsync("exec", _container, "mkdir", Copy);
            await DockerAsync("cp", AppContext.BaseDirectory, $"{_container}:{Copy}/out");
            await DockerAsync("cp", Path.Combine(Repository.Root, "deploy"), $"{_container}:{Copy}/deploy");
            await RunAsync(Page.Install);
        }
        catch (Exception exception)
        {
            throw new InvalidOperationException($"The host is not made: {exception.Message}\n{(await TryAsync("docker", "exec", _container, "journalctl", "--no-pager", "-n", "40")).Output}", exception);
        }
    }

    /// <inheritdoc/>
    public async Task DisposeAsync()
    {
        if (Docker.MissingReason(Image, Makes) is null)
            await DockerAsync("rm", "--force", "--volumes", _container);
    }

    /// <summary>Brings a file of this host there.</summary>
    public Task CopyAsync(string file, string target) => DockerAsync("cp", file, $"{_container}:{target}");

    /// <summary>Ends all of its processes and boots it again.</summary>
    public async Task RebootAsync()
    {
        await DockerAsync("restart", "--time", "60", _container);
        await BootedAsync();
    }

    /// <summary>Has a shell do something, as root, that has to succeed.</summary>
    /// <returns>What it printed.</returns>
    public async Task<string> RunAsync(string commands)
    {
        (int code, string output, string errors) = await TryRunAsync(commands);
        return code == 0 ? output.Trim() : throw new InvalidOperationException($"{commands}\nended with {code}: {output}{errors}");
    }

    /// <summary>Likewise, whatever comes of it.</summary>
    public Task<(int Code, string Output, string Errors)> TryRunAsync(string commands) => TryAsync("docker", "exec", "--workdir", Copy, _container, "/bin/bash", "-ec", commands);

    /// <summary>Has <c>vmmctl</c> do something as the administrator.</summary>
    public Task<string> VmmctlAsync(string arguments) => RunAsync(Vmmctl(arguments));

    /// <summary>Waits until <c>vmmctl</c> prints a text.</summary>
    public async Task SaysAsync(string arguments, string pattern)
    {
        string last = "";
        await Eventually.HoldsAsync(
            async () =>
            {
                (int code, string output, string errors) = await TryRunAsync(Vmmctl(arguments));
                last = output + errors;
                return code == 0 && Regex.IsMatch(output, pattern);
            },
            $"'vmmctl {arguments}' says {pattern}");
    }

    /// <summary>What systemd says of a unit.</summary>
    public Task<string> ShowAsync(string unit, string property) => RunAsync($"systemctl show --value -p {property} {unit}");

    private static string Vmmctl(string arguments) => $"VMM_SERVER=https://localhost:7443 VMM_CA=/etc/vmm/ca.crt VMM_TOKEN_FILE=/etc/vmm/admin-token /opt/vmm/vmmctl {arguments}";

    private static (string Install, string Upgrade, string Rollback) Read()
    {
        string page = File.ReadAllText(Path.Combine(Repository.Root, "deploy", "README.md"));
        string section = page.Split("\n## ").Single(part => part.StartsWith("systemd\n", StringComparison.Ordinal));
        string[] blocks = [.. Blocks().Matches(section).Select(block => block.Groups[1].Value)];
        return blocks is [var install, var next] && next.Trim().Split('\n') is [var upgrade, var rollback]
            ? (install, upgrade, rollback)
            : throw new InvalidOperationException("deploy/README.md says of systemd something else than how to install, and in two lines how to upgrade and to go back.");
    }

    private Task BootedAsync() => Eventually.HoldsAsync(
        async () => (await TryAsync("docker", "exec", _container, "systemctl", "is-system-running", "--wait")).Output.Trim() is "running" or "degraded", "systemd has booted the host");

    private static async Task DockerAsync(params string[] arguments)
    {
        (int code, _, string errors) = await TryAsync("docker", arguments);
        if (code != 0)
            throw new InvalidOperationException($"docker {string.Join(' ', arguments)} ended with {code}: {errors}");
    }

    private static async Task<(int Code, string Output, string Errors)> TryAsync(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return (process.ExitCode, await output, await errors);
    }

    [GeneratedRegex("^```\n(.*?)^```$", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Blocks();
}

/// <summary>One host for all of its tests.</summary>
[CollectionDefinition(Name)]
public sealed class SystemdHostTests : ICollectionFixture<SystemdHost>
{
    /// <summary>Of the collection.</summary>
    public const string Name = "systemd host";
}
