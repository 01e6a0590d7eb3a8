namespace Vmm.Devices.SavedState;

/// <summary>The root of a PCI bus.</summary>
public sealed record PciHostState
{
    /// <summary>The configuration address register.</summary>
    public required uint Address { get; init; }

    /// <summary>The functions by slot: as many as there are slots, null for an empty one.</summary>
    public required PciFunctionState?[] Slots { get; init; }
}

/// <summary>A function of a PCI device.</summary>
public sealed record PciFunctionState
{
    /// <summary>Its 256 bytes of configuration space, from which the places of its memory windows follow.</summary>
    public required byte[] Configuration { get; init; }

    /// <summary>The function wants its interrupt pin asserted.</summary>
    public required bool InterruptWanted { get; init; }

    /// <summary>What a virtio device has more; null for another one.</summary>
    public required VirtioState? Virtio { get; init; }
}

/// <summary>A table of message-signalled interrupts.</summary>
public sealed record MessageTableState
{
    /// <summary>The table, 16 bytes for each vector.</summary>
    public required byte[] Table { get; init; }

    /// <summary>The pending bits.</summary>
    public required ulong Pending { get; init; }

    /// <summary>MSI-X is on.</summary>
    public required bool Enabled { get; init; }

    /// <summary>All vectors are masked.</summary>
    public required bool FunctionMasked { get; init; }
}

/// <summary>A virtio device on PCI.</summary>
public sealed record VirtioState
{
    /// <summary>Which half of the device's features is shown.</summary>
    public required uint DeviceFeatureSelect { get; init; }

    /// <summary>Which half of the driver's features is shown.</summary>
    public required uint DriverFeatureSelect { get; init; }

    /// <summary>The features that the driver took.</summary>
    public required ulong DriverFeatures { get; init; }

    /// <summary>The vector of changes of the configuration.</summary>
    public required ushort ConfigurationVector { get; init; }

    /// <summary>The queue that is shown.</summary>
    public required ushort QueueSelect { get; init; }

    /// <summary>The device status.</summary>
    public required byte Status { get; init; }

    /// <summary>The interrupt status.</summary>
    public required byte InterruptStatus { get; init; }

    /// <summary>MSI-X.</summary>
    public required MessageTableState Messages { get; init; }

    /// <summary>The queues.</summary>
    public required VirtioRingState[] Rings { get; init; }

    /// <summary>The vector of each queue.</summary>
    public required ushort[] Vectors { get; init; }

    /// <summary>A console's bytes that wait for the guest; null for another device.</summary>
    public required byte[]? Input { get; init; }

    /// <summary>Whether a console refused input since the queue was last half empty.</summary>
    public required bool FellShort { get; init; }
}

/// <summary>A split virtqueue, seen from the device.</summary>
public sealed record VirtioRingState
{
    /// <summary>Entries.</summary>
    public required ushort Size { get; init; }

    /// <summary>The driver has turned it on.</summary>
    public required bool Enabled { get; init; }

    /// <summary>The descriptor table.</summary>
    public required ulong DescriptorTable { get; init; }

    /// <summary>The available ring.</summary>
    public required ulong AvailableRing { get; init; }

    /// <summary>The used ring.</summary>
    public required ulong UsedRing { get; init; }

    /// <summary>Event indices were negotiated.</summary>
    public required bool UsesEventIndex { get; init; }

    /// <summary>Indirect descriptors were negotiated.</summary>
    public required bool AllowsIndirect { get; init; }

    /// <summary>The next entry of the available ring.</summary>
    public required ushort NextAvailable { get; init; }

    /// <summary>The next entry of the used ring.</summary>
    public required ushort NextUsed { get; init; }

    /// <summary>The used index at the last interrupt.</summary>
    public required ushort SignalledUsed { get; init; }

    /// <summary>There has been one.</summary>
    public required bool SignalledIsValid { get; init; }
}
