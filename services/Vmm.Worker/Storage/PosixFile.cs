using System.ComponentModel;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Vmm.Worker.Storage;

/// <summary>What POSIX offers and .NET does not: making a rename last, telling a file from a pipe without opening it, sharing blocks.</summary>
internal static class PosixFile
{
    private const int OpenReadOnlyDirectory = 0x10000 | 0x80000; // O_DIRECTORY | O_CLOEXEC on Linux x86-64
    private const int AtCurrentDirectory = -100;
    private const uint StatxType = 1;
    private const uint StatxBlocks = 0x400;
    private const int StatxModeOffset = 28;
    private const int StatxBlocksOffset = 48;
    private const int BlockBytes = 512;
    private const nuint Clone = 0x4004_9409; // FICLONE
    private const int CloseOnExecute = 0x80000;
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

    /// <summary>Bytes of the disk that a file takes; its length where the host does not say.</summary>
    public static long AllocatedBytes(string path)
    {
        byte[] result = new byte[256];
        if (OperatingSystem.IsLinux() && Statx(AtCurrentDirectory, Terminated(path), 0, StatxBlocks, result) == 0)
            return BitConverter.ToInt64(result, StatxBlocksOffset) * BlockBytes;
        return new FileInfo(path).Length;
    }

    /// <summary>Opens a file for reading whatever locks .NET has on it: for a disk whose machine stands still.</summary>
    /// <exception cref="IOException">It cannot be opened.</exception>
    public static SafeFileHandle OpenRegardlessOfLocks(string path)
    {
        if (!OperatingSystem.IsLinux())
            return File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        int descriptor = Open(Terminated(path), CloseOnExecute);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException($"{path} cannot be opened: {LastError()}.");
    }

    /// <summary>Makes a file share the blocks of another, copied on write, where the file system can.</summary>
    public static bool TryClone(SafeFileHandle source, SafeFileHandle target) =>
        OperatingSystem.IsLinux() && Ioctl((int)target.DangerousGetHandle(), Clone, (int)source.DangerousGetHandle()) == 0;

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

    [DllImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Ioctl(int descriptor, nuint request, int argument);
}
