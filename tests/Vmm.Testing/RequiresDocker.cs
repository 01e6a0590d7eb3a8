using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.CompilerServices;
using Xunit;

namespace Vmm.Testing;

/// <summary>
/// A test with Docker Compose: skipped where no daemon runs, or where the images of <c>deploy/images/build --postgres</c> are not there.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresDockerFactAttribute : FactAttribute
{
    /// <summary>Looks for the daemon and the images.</summary>
    public RequiresDockerFactAttribute([CallerMemberName] string? test = null)
    {
        if (DockerCompose.MissingReason is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }
}

/// <summary>Docker Compose on this host.</summary>
public static class DockerCompose
{
    /// <summary>The images that <c>deploy/images/build --postgres</c> makes.</summary>
    private static readonly string[] Images = ["vmm:latest", "vmm-postgres:latest"];

    /// <summary>Why there is none, or null.</summary>
    public static string? MissingReason { get; } = Look();

    /// <summary>The command, which its arguments follow.</summary>
    public static IReadOnlyList<string> Command { get; } = Runs("docker", "compose", "version") ? ["docker", "compose"] : ["docker-compose"];

    private static string? Look()
    {
        if (!Runs("docker", "info"))
            return "needs a Docker daemon that runs";
        if (!Runs("docker", "compose", "version") && !Runs("docker-compose", "version"))
            return "needs Docker Compose";
        return Images.FirstOrDefault(image => !Runs("docker", "image", "inspect", image)) is { } missing ? $"needs the image {missing}: deploy/images/build --postgres" : null;
    }

    private static bool Runs(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            process.OutputDataReceived += static (_, _) => { };
            process.ErrorDataReceived += static (_, _) => { };
            process.BeginOutputReadLine();
            process.BeginErrorReadLine();
            process.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (Win32Exception)
        {
            return false;
        }
    }
}
