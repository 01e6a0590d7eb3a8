using System.Globalization;
using Vmm.Processor.Translation;

namespace Vmm.Testing;

/// <summary>The compiler of the guests of tests.</summary>
public static class TestTranslation
{
    private const string NativePrefix = "native:";

    /// <summary>
    /// What <c>VMM_TEST_TRANSLATION</c> says for guests that choose no tier: how often a trace is interpreted before it is compiled, with
    /// <c>native:</c> before it for native code of single traces instead of regions. Null where it is not set, and those guests are interpreted.
    /// <c>vmmctl</c> has its own numbers, and does not wait for the compiler.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is set to something else than a positive number, with or without <c>native:</c> before it.</exception>
    public static TranslationOptions? Default { get; } = Read(Environment.GetEnvironmentVariable("VMM_TEST_TRANSLATION"));

    /// <summary>
    /// A tier's compiler, which has each trace compiled before its first execution, with the processor waiting for it; null for the interpreter.
    /// With no tier, <see cref="Default"/>.
    /// </summary>
    public static TranslationOptions? Of(Tier? tier) => tier switch
    {
        null => Default,
        Tier.Interpreter => null,
        _ => Compiled(tier == Tier.NativeCode, 1),
    };

    private static TranslationOptions? Read(string? text)
    {
        if (string.IsNullOrEmpty(text))
            return null;
        bool native = text.StartsWith(NativePrefix, StringComparison.Ordinal);
        return int.TryParse(native ? text[NativePrefix.Length..] : text, NumberStyles.None, CultureInfo.InvariantCulture, out int threshold) && threshold > 0
            ? Compiled(native, threshold)
            : throw new InvalidOperationException($"VMM_TEST_TRANSLATION is '{text}' and should be a positive number, or native: and a positive number.");
    }

    private static TranslationOptions Compiled(bool native, int threshold) =>
        new() { NativeThreshold = native ? threshold : 0, NativeHotThreshold = 0, Threshold = threshold, Synchronous = true, EmittedPerHandler = 0 };
}
