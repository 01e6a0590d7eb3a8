using System.ComponentModel;
using System.Runtime.InteropServices;
using System.Text;

namespace Vmm.Worker.Storage;

/// <summary>What POSIX offers and .NET does not: making a rename last, and telling a file from a pipe without opening it.</summary>
internal static class PosixFile
{
    private const int OpenReadOnlyDirectory = 0x10000 | 0x80000; // O_DIRECTORY | O_CLOEXEC on Linux x86-64
    private const int AtCurrentDirectory = -100;
    private const uint StatxType = 1;
    private const int StatxModeOffset = 28;
    private const int FileTypeMask = 0xF000;
    private const int RegularFile = 0x8000;

    /// <summary>Makes renames, creations and removals inside a folder last over a power failure.</summary>
    /// <exception cref="IOException">The file system refused.</exception>
    public static void FlushDirectory(string path)
    {
        if (!OperatingSystem.IsLinux())
            return;
        // O_DIRECTORY differs between architectures; without it a folder can be opened for reading just as well.
        int flags = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? OpenReadOnlyDirectory : 0x80000;
        int descriptor = Open(Terminated(path), flags);
        if (descriptor < 0)
            throw new IOException($"{path} cannot be opened: {LastError()}.");
        try
        {
            if (Fsync(descriptor) != 0)
                throw new IOException($"{path} cannot be flushed: {LastError()}.");
        }
        finally
        {
            _ = Close(descriptor);
        }
    }

    /// <summary>Whether the path, without following a last symbolic link, is an ordinary file; not a folder, pipe, socket or device.</summary>
    public static bool IsRegularFile(string path)
    {
        if (!OperatingSystem.IsLinux())
            return File.Exists(path);
        byte[] result = new byte[256];
        const int dontFollow = 0x100;
        if (Statx(AtCurrentDirectory, Terminated(path), dontFollow, StatxType, result) != 0)
            return false;
        return (BitConverter.ToUInt16(result, StatxModeOffset) & FileTypeMask) == RegularFile;
    }

    private static byte[] Terminated(string path) => [.. Encoding.UTF8.GetBytes(path), 0];

    private static string LastError() => new Win32Exception(Marshal.GetLastPInvokeError()).Message;

    [DllImport("libc", EntryPoint = "open", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Open(byte[] path, int flags);

    [DllImport("libc", EntryPoint = "fsync", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Fsync(int descriptor);

    [DllImport("libc", EntryPoint = "close", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Close(int descriptor);

    [DllImport("libc", EntryPoint = "statx", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Statx(int directory, byte[] path, int flags, uint mask, byte[] result);
}
