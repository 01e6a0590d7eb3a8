namespace Vmm.Testing;

/// <summary>What executes the guests of a test.</summary>
public enum Tier
{
    /// <summary>The interpreter alone.</summary>
    Interpreter,

    /// <summary>Regions, compiled by the .NET JIT.</summary>
    Regions,

    /// <summary>Native code of single traces; regions on a host for which it cannot be generated.</summary>
    NativeCode,

    /// <summary>Native code of single traces, and of regions where that is executed; regions of the JIT on a host for which it cannot be generated.</summary>
    NativeRegions,
}
