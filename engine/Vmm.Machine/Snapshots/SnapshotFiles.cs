using System.Security.Cryptography;
using System.Text.Json;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;

namespace Vmm.Machine.Snapshots;

/// <summary>Writing a snapshot's files, and reading them without trusting them.</summary>
internal sealed class SnapshotFiles : IDisposable
{
    /// <summary>The longest state that is read: far beyond any that is written, and short of what a process cannot hold.</summary>
    private const long LongestState = 256 << 20;
    private const long LongestManifest = 1 << 20;

    private readonly FileStream _memory;

    private SnapshotFiles(SnapshotManifest manifest, MachineState state, FileStream memory)
    {
        Manifest = manifest;
        State = state;
        _memory = memory;
    }

    /// <summary>What the snapshot is of.</summary>
    public SnapshotManifest Manifest { get; }

    /// <summary>Everything but RAM.</summary>
    public MachineState State { get; }

    /// <summary>Writes a snapshot, and has the host's disk keep it.</summary>
    /// <param name="directory">An existing, empty directory.</param>
    /// <param name="manifest">Everything but the digest and the memory stored, which are put in.</param>
    /// <param name="state">Everything but RAM.</param>
    /// <param name="memory">RAM.</param>
    /// <returns>The manifest as written.</returns>
    /// <exception cref="IOException">A file cannot be written, or the directory is not empty.</exception>
    public static SnapshotManifest Write(string directory, SnapshotManifest manifest, MachineState state, PhysicalMemory memory)
    {
        try
        {
            if (Directory.EnumerateFileSystemEntries(directory).Any())
                throw new IOException($"'{directory}' is not empty.");
            ulong stored;
            using (FileStream file = Create(directory, SnapshotFormat.MemoryFile))
            {
                stored = memory.Save(file.SafeFileHandle);
                file.Flush(flushToDisk: true);
            }
            return WriteState(directory, manifest with { MemoryBytesStored = stored }, state);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException(e.Message, e);
        }
    }

    /// <summary>Writes what makes a snapshot of a directory in which the memory already is.</summary>
    /// <param name="directory">The directory.</param>
    /// <param name="manifest">Everything but the digest, which is put in.</param>
    /// <param name="state">Everything but RAM.</param>
    /// <returns>The manifest as written.</returns>
    /// <exception cref="IOException">A file cannot be written.</exception>
    public static SnapshotManifest WriteState(string directory, SnapshotManifest manifest, MachineState state)
    {
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(state, SnapshotJson.Strict.MachineState);
        if (json.LongLength > LongestState)
            throw new IOException($"The state has {json.LongLength} bytes, and no more than {LongestState} are read again.");
        Write(directory, SnapshotFormat.StateFile, json);
        manifest = manifest with { StateSha256 = Digest(json) };
        Write(directory, SnapshotFormat.ManifestFile, JsonSerializer.SerializeToUtf8Bytes(manifest, SnapshotJson.Strict.SnapshotManifest));
        return manifest;
    }

    /// <summary>Reads a snapshot, but for its RAM.</summary>
    /// <exception cref="InvalidSnapshotException">It is none, or not whole.</exception>
    public static SnapshotFiles Read(string directory)
    {
        FileStream? memory = null;
        try
        {
            byte[] json = ReadWhole(directory, SnapshotFormat.ManifestFile, LongestManifest);
            CheckVersion(json);
            SnapshotManifest manifest = Parse(json, SnapshotFormat.ManifestFile, SnapshotJson.Strict.SnapshotManifest);
            json = ReadWhole(directory, SnapshotFormat.StateFile, LongestState);
            if (manifest.StateSha256 != Digest(json))
                throw new InvalidSnapshotException($"{SnapshotFormat.StateFile} is not the file that {SnapshotFormat.ManifestFile} was written for.");
            MachineState state = Parse(json, SnapshotFormat.StateFile, SnapshotJson.Strict.MachineState);
            memory = new FileStream(Path.Combine(directory, SnapshotFormat.MemoryFile), FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            return new SnapshotFiles(manifest, state, memory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            memory?.Dispose();
            throw new InvalidSnapshotException($"The snapshot cannot be read: {e.Message}", e);
        }
    }

    /// <summary>RAM that begins as the snapshot's.</summary>
    /// <exception cref="InvalidStateException">The file has another length.</exception>
    public PhysicalMemory MapMemory() => new(_memory, Manifest.MemoryBytes);

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();

    private static string Digest(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static FileStream Create(string directory, string name) =>
        new(Path.Combine(directory, name), FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 0);

    private static void Write(string directory, string name, ReadOnlySpan<byte> bytes)
    {
        using FileStream file = Create(directory, name);
        file.Write(bytes);
        file.Flush(flushToDisk: true);
    }

    private static byte[] ReadWhole(string directory, string name, long longest)
    {
        using var file = new FileStream(Path.Combine(directory, name), FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
        if (file.Length > longest)
            throw new InvalidSnapshotException($"{name} has {file.Length} bytes; at most {longest} are read.");
        byte[] bytes = new byte[file.Length];
        file.ReadExactly(bytes);
        return bytes;
    }

    // Before anything else is looked at, which another version may have otherwise.
    private static void CheckVersion(byte[] manifest)
    {
        int version;
        try
        {
            using JsonDocument document = JsonDocument.Parse(manifest);
            version = document.RootElement.GetProperty("formatVersion").GetInt32();
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InvalidSnapshotException($"{SnapshotFormat.ManifestFile} has no version of the format.", e);
        }
        if (version != SnapshotFormat.Version)
            throw new InvalidSnapshotException($"The snapshot has version {version} of the format, and this engine reads version {SnapshotFormat.Version}.");
    }

    private static T Parse<T>(byte[] json, string name, System.Text.Json.Serialization.Metadata.JsonTypeInfo<T> type)
    {
        try
        {
            return JsonSerializer.Deserialize(json, type) ?? throw new InvalidSnapshotException($"{name} is null.");
        }
        catch (JsonException e)
        {
            throw new InvalidSnapshotException($"{name}: {e.Message}", e);
        }
    }
}
