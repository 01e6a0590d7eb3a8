using Vmm.Worker.Storage;

namespace Vmm.Worker.Snapshots;

/// <summary>The files of one snapshot.</summary>
/// <param name="Path">The folder, of the snapshot's uid.</param>
internal sealed record SnapshotFolder(string Path)
{
    /// <summary>What the engine writes and reads.</summary>
    public string Machine => System.IO.Path.Combine(Path, "machine");

    /// <summary>The copy of a disk, by its place in the spec.</summary>
    public string Disk(int index) => System.IO.Path.Combine(Path, $"disk{index}");

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
