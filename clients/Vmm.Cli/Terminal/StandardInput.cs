using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Vmm.Cli.Terminal;

/// <summary>
/// Standard input as raw bytes. <see cref="Console.OpenStandardInput()"/> reads a terminal in lines, which a guest's console must not.
/// </summary>
internal static class StandardInput
{
    private const int GetDescriptorFlags = 1; // F_GETFD
    private const int CloseOnExec = 1; // FD_CLOEXEC

    /// <summary>The stream, or null where the process was started with standard input closed.</summary>
    public static Stream? Open()
    {
        if (OperatingSystem.IsWindows())
            return Console.OpenStandardInput();
        // A descriptor that was closed at the start may have been given to a file of the runtime since: those are closed on exec,
        // what a parent passed on is not.
        var flags = fcntl(0, GetDescriptorFlags);
        if (flags < 0 || (flags & CloseOnExec) != 0)
            return null;
        try
        {
            return new FileStream(new SafeFileHandle(0, ownsHandle: false), FileAccess.Read, bufferSize: 0);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // A descriptor that cannot be read, as one opened for writing only: as good as closed.
            return null;
        }
    }

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int fcntl(int descriptor, int command);
}
