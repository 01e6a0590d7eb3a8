using System.Collections.Concurrent;

namespace Vmm.Machine.Boot;

/// <summary>
/// The contents of files that machines boot. fw_cfg offers them as long as a machine lives, and many machines boot the same ones: those
/// of the same file, as long as it has not been written to, have one copy between them, which goes with the last of them. Thread-safe.
/// </summary>
internal static class BootFiles
{
    private static readonly ConcurrentDictionary<Version, WeakReference<byte[]>> Contents = new();

    /// <summary>A file's content, not to be changed.</summary>
    /// <exception cref="IOException">It cannot be read, or is longer than an array can be.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be read.</exception>
    public static byte[] Read(string path)
    {
        using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
        long length = file.Length;
        if (length > Array.MaxLength)
            throw new IOException($"it has {length} bytes, and at most {Array.MaxLength} can be loaded.");
        var version = new Version(Path.GetFullPath(path), length, File.GetLastWriteTimeUtc(file.SafeFileHandle));
        if (Contents.TryGetValue(version, out WeakReference<byte[]>? shared) && shared.TryGetTarget(out byte[]? content))
            return content;
        content = GC.AllocateUninitializedArray<byte>((int)length);
        file.ReadExactly(content);
        // What was written while it was read is not of this version.
        if (File.GetLastWriteTimeUtc(file.SafeFileHandle) != version.Written)
            return content;
        foreach ((Version other, WeakReference<byte[]> entry) in Contents)
            if (!entry.TryGetTarget(out _))
                Contents.TryRemove(new(other, entry));
        Contents[version] = new WeakReference<byte[]>(content);
        return content;
    }

    private readonly record struct Version(string Path, long Length, DateTime Written);
}
