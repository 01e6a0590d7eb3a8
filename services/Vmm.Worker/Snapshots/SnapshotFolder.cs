using System.Globalization;
using Vmm.Machine.Snapshots;
using Vmm.Worker.Storage;

namespace Vmm.Worker.Snapshots;

/// <summary>The files of one snapshot.</summary>
/// <param name="Path">The folder, of the snapshot's uid.</param>
internal sealed record SnapshotFolder(string Path)
{
    private const string DiskPrefix = "disk";

    /// <summary>What the engine writes and reads.</summary>
    public string Machine => System.IO.Path.Combine(Path, "machine");

    /// <summary>The list of digests of the other files: see <see cref="SnapshotContents"/>.</summary>
    public string Content => System.IO.Path.Combine(Path, "content");

    /// <summary>The copy of a disk, by its place in the spec.</summary>
    public string Disk(int index) => System.IO.Path.Combine(Path, string.Create(CultureInfo.InvariantCulture, $"{DiskPrefix}{index}"));

    /// <summary>The names of the files that make the snapshot, as <see cref="PathOf"/> takes them, in order.</summary>
    public IReadOnlyList<string> FileNames() =>
    [
        .. Directory.EnumerateFiles(Machine).Select(path => System.IO.Path.GetFileName(path)).Where(IsOfMachine).Order(StringComparer.Ordinal),
        .. Directory.EnumerateFiles(Path).Select(path => System.IO.Path.GetFileName(path)).Where(name => IsDisk(name, out _)).Order(StringComparer.Ordinal),
    ];

    /// <summary>Where a file is.</summary>
    /// <exception cref="ArgumentException">No file of a snapshot has such a name.</exception>
    public string PathOf(string name) => name switch
    {
        _ when IsOfMachine(name) => System.IO.Path.Combine(Machine, name),
        _ when IsDisk(name, out int index) => Disk(index),
        _ => throw new ArgumentException($"A snapshot has no file {name}.", nameof(name)),
    };

    /// <summary>Whether a name is that of a disk's copy.</summary>
    public static bool IsDisk(string name, out int index)
    {
        index = -1;
        return name.StartsWith(DiskPrefix, StringComparison.Ordinal)
            && int.TryParse(name.AsSpan(DiskPrefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out index)
            && name == string.Create(CultureInfo.InvariantCulture, $"{DiskPrefix}{index}");
    }

    private static bool IsOfMachine(string name) => name is SnapshotFormat.ManifestFile or SnapshotFormat.StateFile or SnapshotFormat.MemoryFile;

    /// <summary>Makes the folder, empty.</summary>
    /// <exception cref="IOException">The host's disk does not take it.</exception>
    public void Create()
    {
        WorkerStore.CreatePrivateDirectory(Path);
        WorkerStore.CreatePrivateDirectory(Machine);
    }

    /// <summary>Makes everything in it last over a power failure.</summary>
    /// <returns>Bytes of the host's disk that it takes.</returns>
    /// <exception cref="IOException">The host's disk is full, most likely.</exception>
    public long Flush()
    {
        long bytes = 0;
        foreach (string path in Directory.EnumerateFiles(Path, "*", SearchOption.AllDirectories))
        {
            using (Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite))
                RandomAccess.FlushToDisk(file);
            bytes += PosixFile.AllocatedBytes(path);
        }

        PosixFile.FlushDirectory(Machine);
        PosixFile.FlushDirectory(Path);
        return bytes;
    }

    /// <summary>Removes it. Memory that machines have mapped stays with them.</summary>
    /// <exception cref="IOException">It could not be removed.</exception>
    public void Remove()
    {
        if (Directory.Exists(Path))
            Directory.Delete(Path, recursive: true);
    }
}
