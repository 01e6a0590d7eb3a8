using Vmm.Processor.Translation;
using Vmm.Testing;

namespace Vmm.Hypervisor.Tests;

/// <summary>How the code of these tests' guests is compiled.</summary>
internal static class SecondTier
{
    /// <summary>As VMM_TEST_TRANSLATION says; null, where it is not set, for interpreted guests.</summary>
    public static TranslationOptions? Options { get; } = TestTranslation.Threshold is { } threshold ? new() { NativeThreshold = TestTranslation.Native ? threshold : 0, NativeHotThreshold = 0, Threshold = threshold, Synchronous = true } : null;
}
