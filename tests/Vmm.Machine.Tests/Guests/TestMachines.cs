using Vmm.Processor.Translation;
using Vmm.Testing;

namespace Vmm.Machine.Tests.Guests;

/// <summary>The machines of tests that do not choose an engine: interpreted, or compiled as VMM_TEST_TRANSLATION says.</summary>
internal static class TestMachines
{
    /// <summary>Their engine.</summary>
    public static ExecutionEngine Engine => TestTranslation.Threshold == null ? ExecutionEngine.Interpreter : ExecutionEngine.Auto;

    /// <summary>What makes them.</summary>
    public static MachineFactory Factory { get; } = new()
    {
        Translation = TestTranslation.Threshold is { } threshold ? new TranslationOptions { NativeThreshold = TestTranslation.Native ? threshold : 0, NativeHotThreshold = 0, Threshold = threshold, Synchronous = true } : new(),
    };
}
