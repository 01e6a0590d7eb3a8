namespace Vmm.Guests;

/// <summary>
/// The folder that keeps downloaded packages and what is made from them: <c>VMM_CACHE</c> if set, else <c>.cache</c> in the
/// repository that the program was started in or built in, else the user's cache folder.
/// </summary>
public sealed class GuestCache
{
    private static readonly TimeSpan LockRetry = TimeSpan.FromMilliseconds(200);

    /// <summary>Uses the given folder, creating it on first use.</summary>
    public GuestCache(string root) => Root = Path.GetFullPath(root);

    /// <summary>The folder.</summary>
    public string Root { get; }

    /// <summary>The cache of this user and working folder.</summary>
    public static GuestCache Default => new(FindRoot());

    /// <summary>
    /// The folder of that name, made by <paramref name="fill"/> unless it is there. It appears whole or not at all, and only one
    /// process fills it at a time.
    /// </summary>
    /// <param name="name">Relative to <see cref="Root"/>, one segment.</param>
    /// <param name="fill">Gets an empty folder to put the content into.</param>
    /// <param name="cancellation">Gives up; nothing stays behind.</param>
    public async Task<string> GetOrAddAsync(string name, Func<string, Task> fill, CancellationToken cancellation)
    {
        var target = Path.Combine(Root, name);
        if (Directory.Exists(target))
            return target;
        Directory.CreateDirectory(Root);
        await using var held = await LockAsync(target + ".lock", cancellation).ConfigureAwait(false);
        if (Directory.Exists(target))
            return target;
        var draft = target + ".part";
        if (Directory.Exists(draft))
            Directory.Delete(draft, recursive: true);
        Directory.CreateDirectory(draft);
        try
        {
            await fill(draft).ConfigureAwait(false);
            Directory.Move(draft, target);
        }
        finally
        {
            if (Directory.Exists(draft))
                Directory.Delete(draft, recursive: true);
        }

        return target;
    }

    private static async Task<FileStream> LockAsync(string path, CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(path))
            {
                await Task.Delay(LockRetry, cancellation).ConfigureAwait(false);
            }
        }
    }

    private static string FindRoot()
    {
        if (Environment.GetEnvironmentVariable("VMM_CACHE") is { Length: > 0 } chosen)
            return chosen;
        foreach (var start in new[] { Directory.GetCurrentDirectory(), AppContext.BaseDirectory })
            for (var folder = new DirectoryInfo(start); folder is not null; folder = folder.Parent)
                if (File.Exists(Path.Combine(folder.FullName, "Vmm.sln")))
                    return Path.Combine(folder.FullName, ".cache");
        var caches = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        if (string.IsNullOrEmpty(caches))
            caches = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache");
        return Path.Combine(caches, "vmm");
    }
}
