namespace Vmm.Machine.Snapshots;

/// <summary>A snapshot that was written.</summary>
/// <param name="FormatVersion">The version of its format: <see cref="SnapshotFormat.Version"/>.</param>
/// <param name="InstructionsRetired">Instructions that all vCPUs together had executed.</param>
/// <param name="Nanoseconds">The machine's time.</param>
/// <param name="MemoryBytes">RAM of the machine, in bytes.</param>
/// <param name="MemoryBytesStored">How much of it is not zero and so takes room on the disk, in whole pages.</param>
public sealed record SnapshotInfo(int FormatVersion, ulong InstructionsRetired, ulong Nanoseconds, ulong MemoryBytes, ulong MemoryBytesStored);

/// <summary>The files of a snapshot, in a directory of its own. Their contents are described in README.md beside this file.</summary>
public static class SnapshotFormat
{
    /// <summary>The version that is written, and the only one that is read.</summary>
    public const int Version = 1;

    /// <summary>What the snapshot is of, and the digest of the state; written last, so a directory without it is no snapshot.</summary>
    public const string ManifestFile = "manifest.json";

    /// <summary>Everything but RAM.</summary>
    public const string StateFile = "state.json";

    /// <summary>RAM, as long as the machine's; pages of zeros are holes.</summary>
    public const string MemoryFile = "memory";
}

/// <summary>
/// A snapshot that cannot be restored: files missing, malformed or truncated, of another version, or of a machine of another spec. The
/// message is for the user.
/// </summary>
public sealed class InvalidSnapshotException : Exception
{
    /// <summary>Creates it.</summary>
    /// <param name="message">What is wrong, in sentences.</param>
    /// <param name="cause">What found it, or null.</param>
    public InvalidSnapshotException(string message, Exception? cause = null) : base(message, cause)
    {
    }
}
