using System.Diagnostics;

namespace Vmm.Registry;

/// <summary>Spans of what is done for the whole fleet. Catalogued in the README of <c>services</c>; without a listener nothing is made.</summary>
public static class RegistryTraces
{
    /// <summary>The source's name.</summary>
    public const string SourceName = "Vmm.Registry";

    /// <summary>A new VM gets its worker.</summary>
    public const string Placement = "placement";

    /// <summary>A placement waits for those before it.</summary>
    public const string Queue = "placement.queue";

    /// <summary>Placements that waited together are made.</summary>
    public const string Batch = "placement.batch";

    /// <summary>The source.</summary>
    public static ActivitySource Source { get; } = new(SourceName);
}
