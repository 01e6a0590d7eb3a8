namespace Vmm.Cli.Sessions;

/// <summary>Files of this host that a command line or the environment names to be read. Those that cannot be are a wrong command line: exit code 2, and nothing was done.</summary>
internal static class InputFile
{
    /// <summary>What is wrong with the file, as a sentence; null where it can be read.</summary>
    public static string? Problem(string path)
    {
        if (Directory.Exists(path))
            return $"'{path}' is a folder.";
        if (!File.Exists(path))
            return $"'{path}' does not exist.";
        try
        {
            // Pipes are not tried: what is read of one is gone. They say that they are empty.
            if (new FileInfo(path).Length > 0)
                File.OpenHandle(path).Dispose();
            return null;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return $"'{path}' cannot be read: {failure.Message}";
        }
    }

    /// <summary>The path, which can be read.</summary>
    /// <param name="path">The path.</param>
    /// <param name="source">Who named it: an option or a variable.</param>
    /// <exception cref="UsageException">It cannot.</exception>
    public static string Require(string path, string source) => Problem(path) is { } problem ? throw new UsageException($"{source}: {problem}") : path;
}
