using System.Diagnostics;
using Vmm.Testing;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>A small file system that only those processes see that enter.</summary>
internal sealed class MountNamespace : IDisposable
{
    private readonly Process _holder;
    private readonly string _folder;

    private MountNamespace(Process holder, string folder) => (_holder, _folder) = (holder, folder);

    /// <summary>The command that runs what follows where it is to be seen.</summary>
    public string[] Enter => ["nsenter", "--target", $"{_holder.Id}", "--mount", .. (string[])(Environment.IsPrivilegedProcess ? [] : ["--user", "--preserve-credentials"])];

    /// <summary>A file in it as it is seen from here.</summary>
    public string PathOf(string file) => $"/proc/{_holder.Id}/root{_folder}/{file}";

    /// <summary>Makes one in a folder.</summary>
    public static async Task<MountNamespace> MountAsync(string folder, string size)
    {
        string[] command = [.. Unshare, "sh", "-c", $"mount -t tmpfs -o size={size} vmm '{folder}' && echo there && exec cat"];
        // It ends with its input, which is to say with this process.
        Process holder = Process.Start(new ProcessStartInfo(command[0], command[1..]) { RedirectStandardOutput = true, RedirectStandardInput = true })!;
        var mount = new MountNamespace(holder, folder);
        if (await holder.StandardOutput.ReadLineAsync() == "there")
            return mount;
        mount.Dispose();
        throw new InvalidOperationException("The file system could not be mounted.");
    }

    private static string[] Unshare => Environment.IsPrivilegedProcess ? ["unshare", "--mount"] : ["unshare", "--map-root-user", "--mount"];

    /// <summary>Why it is not possible here, or null.</summary>
    public static string? MissingReason { get; } = Try();

    private static string? Try()
    {
        try
        {
            string[] command = [.. Unshare, "mount", "-t", "tmpfs", "-o", "size=1m", "vmm", "/mnt"];
            using Process process = Process.Start(new ProcessStartInfo(command[0], command[1..]) { RedirectStandardError = true })!;
            process.WaitForExit();
            return process.ExitCode == 0 ? null : "needs to be root, or to be allowed user namespaces";
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "needs unshare";
        }
    }

    public void Dispose()
    {
        if (!_holder.HasExited)
            _holder.Kill();
        _holder.Dispose();
    }
}

/// <summary>A test that mounts a small file system: skipped, with the reason in its name, where that is not allowed or a Debian package is missing.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresMountNamespaceFactAttribute : FactAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>, which are divided by spaces.</summary>
    public RequiresMountNamespaceFactAttribute(string packages, [System.Runtime.CompilerServices.CallerMemberName] string? test = null)
    {
        Packages = packages;
        if ((DebianTool.MissingReason(packages.Split(' ')) ?? MountNamespace.MissingReason) is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }

    /// <summary>What the test needs.</summary>
    public string Packages { get; }
}
