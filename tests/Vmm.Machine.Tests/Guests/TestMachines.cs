using Vmm.Testing;

namespace Vmm.Machine.Tests.Guests;

/// <summary>The machines of tests that do not choose an engine: interpreted, or compiled as VMM_TEST_TRANSLATION says.</summary>
internal static class TestMachines
{
    /// <summary>Their engine.</summary>
    public static ExecutionEngine Engine { get; } = EngineOf(null);

    /// <summary>What makes them.</summary>
    public static MachineFactory Factory { get; } = Of(null);

    /// <summary>The engine of a tier; with none, of those that do not choose.</summary>
    public static ExecutionEngine EngineOf(Tier? tier) => TestTranslation.Of(tier) == null ? ExecutionEngine.Interpreter : ExecutionEngine.Auto;

    /// <summary>What makes a tier's machines; with none, those that do not choose.</summary>
    public static MachineFactory Of(Tier? tier) => new() { Translation = TestTranslation.Of(tier) ?? new() };
}
