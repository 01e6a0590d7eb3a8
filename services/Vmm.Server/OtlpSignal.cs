using OpenTelemetry.Exporter;

namespace Vmm.Server;

/// <summary>
/// Where one signal goes by OTLP, by the standard variables: <c>OTEL_EXPORTER_OTLP_{SIGNAL}_...</c> over <c>OTEL_EXPORTER_OTLP_...</c>. The SDK
/// itself reads only the latter for exporters that are added one by one.
/// </summary>
/// <param name="name">The signal: <c>TRACES</c>, <c>METRICS</c> or <c>LOGS</c>.</param>
/// <param name="environment">The environment's variables.</param>
public sealed class OtlpSignal(string name, Func<string, string?> environment)
{
    /// <summary>Whether a receiver is named.</summary>
    public bool IsExported => environment("OTEL_SDK_DISABLED") != "true" && (environment("OTEL_EXPORTER_OTLP_ENDPOINT") is { Length: > 0 } || Own("ENDPOINT") is not null);

    /// <summary>Applies what is said of this signal alone.</summary>
    /// <exception cref="ArgumentException">A variable has no value that could be used; the message names it.</exception>
    public void Apply(OtlpExporterOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (Own("PROTOCOL") is { } protocol)
            options.Protocol = protocol switch
            {
                "grpc" => OtlpExportProtocol.Grpc,
                "http/protobuf" => OtlpExportProtocol.HttpProtobuf,
                _ => throw Wrong("PROTOCOL", protocol, "grpc or http/protobuf"),
            };
        // As it is: the path of the signal is added to the endpoint of all only.
        if (Own("ENDPOINT") is { } endpoint)
            options.Endpoint = Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? uri) && uri.Scheme is "http" or "https" ? uri : throw Wrong("ENDPOINT", endpoint, "an address as http://HOST:PORT");
        if (Own("HEADERS") is { } headers)
            options.Headers = headers;
        if (Own("TIMEOUT") is { } timeout)
            options.TimeoutMilliseconds = int.TryParse(timeout, System.Globalization.CultureInfo.InvariantCulture, out int milliseconds) && milliseconds > 0 ? milliseconds : throw Wrong("TIMEOUT", timeout, "a number of milliseconds");
    }

    private string? Own(string setting) => environment($"OTEL_EXPORTER_OTLP_{name}_{setting}") is { Length: > 0 } value ? value : null;

    private ArgumentException Wrong(string setting, string value, string wanted) => new($"OTEL_EXPORTER_OTLP_{name}_{setting} is '{value}'; {wanted} is needed.");
}
