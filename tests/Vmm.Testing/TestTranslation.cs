using System.Globalization;
using Vmm.Processor.Translation;

namespace Vmm.Testing;

/// <summary>The compiler of the guests of tests.</summary>
public static class TestTranslation
{
    private static readonly (string Prefix, Tier Tier)[] Tiers = [("native:", Tier.NativeCode), ("native-regions:", Tier.NativeRegions), ("", Tier.Regions)];

    /// <summary>
    /// What <c>VMM_TEST_TRANSLATION</c> says for guests that choose no tier: how often a trace is interpreted before it is compiled, with
    /// <c>native:</c> before it for native code of single traces, or <c>native-regions:</c> for that of regions too, instead of regions of the JIT. Null where
    /// it is not set, and those guests are interpreted.
    /// <c>vmmctl</c> has its own numbers, and does not wait for the compiler.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is set to something else than a positive number, with or without one of these before it.</exception>
    public static TranslationOptions? Default { get; } = Read(Environment.GetEnvironmentVariable("VMM_TEST_TRANSLATION"));

    /// <summary>
    /// A tier's compiler, which has each trace compiled before its first execution, with the processor waiting for it; null for the interpreter.
    /// With no tier, <see cref="Default"/>.
    /// </summary>
    public static TranslationOptions? Of(Tier? tier) => tier switch
    {
        null => Default,
        Tier.Interpreter => null,
        { } compiled => Compiled(compiled, 1),
    };

    private static TranslationOptions? Read(string? text)
    {
        if (string.IsNullOrEmpty(text))
            return null;
        (string prefix, Tier tier) = Tiers.First(each => text.StartsWith(each.Prefix, StringComparison.Ordinal));
        return int.TryParse(text[prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out int threshold) && threshold > 0
            ? Compiled(tier, threshold)
            : throw new InvalidOperationException($"VMM_TEST_TRANSLATION is '{text}' and should be a positive number, with native: or native-regions: before it or not.");
    }

    private static TranslationOptions Compiled(Tier tier, int threshold) => new()
    {
        NativeThreshold = tier == Tier.Regions ? 0 : threshold,
        NativeRegionThreshold = tier == Tier.NativeRegions ? threshold : 0,
        NativeHotThreshold = 0,
        Threshold = threshold,
        Synchronous = true,
        EmittedPerHandler = 0,
        EmittedPerHandlerInRegion = 0,
    };
}
