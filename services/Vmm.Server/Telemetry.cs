using System.Net;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using OpenTelemetry;
using OpenTelemetry.Logs;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using Vmm.Frontend;

namespace Vmm.Server;

/// <summary>
/// Metrics, traces and logs for others. By OTLP where the standard variables of OpenTelemetry name a receiver
/// (<c>OTEL_EXPORTER_OTLP_ENDPOINT</c>, or the ones of a signal), and as a page for Prometheus where an option names an address. With neither,
/// nothing is collected.
/// </summary>
internal static class Telemetry
{
    /// <summary>The path of the page for Prometheus.</summary>
    public const string MetricsPath = "/metrics";

    /// <summary>Ours, and those of what we are built on: the database, HTTP, the runtime.</summary>
    private static readonly string[] Meters = ["Vmm.*", "Npgsql", "System.Runtime", "Microsoft.AspNetCore.Server.Kestrel"];

    /// <summary>What we do with VMs, calls that are served, and the database's commands. Each process continues the trace of its caller.</summary>
    private static readonly string[] Sources = ["Vmm.Registry", "Vmm.Worker", "Microsoft.AspNetCore", "Npgsql"];

    /// <summary>Calls that the process makes, which are all its own unless it has this server in it.</summary>
    private static readonly string[] CallsMade = ["Grpc.Net.Client", "System.Net.Http"];

    /// <summary>Adds what the options and the environment ask for.</summary>
    public static void Add(WebApplicationBuilder builder, ServerOptions options)
    {
        builder.Services.AddSingleton<CallMeter>();
        OtlpSignal metrics = new("METRICS", Environment.GetEnvironmentVariable), traces = new("TRACES", Environment.GetEnvironmentVariable), logs = new("LOGS", Environment.GetEnvironmentVariable);
        if (Environment.GetEnvironmentVariable("OTEL_SDK_DISABLED") == "true" || !(metrics.IsExported || traces.IsExported || logs.IsExported || options.Metrics is not null))
            return;
        Sampler? sampler = traces.IsExported ? TraceSampler.From(Environment.GetEnvironmentVariable) : null;
        // OpenTelemetry reads its variables from the configuration, which has nothing else here; samplers are ours.
        builder.Configuration.AddInMemoryCollection(Environment.GetEnvironmentVariables().Keys.OfType<string>()
            .Where(name => name.StartsWith("OTEL_", StringComparison.Ordinal) && !name.StartsWith("OTEL_TRACES_SAMPLER", StringComparison.Ordinal))
            .Select(name => new KeyValuePair<string, string?>(name, Environment.GetEnvironmentVariable(name))));
        OpenTelemetryBuilder telemetry = builder.Services.AddOpenTelemetry().ConfigureResource(resource =>
        {
            // The standard variables have the last word.
            resource.Clear().AddService(NameOf(options.Role), "vmm", typeof(Telemetry).Assembly.GetName().Version!.ToString(3), autoGenerateServiceInstanceId: options.WorkerId is null, options.WorkerId);
            resource.AddTelemetrySdk().AddEnvironmentVariableDetector();
        });
        if (metrics.IsExported || options.Metrics is not null)
        {
            telemetry.WithMetrics(provider =>
            {
                provider.AddMeter(Meters);
                if (metrics.IsExported)
                    provider.AddOtlpExporter(metrics.Apply);
                if (options.Metrics is not null)
                    provider.AddPrometheusExporter(prometheus =>
                    {
                        prometheus.ScrapeEndpointPath = MetricsPath;
                        // Each page is of its own moment.
                        prometheus.ScrapeResponseCacheDurationMilliseconds = 0;
                    });
            });
        }

        if (traces.IsExported)
            telemetry.WithTracing(provider => provider.SetSampler(sampler!).AddSource(options.IsEmbedded ? Sources : [.. Sources, .. CallsMade]).AddOtlpExporter(traces.Apply));
        if (logs.IsExported)
            telemetry.WithLogging(provider => provider.AddOtlpExporter(logs.Apply));
    }

    /// <summary>Listens for Prometheus, on an address of its own and without TLS.</summary>
    public static void Listen(KestrelServerOptions kestrel, ServerOptions options)
    {
        if (options.Metrics is { } address)
            kestrel.Listen(address, listen => listen.Protocols = HttpProtocols.Http1);
    }

    /// <summary>Serves the page, there and nowhere else.</summary>
    public static void Map(WebApplication app, ServerOptions options)
    {
        if (options.Metrics is null)
            return;
        // The API speaks HTTP/2 only.
        app.MapWhen(context => HttpProtocol.IsHttp11(context.Request.Protocol) || HttpProtocol.IsHttp10(context.Request.Protocol), page =>
        {
            page.UseOpenTelemetryPrometheusScrapingEndpoint();
            page.Run(context =>
            {
                context.Response.StatusCode = (int)HttpStatusCode.NotFound;
                return Task.CompletedTask;
            });
        });
    }

    private static string NameOf(ServerRole role) => role switch
    {
        ServerRole.Frontend => "vmm-frontend",
        ServerRole.Worker => "vmm-worker",
        _ => "vmmd",
    };
}
