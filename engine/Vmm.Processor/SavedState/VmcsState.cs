namespace Vmm.Processor.SavedState;

/// <summary>A VMCS.</summary>
public sealed record VmcsState
{
    /// <summary>The fields that are not zero, by their names in the manual.</summary>
    public required SortedDictionary<string, ulong> Fields { get; init; }

    /// <summary>The VMX-abort indicator; 0 for none.</summary>
    public uint AbortIndicator { get; init; }
}
