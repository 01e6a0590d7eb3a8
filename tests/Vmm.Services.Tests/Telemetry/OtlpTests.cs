using System.Collections.Concurrent;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;
using Vmm.Client;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary><c>vmmd</c> as a process that exports by OTLP over HTTP, and what listens at the other end: for real, slow, or not at all.</summary>
public sealed class OtlpTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmmd-test-").FullName;
    private readonly ConcurrentDictionary<string, string> _received = new(StringComparer.Ordinal);
    private readonly TaskCompletionSource _hold = new();
    private WebApplication _receiver = null!;
    private bool _holds;

    public async Task InitializeAsync()
    {
        WebApplicationBuilder builder = WebApplication.CreateBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        _receiver = builder.Build();
        _receiver.Run(ReceiveAsync);
        await _receiver.StartAsync();
    }

    public async Task DisposeAsync()
    {
        _hold.TrySetResult();
        await _receiver.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task Metrics_traces_and_logs_go_to_the_receiver()
    {
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, "--verbose", Environment());
        using (daemon)
        using (connection)
        {
            await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/default" });
            await UntilAsync("/v1/metrics", "vmm.worker.vms", "rpc.server.call.duration", "vmm.v1.VmService/ListVms", "a-name-of-mine");
            await UntilAsync("/v1/traces", "/vmm.v1.VmService/ListVms", "a-name-of-mine");
            await UntilAsync("/v1/logs", "serves as incarnation", "a-name-of-mine");
            Assert.Equal(0, await daemon.TerminateAsync());
        }
    }

    [Fact]
    public async Task A_signal_that_has_a_receiver_of_its_own_goes_there_and_no_other_goes_anywhere()
    {
        Dictionary<string, string> environment = Environment();
        environment.Remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        environment.Remove("OTEL_EXPORTER_OTLP_PROTOCOL");
        environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = $"{_receiver.Urls.First()}/elsewhere";
        environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf";
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, "--verbose", environment);
        using (daemon)
        using (connection)
        {
            await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/default" });
            await UntilAsync("/elsewhere", "/vmm.v1.VmService/ListVms", "a-name-of-mine");
            Assert.Equal(0, await daemon.TerminateAsync());
        }

        Assert.Equal("/elsewhere", Assert.Single(_received).Key);
    }

    [Fact]
    public async Task A_receiver_that_never_answers_holds_nothing_up()
    {
        _holds = true;
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, environment: Environment());
        using (daemon)
        using (connection)
        {
            await UntilAsync("/v1/metrics", "vmm.worker.vms");
            for (int k = 0; k < 100; k++)
                await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/default" });
            Assert.Equal(0, await daemon.TerminateAsync());
        }
    }

    [Fact]
    public async Task Without_a_receiver_calls_are_answered_as_ever()
    {
        await _receiver.StopAsync();
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, environment: Environment());
        using (daemon)
        using (connection)
        {
            for (int k = 0; k < 100; k++)
                await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/default" });
            Assert.Equal(0, await daemon.TerminateAsync());
        }
    }

    private Dictionary<string, string> Environment() => new(StringComparer.Ordinal)
    {
        ["OTEL_EXPORTER_OTLP_ENDPOINT"] = _receiver.Urls.First(),
        ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf",
        ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1000",
        ["OTEL_SERVICE_NAME"] = "a-name-of-mine",
        ["OTEL_METRIC_EXPORT_INTERVAL"] = "100",
        ["OTEL_BSP_SCHEDULE_DELAY"] = "100",
        ["OTEL_BLRP_SCHEDULE_DELAY"] = "100",
    };

    // The texts in a message of protocol buffers stand in it as they are.
    private async Task ReceiveAsync(HttpContext context)
    {
        using var body = new MemoryStream();
        await context.Request.Body.CopyToAsync(body);
        _received.AddOrUpdate(context.Request.Path, Encoding.Latin1.GetString(body.ToArray()), (_, before) => before + Encoding.Latin1.GetString(body.ToArray()));
        if (_holds)
            await _hold.Task;
    }

    private async Task UntilAsync(string path, params string[] texts)
    {
        for (int k = 0; k < 6000; k++)
        {
            if (_received.TryGetValue(path, out string? all) && texts.All(text => all.Contains(text, StringComparison.Ordinal)))
                return;
            await Task.Delay(10);
        }

        string received = _received.GetValueOrDefault(path, "");
        Assert.Fail($"{path} lacks {string.Join(", ", texts.Where(text => !received.Contains(text, StringComparison.Ordinal)))}");
    }
}
