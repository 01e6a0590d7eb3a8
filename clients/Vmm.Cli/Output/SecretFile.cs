using Vmm.Cli.Sessions;

namespace Vmm.Cli.Output;

/// <summary>
/// A new file for a secret, which only its owner can read, from the first moment on. It is there before the secret is made, so that none is lost for want of a
/// place; where none is written, it goes again.
/// </summary>
internal sealed class SecretFile : IAsyncDisposable
{
    private readonly FileStream _file;
    private bool _isWritten;

    private SecretFile(FileStream file) => _file = file;

    /// <summary>Makes the file.</summary>
    /// <exception cref="UsageException">There is one already, or there can be none.</exception>
    public static SecretFile Create(string path)
    {
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, Share = FileShare.None };
        if (!OperatingSystem.IsWindows())
            options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        try
        {
            return new SecretFile(new FileStream(path, options));
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new UsageException(Path.Exists(path) ? $"--out: '{path}' exists already, and is not overwritten." : $"--out: '{path}' cannot be made: {failure.Message}");
        }
    }

    /// <summary>Writes the secret, as a line, to last.</summary>
    /// <exception cref="IOException">The disk is full.</exception>
    public async Task WriteAsync(string secret, CancellationToken cancellation)
    {
        await using (var text = new StreamWriter(_file, leaveOpen: true))
            await text.WriteAsync($"{secret}\n".AsMemory(), cancellation).ConfigureAwait(false);
        _file.Flush(flushToDisk: true);
        _isWritten = true;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _file.DisposeAsync().ConfigureAwait(false);
        if (!_isWritten)
            File.Delete(_file.Name);
    }
}
