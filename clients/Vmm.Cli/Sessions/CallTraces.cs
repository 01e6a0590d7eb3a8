using OpenTelemetry;
using OpenTelemetry.Exporter;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.Server;

namespace Vmm.Cli.Sessions;

/// <summary>
/// The spans of this command's calls, by OTLP to where the standard variables say (<c>OTEL_EXPORTER_OTLP_ENDPOINT</c> and the others). Where
/// none does, nothing is made.
/// </summary>
internal static class CallTraces
{
    /// <summary>How long a command waits at its end for a receiver that does not answer.</summary>
    private const int PatienceMilliseconds = 2000;

    /// <summary>Begins to export; disposing sends what is left. Null where nobody asked for it.</summary>
    /// <exception cref="UsageException">A variable has no value that could be used.</exception>
    public static IDisposable? Start(CliConsole console)
    {
        var signal = new OtlpSignal("TRACES", console.EnvironmentVariable);
        if (!signal.IsExported)
            return null;
        TracerProvider provider = Sdk.CreateTracerProviderBuilder()
            .ConfigureResource(resource => resource.Clear().AddService("vmmctl", "vmm", typeof(CallTraces).Assembly.GetName().Version!.ToString(3)).AddTelemetrySdk().AddEnvironmentVariableDetector())
            .SetSampler(Usable(() => TraceSampler.From(console.EnvironmentVariable)))
            .AddSource(VmmConnection.TraceSource, "Grpc.Net.Client", "System.Net.Http")
            .AddOtlpExporter(Apply)
            .Build();
        return new Export(provider);

        void Apply(OtlpExporterOptions options) => Usable(() =>
        {
            signal.Apply(options);
            return options;
        });
    }

    private static T Usable<T>(Func<T> read)
    {
        try
        {
            return read();
        }
        catch (ArgumentException wrong)
        {
            throw new UsageException(wrong.Message);
        }
    }

    private sealed class Export(TracerProvider provider) : IDisposable
    {
        public void Dispose()
        {
            provider.Shutdown(PatienceMilliseconds);
            provider.Dispose();
        }
    }
}
