using Vmm.Machine.Snapshots;

namespace Vmm.Machine;

/// <content>Snapshots.</content>
public sealed partial class Machine
{
    /// <inheritdoc/>
    public SnapshotInfo SaveSnapshot(string directory) => throw new NotSupportedException("Snapshots are not saved yet.");
}
