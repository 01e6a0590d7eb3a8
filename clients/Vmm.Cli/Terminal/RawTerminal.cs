using System.Runtime.InteropServices;

namespace Vmm.Cli.Terminal;

/// <summary>
/// Puts the terminal of standard input into raw mode, in which every key, Ctrl-C included, reaches the guest; disposing restores it.
/// </summary>
internal sealed class RawTerminal : IDisposable
{
    // Larger than struct termios of any system that .NET runs on; only libc looks inside.
    private const int TermiosBytes = 256;
    private const int Now = 0; // TCSANOW

    private readonly byte[] _saved;

    private RawTerminal(byte[] saved) => _saved = saved;

    /// <summary>Raw mode, or null where standard input has none to enter.</summary>
    public static RawTerminal? Enter()
    {
        if (OperatingSystem.IsWindows())
            return null;
        var settings = new byte[TermiosBytes];
        if (tcgetattr(0, settings) != 0)
            return null;
        var saved = (byte[])settings.Clone();
        cfmakeraw(settings);
        return tcsetattr(0, Now, settings) == 0 ? new RawTerminal(saved) : null;
    }

    /// <inheritdoc/>
    public void Dispose() => _ = tcsetattr(0, Now, _saved);

    [DllImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int tcgetattr(int descriptor, byte[] settings);

    [DllImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int tcsetattr(int descriptor, int when, byte[] settings);

    [DllImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern void cfmakeraw(byte[] settings);
}
