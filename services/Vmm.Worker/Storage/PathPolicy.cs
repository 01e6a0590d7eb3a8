namespace Vmm.Worker.Storage;

/// <summary>A path that a spec must not name; the message says why.</summary>
internal sealed class PathRefusedException(string message) : Exception(message);

/// <summary>Which of the host's files a spec may name.</summary>
internal sealed class PathPolicy
{
    private const int MaxLinks = 40;
    private const int MaxPathChars = 4096;
    private readonly IReadOnlyList<string>? _roots;

    /// <param name="roots">Absolute folders; null for everything.</param>
    public PathPolicy(IReadOnlyList<string>? roots)
    {
        // The roots' own symbolic links are the configuration's business, and are resolved once.
        _roots = roots?.Select(root => Resolve(Path.TrimEndingDirectorySeparator(Path.GetFullPath(root))) ?? Path.GetFullPath(root)).ToList();
    }

    /// <summary>The file that a path means, without symbolic links.</summary>
    /// <exception cref="PathRefusedException">
    /// It is not absolute, leads out of the allowed folders, or is no ordinary file. What lies outside cannot be told apart.
    /// </exception>
    public string Require(string path)
    {
        if (path.Length > MaxPathChars || path.Any(char.IsControl))
            throw new PathRefusedException("is too long or contains control characters.");
        if (!Path.IsPathFullyQualified(path))
            throw new PathRefusedException("must be an absolute path on the server's host.");
        if (path.Split('/').Any(part => part is ".." or "."))
            throw new PathRefusedException("must not contain '.' or '..'.");
        if (_roots is { Count: 0 })
            throw new PathRefusedException("names a file on the server, which this server's configuration does not allow; upload an image instead.");
        string? real = Resolve(path);
        // One answer for a missing file and for one outside: the API is no way to find out what the host has.
        if (real is null || !IsAllowed(real) || !PosixFile.IsRegularFile(real))
            throw new PathRefusedException(_roots is null
                ? "is not an ordinary file on the server's host."
                : "is not an ordinary file inside the folders that this server's configuration allows.");
        return real;
    }

    private bool IsAllowed(string path) => _roots is null || _roots.Any(root => IsInside(path, root));

    private static bool IsInside(string path, string root) =>
        root == "/" || (path.Length > root.Length && path.StartsWith(root, StringComparison.Ordinal) && path[root.Length] == '/');

    /// <summary>The path with every symbolic link in it followed, or null where a part is missing, unreadable or a loop.</summary>
    private static string? Resolve(string path)
    {
        var pending = new Stack<string>(path.Split('/', StringSplitOptions.RemoveEmptyEntries).Reverse());
        string real = "";
        int links = 0;
        try
        {
            while (pending.TryPop(out string? part))
            {
                if (part == ".")
                    continue;
                if (part == "..")
                {
                    real = real.Length == 0 ? "" : real[..real.LastIndexOf('/')];
                    continue;
                }

                string next = $"{real}/{part}";
                string? target = new FileInfo(next).LinkTarget;
                if (target is null)
                {
                    if (!Path.Exists(next))
                        return null;
                    real = next;
                    continue;
                }

                if (++links > MaxLinks)
                    return null;
                if (target.StartsWith('/'))
                    real = "";
                foreach (string piece in target.Split('/', StringSplitOptions.RemoveEmptyEntries).Reverse())
                    pending.Push(piece);
            }
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return null;
        }

        return real.Length == 0 ? "/" : real;
    }
}
