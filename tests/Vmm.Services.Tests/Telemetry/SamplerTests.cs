using System.Buffers.Binary;
using System.Diagnostics;
using OpenTelemetry;
using OpenTelemetry.Trace;
using Vmm.Server;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>What is recorded by the samplers of <c>OTEL_TRACES_SAMPLER</c>: spans of a source go through OpenTelemetry's provider, by trace ids from a seed.</summary>
public sealed class SamplerTests(ITestOutputHelper output)
{
    private const int Traces = 4000, Seed = 1912;

    /// <summary>A sampler, its argument, and the part that it records of traces that begin here, that a caller records, and that a caller does not.</summary>
    [Theory]
    [InlineData(null, null, 1, 1, 0)]
    [InlineData("", "", 1, 1, 0)]
    [InlineData("parentbased_always_on", null, 1, 1, 0)]
    [InlineData("parentbased_always_off", null, 0, 1, 0)]
    [InlineData("parentbased_traceidratio", "0.25", 0.25, 1, 0)]
    [InlineData("parentbased_traceidratio", "0", 0, 1, 0)]
    [InlineData("always_on", null, 1, 1, 1)]
    [InlineData("always_off", null, 0, 0, 0)]
    [InlineData("traceidratio", "0.25", 0.25, 0.25, 0.25)]
    [InlineData("traceidratio", "1", 1, 1, 1)]
    [InlineData("traceidratio", null, 1, 1, 1)]
    [InlineData("always_off", "0.5", 0, 0, 0)]
    public void Each_records_its_part(string? sampler, string? argument, double ofOwn, double ofRecorded, double ofDropped)
    {
        output.WriteLine($"seed {Seed}");
        string name = $"sampled {Guid.NewGuid()}";
        using var source = new ActivitySource(name);
        using var exported = new Exported();
        using TracerProvider provider = Sdk.CreateTracerProviderBuilder().AddSource(name).SetSampler(Sampler(sampler, argument)).AddProcessor(exported).Build();
        var random = new Random(Seed);
        for (int k = 0; k < Traces; k++)
        {
            var parent = new ActivityContext(TraceId(random), ActivitySpanId.CreateRandom(), ActivityTraceFlags.Recorded, isRemote: true);
            source.StartActivity("of a caller who records", ActivityKind.Server, parent)?.Dispose();
            source.StartActivity("of a caller who does not", ActivityKind.Server, new ActivityContext(parent.TraceId, parent.SpanId, ActivityTraceFlags.None, isRemote: true))?.Dispose();
        }

        Assert.Equal(ofRecorded, Part("of a caller who records"), 0.02);
        Assert.Equal(ofDropped, Part("of a caller who does not"), 0.02);
        // Those of no caller have ids that nobody chooses: the sampler is asked itself.
        random = new Random(Seed);
        Sampler asked = Sampler(sampler, argument);
        int own = Enumerable.Range(0, Traces).Count(_ => asked.ShouldSample(new SamplingParameters(default, TraceId(random), "own", ActivityKind.Server, null, null)).Decision == SamplingDecision.RecordAndSample);
        Assert.Equal(ofOwn, (double)own / Traces, 0.02);

        // All of a trace, or nothing of it.
        int before = exported.Names.Count;
        using (Activity? outer = source.StartActivity("outer"))
            source.StartActivity("inner")?.Dispose();
        Assert.Contains(exported.Names.Count - before, (int[])[0, 2]);

        double Part(string span) => (double)exported.Names.Count(each => each == span) / Traces;
    }

    [Fact]
    public void A_trace_that_a_smaller_part_has_is_in_the_larger_one_too()
    {
        Sampler quarter = Sampler("traceidratio", "0.25"), half = Sampler("traceidratio", "0.5");
        var random = new Random(Seed);
        int both = 0;
        for (int k = 0; k < Traces; k++)
        {
            var trace = new SamplingParameters(default, TraceId(random), "own", ActivityKind.Server, null, null);
            bool isInQuarter = quarter.ShouldSample(trace).Decision == SamplingDecision.RecordAndSample;
            Assert.True(!isInQuarter || half.ShouldSample(trace).Decision == SamplingDecision.RecordAndSample);
            both += isInQuarter ? 1 : 0;
        }

        Assert.InRange(both, Traces / 5, Traces / 3);
    }

    [Theory]
    [InlineData("allways_on", null, "OTEL_TRACES_SAMPLER is 'allways_on'")]
    [InlineData("ALWAYS_ON", null, "OTEL_TRACES_SAMPLER is 'ALWAYS_ON'")]
    [InlineData("jaeger_remote", "endpoint=http://localhost", "OTEL_TRACES_SAMPLER is 'jaeger_remote'")]
    [InlineData("traceidratio", "half", "OTEL_TRACES_SAMPLER_ARG is 'half'")]
    [InlineData("traceidratio", "1.1", "OTEL_TRACES_SAMPLER_ARG is '1.1'")]
    [InlineData("traceidratio", "-0.1", "OTEL_TRACES_SAMPLER_ARG is '-0.1'")]
    [InlineData("parentbased_traceidratio", "NaN", "OTEL_TRACES_SAMPLER_ARG is 'NaN'")]
    public void A_value_that_is_none_is_an_error_that_names_it(string sampler, string? argument, string message) =>
        Assert.StartsWith(message, Assert.Throws<ArgumentException>(() => Sampler(sampler, argument)).Message, StringComparison.Ordinal);

    [Fact]
    public async Task With_such_a_value_vmmd_does_not_start()
    {
        string folder = Directory.CreateTempSubdirectory("vmmd-test-").FullName;
        try
        {
            (int exitCode, string errors) = await Daemon.RunAsync($"--state {folder}/state --listen unix:{folder}/socket", new Dictionary<string, string>
            {
                ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://127.0.0.1:1",
                ["OTEL_TRACES_SAMPLER"] = "sometimes",
            });
            Assert.Equal(1, exitCode);
            Assert.Equal("vmmd: OTEL_TRACES_SAMPLER is 'sometimes'; always_on, always_off, traceidratio, or one of these with parentbased_ before it, is needed.", errors.Trim());
            Assert.Empty(Directory.EnumerateFileSystemEntries(folder));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Sampler Sampler(string? sampler, string? argument) => TraceSampler.From(variable => variable switch
    {
        "OTEL_TRACES_SAMPLER" => sampler,
        "OTEL_TRACES_SAMPLER_ARG" => argument,
        _ => throw new InvalidOperationException($"{variable} is no variable of samplers."),
    });

    private static ActivityTraceId TraceId(Random random)
    {
        Span<byte> id = stackalloc byte[16];
        BinaryPrimitives.WriteInt64BigEndian(id, random.NextInt64(long.MinValue, long.MaxValue));
        BinaryPrimitives.WriteInt64BigEndian(id[8..], random.NextInt64(1, long.MaxValue));
        return ActivityTraceId.CreateFromBytes(id);
    }

    private sealed class Exported : BaseProcessor<Activity>
    {
        public List<string> Names { get; } = [];

        public override void OnEnd(Activity data)
        {
            if (data.Recorded)
                Names.Add(data.OperationName);
        }
    }
}
