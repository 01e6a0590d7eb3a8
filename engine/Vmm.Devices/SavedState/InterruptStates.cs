namespace Vmm.Devices.SavedState;

/// <summary>An I/O APIC.</summary>
public sealed record IoApicState
{
    /// <summary>The redirection entries, with delivery status and remote IRR.</summary>
    public required ulong[] Entries { get; init; }

    /// <summary>The level of each input.</summary>
    public required uint Lines { get; init; }

    /// <summary>The register that the window shows.</summary>
    public required byte Select { get; init; }

    /// <summary>The identification register.</summary>
    public required byte Id { get; init; }
}

/// <summary>Two cascaded 8259A controllers.</summary>
public sealed record PicPairState
{
    /// <summary>The master.</summary>
    public required InterruptControllerState Master { get; init; }

    /// <summary>The slave.</summary>
    public required InterruptControllerState Slave { get; init; }

    /// <summary>The master's INTR output, as the processor was last told.</summary>
    public required bool Asserted { get; init; }
}

/// <summary>An 8259A, in the terms of its data sheet.</summary>
public sealed record InterruptControllerState
{
    /// <summary>The level of each input.</summary>
    public required byte Lines { get; init; }

    /// <summary>Requests that an edge has latched.</summary>
    public required byte Requested { get; init; }

    /// <summary>The in-service register.</summary>
    public required byte InService { get; init; }

    /// <summary>The interrupt mask register.</summary>
    public required byte Mask { get; init; }

    /// <summary>The edge/level control register.</summary>
    public required byte EdgeLevel { get; init; }

    /// <summary>Bits 7 to 3 of the vectors.</summary>
    public required byte VectorBase { get; init; }

    /// <summary>The input of the lowest priority.</summary>
    public required byte LowestPriority { get; init; }

    /// <summary>The initialization command word that is expected: 2 to 4, or 0 outside of an initialization.</summary>
    public required byte ExpectedWord { get; init; }

    /// <summary>ICW4 is coming.</summary>
    public required bool NeedsWord4 { get; init; }

    /// <summary>There is no cascade.</summary>
    public required bool Single { get; init; }

    /// <summary>All inputs are levels.</summary>
    public required bool LevelTriggered { get; init; }

    /// <summary>Automatic end of interrupt.</summary>
    public required bool AutoEnd { get; init; }

    /// <summary>Rotation in automatic end of interrupt.</summary>
    public required bool RotateOnAutoEnd { get; init; }

    /// <summary>Special mask mode.</summary>
    public required bool SpecialMask { get; init; }

    /// <summary>Special fully nested mode.</summary>
    public required bool SpecialFullyNested { get; init; }

    /// <summary>The next read is a poll.</summary>
    public required bool Poll { get; init; }

    /// <summary>A read of the command port gives the in-service register.</summary>
    public required bool ReadInService { get; init; }
}
