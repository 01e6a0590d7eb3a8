using System.Globalization;

namespace Vmm.Testing;

/// <summary>The compiler for a whole run of tests, whose guests do not choose one otherwise.</summary>
public static class TestTranslation
{
    private const string NativePrefix = "native:";

    /// <summary>
    /// <c>VMM_TEST_TRANSLATION</c>, behind its prefix: how often a trace is interpreted before it is compiled, with the processor waiting for the
    /// compiler; null where it is not set, and guests are interpreted. <c>vmmctl</c> has its own numbers, and does not wait.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is set to something else than a positive number, with or without <c>native:</c> before it.</exception>
    public static int? Threshold { get; } = Read() is not { Length: > 0 } text ? null
        : int.TryParse(Native ? text[NativePrefix.Length..] : text, NumberStyles.None, CultureInfo.InvariantCulture, out int threshold) && threshold > 0 ? threshold
        : throw new InvalidOperationException($"VMM_TEST_TRANSLATION is '{text}' and should be a positive number, or native: and a positive number.");

    /// <summary>Whether the prefix is there: native code of single traces instead of regions.</summary>
    public static bool Native => Read()?.StartsWith(NativePrefix, StringComparison.Ordinal) == true;

    private static string? Read() => Environment.GetEnvironmentVariable("VMM_TEST_TRANSLATION");
}
