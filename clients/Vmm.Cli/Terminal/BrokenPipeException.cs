namespace Vmm.Cli.Terminal;

/// <summary>Whoever read standard output has gone away.</summary>
public sealed class BrokenPipeException(Exception inner) : Exception("Standard output was closed by its reader.", inner)
{
    private const int BrokenPipe = 32; // EPIPE

    /// <summary>Whether a failed write says so.</summary>
    public static bool Is(IOException failure) => (failure.HResult & 0xFFFF) == BrokenPipe;
}
