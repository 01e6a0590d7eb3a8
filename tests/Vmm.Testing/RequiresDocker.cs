using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.CompilerServices;
using Xunit;

namespace Vmm.Testing;

/// <summary>
/// A test with Docker: skipped where no daemon runs, or where the image that it needs is not there; those are Compose and the images of
/// <c>deploy/images/build --postgres</c> unless the test names another.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresDockerFactAttribute : FactAttribute
{
    /// <summary>Looks for the daemon and the images.</summary>
    /// <param name="image">The image, where the test does without Compose.</param>
    /// <param name="makes">The command that makes it.</param>
    /// <param name="test">The test's name.</param>
    public RequiresDockerFactAttribute(string image = "", string makes = "", [CallerMemberName] string? test = null)
    {
        if ((image.Length == 0 ? DockerCompose.MissingReason : Docker.MissingReason(image, makes)) is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }
}

/// <summary>Docker on this host.</summary>
public static class Docker
{
    /// <summary>Why there is no daemon with an image, or null.</summary>
    /// <param name="image">The image's name.</param>
    /// <param name="makes">The command that makes it.</param>
    public static string? MissingReason(string image, string makes) =>
        !Runs("docker", "info") ? "needs a Docker daemon that runs"
        : !Runs("docker", "image", "inspect", image) ? $"needs the image {image}: {makes}"
        : null;

    /// <summary>Whether a command is there and ends in order.</summary>
    internal static bool Runs(string program, params string[] arguments)
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

/// <summary>Docker Compose on this host.</summary>
public static class DockerCompose
{
    /// <summary>The images that <c>deploy/images/build --postgres</c> makes.</summary>
    private static readonly string[] Images = ["vmm:latest", "vmm-postgres:latest"];

    /// <summary>The command, which its arguments follow; none where it is not there.</summary>
    public static IReadOnlyList<string> Command { get; } = new string[][] { ["docker", "compose"], ["docker-compose"] }.FirstOrDefault(static command => Docker.Runs(command[0], [.. command[1..], "version"]), []);

    /// <summary>Why there is none, or null.</summary>
    public static string? MissingReason { get; } = Images.Select(static image => Docker.MissingReason(image, "deploy/images/build --postgres")).FirstOrDefault(static reason => reason is not null)
        ?? (Command is [] ? "needs Docker Compose" : null);
}
