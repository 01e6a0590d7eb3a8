using System.Globalization;
using OpenTelemetry.Trace;

namespace Vmm.Server;

/// <summary>
/// Which traces are recorded, by the standard variables <c>OTEL_TRACES_SAMPLER</c> and <c>OTEL_TRACES_SAMPLER_ARG</c> (OpenTelemetry, SDK
/// environment variables, General SDK configuration). The SDK itself records everything where it does not understand them; a name with a slip in it would
/// then cost what the operator wanted to save.
/// </summary>
public static class TraceSampler
{
    private const string Variable = "OTEL_TRACES_SAMPLER", Argument = "OTEL_TRACES_SAMPLER_ARG";

    /// <summary>The sampler that is asked for; where none is, whatever a caller has recorded, and all that has no caller.</summary>
    /// <param name="environment">The environment's variables.</param>
    /// <exception cref="ArgumentException">A variable has no value that could be used; the message names it.</exception>
    public static Sampler From(Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        return environment(Variable) switch
        {
            null or "" or "parentbased_always_on" => new ParentBasedSampler(new AlwaysOnSampler()),
            "parentbased_always_off" => new ParentBasedSampler(new AlwaysOffSampler()),
            "parentbased_traceidratio" => new ParentBasedSampler(new TraceIdRatioBasedSampler(RatioOf(environment))),
            "always_on" => new AlwaysOnSampler(),
            "always_off" => new AlwaysOffSampler(),
            "traceidratio" => new TraceIdRatioBasedSampler(RatioOf(environment)),
            { } other => throw new ArgumentException($"{Variable} is '{other}'; always_on, always_off, traceidratio, or one of these with parentbased_ before it, is needed."),
        };
    }

    /// <summary>The part of all traces; all of them where nothing is said.</summary>
    private static double RatioOf(Func<string, string?> environment) => environment(Argument) switch
    {
        null or "" => 1,
        { } text when double.TryParse(text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double ratio) && ratio is >= 0 and <= 1 => ratio,
        { } other => throw new ArgumentException($"{Argument} is '{other}'; a number from 0 to 1 is needed."),
    };
}
