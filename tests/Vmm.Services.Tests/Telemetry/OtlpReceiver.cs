using System.Collections.Concurrent;
using System.Net;
using System.Text;
using Google.Protobuf;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.Logging;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>A span as it came.</summary>
internal sealed record OtlpSpan(string Service, string Source, string Name, string TraceId, string Id, string ParentId, IReadOnlyDictionary<string, string> Attributes, IReadOnlyList<string> Events);

/// <summary>A log record as it came.</summary>
internal sealed record OtlpLog(string Service, string Body, string TraceId);

/// <summary>
/// A receiver of OTLP by gRPC over real HTTP/2: answers, or never does. It knows of the messages what the tests look at, by the numbers of
/// their fields.
/// </summary>
internal sealed class OtlpReceiver : IAsyncDisposable
{
    private readonly WebApplication _application;
    private readonly TaskCompletionSource _hold = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly bool _holds;

    private OtlpReceiver(bool holds)
    {
        _holds = holds;
        WebApplicationBuilder builder = WebApplication.CreateBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(IPAddress.Loopback, 0, listen => listen.Protocols = HttpProtocols.Http2));
        _application = builder.Build();
        _application.Run(ReceiveAsync);
    }

    public ConcurrentQueue<OtlpSpan> Spans { get; } = new();

    public ConcurrentQueue<OtlpLog> Logs { get; } = new();

    /// <summary>Services and the metrics that they have sent.</summary>
    public ConcurrentDictionary<(string Service, string Metric), byte> Metrics { get; } = new();

    /// <summary>The attributes of each service's resource.</summary>
    public ConcurrentDictionary<string, IReadOnlyDictionary<string, string>> Resources { get; } = new(StringComparer.Ordinal);

    /// <summary>Everything that came, byte by byte.</summary>
    public ConcurrentQueue<string> Raw { get; } = new();

    public string Address => _application.Urls.First();

    /// <param name="holds">It takes what comes and never answers.</param>
    public static async Task<OtlpReceiver> StartAsync(bool holds = false)
    {
        var receiver = new OtlpReceiver(holds);
        await receiver._application.StartAsync();
        return receiver;
    }

    /// <summary>What a process needs to export to here, at once.</summary>
    public Dictionary<string, string> Environment() => new(StringComparer.Ordinal)
    {
        ["OTEL_EXPORTER_OTLP_ENDPOINT"] = Address,
        ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc",
        ["OTEL_METRIC_EXPORT_INTERVAL"] = "200",
        ["OTEL_BSP_SCHEDULE_DELAY"] = "100",
        ["OTEL_BLRP_SCHEDULE_DELAY"] = "100",
    };

    public async ValueTask DisposeAsync()
    {
        _hold.TrySetResult();
        await _application.DisposeAsync();
    }

    private async Task ReceiveAsync(HttpContext context)
    {
        using var body = new MemoryStream();
        await context.Request.Body.CopyToAsync(body);
        if (_holds)
            await _hold.Task;
        // A message of gRPC: whether it is compressed, its length, itself.
        byte[] message = body.ToArray()[5..];
        Raw.Enqueue(Encoding.Latin1.GetString(message));
        string path = context.Request.Path;
        foreach (byte[] part in Fields(message, 1))
        {
            IReadOnlyDictionary<string, string> resource = Attributes(Fields(Fields(part, 1).Single(), 1));
            string service = resource["service.name"];
            Resources[service] = resource;
            foreach (byte[] scope in Fields(part, 2))
            {
                string source = Fields(scope, 1).SelectMany(each => Fields(each, 1)).Select(Text).FirstOrDefault("");
                foreach (byte[] item in Fields(scope, 2))
                {
                    if (path.Contains("Trace", StringComparison.Ordinal))
                        Spans.Enqueue(new OtlpSpan(
                            service, source, Text(Fields(item, 5).Single()), Hex(item, 1), Hex(item, 2), Hex(item, 4), Attributes(Fields(item, 9)), [.. Fields(item, 11).Select(each => Text(Fields(each, 2).Single()))]));
                    else if (path.Contains("Logs", StringComparison.Ordinal))
                        Logs.Enqueue(new OtlpLog(service, Fields(item, 5).Select(Value).FirstOrDefault(""), Hex(item, 9)));
                    else
                        Metrics[(service, Text(Fields(item, 1).Single()))] = 0;
                }
            }
        }

        context.Response.ContentType = "application/grpc";
        byte[] empty = new byte[5];
        await context.Response.Body.WriteAsync(empty);
        context.Response.AppendTrailer("grpc-status", "0");
    }

    /// <summary>The fields of a number in a message that have a length.</summary>
    private static List<byte[]> Fields(byte[] message, int number)
    {
        var found = new List<byte[]>();
        var input = new CodedInputStream(message);
        while (input.ReadTag() is not 0 and uint tag)
        {
            if (WireFormat.GetTagWireType(tag) != WireFormat.WireType.LengthDelimited)
                input.SkipLastField();
            else if (WireFormat.GetTagFieldNumber(tag) == number)
                found.Add(input.ReadBytes().ToByteArray());
            else
                input.ReadBytes();
        }

        return found;
    }

    private static Dictionary<string, string> Attributes(IEnumerable<byte[]> pairs) =>
        pairs.GroupBy(pair => Text(Fields(pair, 1).Single()), StringComparer.Ordinal).ToDictionary(pair => pair.Key, pair => Fields(pair.Last(), 2).Select(Value).FirstOrDefault(""), StringComparer.Ordinal);

    // Texts as they are, integers in digits; the others are of no interest.
    private static string Value(byte[] any)
    {
        var input = new CodedInputStream(any);
        uint tag = input.ReadTag();
        return tag == 0 ? "" : WireFormat.GetTagFieldNumber(tag) switch
        {
            1 => input.ReadString(),
            3 => input.ReadInt64().ToString(System.Globalization.CultureInfo.InvariantCulture),
            _ => "?",
        };
    }

    private static string Text(byte[] bytes) => Encoding.UTF8.GetString(bytes);

    private static string Hex(byte[] message, int number) => Convert.ToHexStringLower(Fields(message, number).FirstOrDefault([]));
}
