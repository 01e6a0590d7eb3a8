namespace Vmm.Guests;

/// <summary>
/// Debian's package archive through the host's own apt, without root: packages are downloaded, checked by apt against the
/// archive's signatures, and unpacked into the cache; nothing is installed.
/// </summary>
public sealed class DebianArchive(GuestCache cache)
{
    private string[]? _options;

    /// <summary>Whether this host has apt.</summary>
    public static bool IsAvailable => HostProgram.Exists("apt-get") && HostProgram.Exists("apt-cache") && HostProgram.Exists("dpkg-deb");

    /// <summary>What a user reads where <see cref="IsAvailable"/> is false.</summary>
    public static string UnavailableMessage =>
        "This host has no apt (apt-get, apt-cache and dpkg-deb), so Debian's packages cannot be fetched here.";

    /// <summary>The package that a meta package stands for, as <c>linux-image-6.1.0-50-cloud-amd64</c> for <c>linux-image-cloud-amd64</c>.</summary>
    /// <param name="metaPackage">The meta package.</param>
    /// <param name="prefix">How the wanted dependency's name begins.</param>
    /// <param name="progress">Told what is being done.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="GuestUnavailableException">There is no apt, or the archive has no such package.</exception>
    public async Task<string> ResolveAsync(
        string metaPackage, string prefix, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (!IsAvailable)
            throw new GuestUnavailableException(UnavailableMessage);
        var found = await FindDependencyAsync(_options ?? [], metaPackage, prefix, cancellation).ConfigureAwait(false);
        if (found is null && _options is null)
        {
            // The host's package lists are empty (a fresh container), old, or for another processor: use lists of our own.
            progress?.Report("updating package lists");
            await UseOwnListsAsync(cancellation).ConfigureAwait(false);
            found = await FindDependencyAsync(_options!, metaPackage, prefix, cancellation).ConfigureAwait(false);
        }

        return found ?? throw new GuestUnavailableException(
            $"The package sources of this host do not have '{metaPackage}'. It is Debian's: other distributions name theirs differently.");
    }

    /// <summary>Downloads a package and unpacks it.</summary>
    /// <param name="package">The package's exact name.</param>
    /// <param name="destination">An existing folder that gets the package's file tree.</param>
    /// <param name="progress">Told what is being done.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="GuestUnavailableException">There is no apt, no such package, or no network.</exception>
    public async Task UnpackAsync(
        string package, string destination, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (!IsAvailable)
            throw new GuestUnavailableException(UnavailableMessage);
        var folder = Directory.CreateTempSubdirectory("vmm-package-");
        try
        {
            progress?.Report($"downloading {package}");
            var (code, _, error) = await DownloadAsync(package, folder.FullName, cancellation).ConfigureAwait(false);
            if (code != 0 && _options is null)
            {
                progress?.Report("updating package lists");
                await UseOwnListsAsync(cancellation).ConfigureAwait(false);
                progress?.Report($"downloading {package}");
                (code, _, error) = await DownloadAsync(package, folder.FullName, cancellation).ConfigureAwait(false);
            }

            var file = folder.EnumerateFiles("*.deb").FirstOrDefault();
            if (code != 0 || file is null)
                throw new GuestUnavailableException($"apt-get could not download '{package}': {LastLine(error)}");
            progress?.Report($"unpacking {package}");
            (code, _, error) = await HostProgram
                .RunAsync("dpkg-deb", ["-x", file.FullName, destination], folder.FullName, cancellation).ConfigureAwait(false);
            if (code != 0)
                throw new GuestUnavailableException($"dpkg-deb could not unpack '{package}': {LastLine(error)}");
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private Task<(int ExitCode, string Output, string Error)> DownloadAsync(
        string package, string folder, CancellationToken cancellation) =>
        // Root's apt would drop to a user who cannot write here, and warn: stay who we are.
        HostProgram.RunAsync(
            "apt-get", [.. _options ?? [], "-q", "-o", "APT::Sandbox::User=", "download", package + ":amd64"], folder, cancellation);

    private static async Task<string?> FindDependencyAsync(
        string[] options, string package, string prefix, CancellationToken cancellation)
    {
        var (code, output, _) = await HostProgram
            .RunAsync("apt-cache", [.. options, "depends", "--important", package + ":amd64"], Path.GetTempPath(), cancellation)
            .ConfigureAwait(false);
        if (code != 0)
            return null;
        return output.Split('\n')
            .Select(line => line.Trim().TrimStart('|'))
            .Where(line => line.StartsWith("Depends: ", StringComparison.Ordinal))
            .Select(line => line["Depends: ".Length..].Split(':')[0])
            .FirstOrDefault(name => name.StartsWith(prefix, StringComparison.Ordinal) && name != package);
    }

    private async Task UseOwnListsAsync(CancellationToken cancellation)
    {
        var state = Directory.CreateDirectory(Path.Combine(cache.Root, "apt"));
        state.CreateSubdirectory("lists/partial");
        state.CreateSubdirectory("archives/partial");
        string[] options =
        [
            "-o", "APT::Architecture=amd64",
            "-o", "APT::Architectures=amd64",
            "-o", "APT::Sandbox::User=",
            "-o", "Dir::State::lists=" + Path.Combine(state.FullName, "lists"),
            "-o", "Dir::Cache=" + state.FullName,
        ];
        var (code, _, error) = await HostProgram
            .RunAsync("apt-get", [.. options, "-q", "update"], state.FullName, cancellation).ConfigureAwait(false);
        if (code != 0)
            throw new GuestUnavailableException($"apt-get could not update its package lists: {LastLine(error)}");
        _options = options;
    }

    private static string LastLine(string text) =>
        text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
            .LastOrDefault(line => line.StartsWith("E:", StringComparison.Ordinal))?[2..].Trim()
        ?? text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).LastOrDefault()
        ?? "no reason given";
}
