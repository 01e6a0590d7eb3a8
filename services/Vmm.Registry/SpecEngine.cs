using Vmm.V1;

namespace Vmm.Registry;

/// <summary>What executes a VM.</summary>
public static class SpecEngine
{
    /// <summary>As its spec says; one that was stored without saying so is interpreted, as it was when that was all there was.</summary>
    public static ExecutionEngine Of(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return spec.Engine == ExecutionEngine.Unspecified ? ExecutionEngine.Interpreter : spec.Engine;
    }
}
