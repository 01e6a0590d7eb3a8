namespace Vmm.Testing;

/// <summary>The second tier for a whole run of tests, whose guests do not choose one otherwise.</summary>
public static class TestTranslation
{
    /// <summary>
    /// <c>VMM_TEST_TRANSLATION</c>: how often a trace is interpreted before it is compiled, with the processor waiting for the compiler; null where
    /// it is not set, and guests are interpreted. <c>vmmctl</c> has its own number, and does not wait.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is set to something else than a positive number.</exception>
    public static int? Threshold { get; } = Environment.GetEnvironmentVariable("VMM_TEST_TRANSLATION") is not { Length: > 0 } text ? null
        : int.TryParse(text, out int threshold) && threshold > 0 ? threshold
        : throw new InvalidOperationException($"VMM_TEST_TRANSLATION is '{text}' and should be a positive number.");
}
