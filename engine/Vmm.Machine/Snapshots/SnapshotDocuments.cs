using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Snapshots;

/// <summary>What a machine can be made from: one that was saved, or that comes from another process.</summary>
internal interface ISavedMachine
{
    /// <summary>What it is of.</summary>
    SnapshotManifest Manifest { get; }

    /// <summary>Everything but RAM.</summary>
    MachineState State { get; }

    /// <summary>RAM that begins as the saved one's. The caller's, who disposes of it.</summary>
    PhysicalMemory TakeMemory();
}

/// <summary>A saved machine without its RAM, as its manifest and its state are written: see README.md beside this file.</summary>
/// <param name="Manifest">What <see cref="SnapshotFormat.ManifestFile"/> has.</param>
/// <param name="State">What <see cref="SnapshotFormat.StateFile"/> has.</param>
public sealed record SavedMachine(ReadOnlyMemory<byte> Manifest, ReadOnlyMemory<byte> State)
{
    /// <summary>The longest manifest that is read, in bytes.</summary>
    public const int LongestManifest = SnapshotDocuments.LongestManifest;

    /// <summary>The longest state that is read, in bytes.</summary>
    public const int LongestState = SnapshotDocuments.LongestState;
}

/// <summary>The JSON of a manifest and a state, which is read without being trusted.</summary>
internal static class SnapshotDocuments
{
    /// <summary>The longest state that is read: far beyond any that is written, and short of what a process cannot hold.</summary>
    public const int LongestState = 256 << 20;

    /// <summary>The longest manifest that is read.</summary>
    public const int LongestManifest = 1 << 20;

    /// <summary>Writes both.</summary>
    /// <param name="manifest">Everything but the digest of the state, which is put in.</param>
    /// <param name="state">Everything but RAM.</param>
    /// <exception cref="IOException">The state is longer than what is read again.</exception>
    public static SavedMachine Write(ref SnapshotManifest manifest, MachineState state)
    {
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(state, SnapshotJson.Strict.MachineState);
        if (json.LongLength > LongestState)
            throw new IOException($"The state has {json.LongLength} bytes, and no more than {LongestState} are read again.");
        manifest = manifest with { StateSha256 = Digest(json) };
        return new(JsonSerializer.SerializeToUtf8Bytes(manifest, SnapshotJson.Strict.SnapshotManifest), json);
    }

    /// <summary>Reads both.</summary>
    /// <param name="manifest">The manifest.</param>
    /// <param name="state">Gives the state, once the manifest is one of this version.</param>
    /// <exception cref="InvalidSnapshotException">They are malformed, of another version, or do not belong together.</exception>
    public static (SnapshotManifest Manifest, MachineState State) Read(ReadOnlySpan<byte> manifest, Func<byte[]> state)
    {
        CheckVersion(manifest);
        SnapshotManifest parsed = Parse(manifest, SnapshotFormat.ManifestFile, SnapshotJson.Strict.SnapshotManifest);
        byte[] json = state();
        if (parsed.StateSha256 != Digest(json))
            throw new InvalidSnapshotException($"{SnapshotFormat.StateFile} is not the file that {SnapshotFormat.ManifestFile} was written for.");
        return (parsed, Parse(json, SnapshotFormat.StateFile, SnapshotJson.Strict.MachineState));
    }

    private static string Digest(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    // Before anything else is looked at, which another version may have otherwise.
    private static void CheckVersion(ReadOnlySpan<byte> manifest)
    {
        int version;
        try
        {
            var reader = new Utf8JsonReader(manifest);
            using JsonDocument document = JsonDocument.ParseValue(ref reader);
            version = document.RootElement.GetProperty("formatVersion").GetInt32();
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InvalidSnapshotException($"{SnapshotFormat.ManifestFile} has no version of the format.", e);
        }
        if (version != SnapshotFormat.Version)
            throw new InvalidSnapshotException($"The snapshot has version {version} of the format, and this engine reads version {SnapshotFormat.Version}.");
    }

    private static T Parse<T>(ReadOnlySpan<byte> json, string name, JsonTypeInfo<T> type)
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
