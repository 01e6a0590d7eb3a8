using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>A Prometheus of Debian's package, in a temporary folder, that scrapes twice a second and evaluates rules as often.</summary>
internal sealed class PrometheusServer : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-prometheus-").FullName;
    private readonly HttpClient _http;
    private readonly Process _process;

    private PrometheusServer(string configuration)
    {
        string file = Path.Combine(_folder, "prometheus.yml");
        File.WriteAllText(file, configuration);
        int port = FreePort();
        _http = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{port}") };
        var start = new ProcessStartInfo(
            "prometheus", [$"--config.file={file}", $"--storage.tsdb.path={Path.Combine(_folder, "data")}", $"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
        { RedirectStandardError = true };
        _process = Process.Start(start)!;
        _process.BeginErrorReadLine();
    }

    /// <summary>Starts one and waits until it answers.</summary>
    /// <param name="rules">The file of the rules.</param>
    /// <param name="jobs">What to scrape, by job.</param>
    public static async Task<PrometheusServer> StartAsync(string rules, params (string Job, IEnumerable<Uri> Pages)[] jobs)
    {
        string scrapes = string.Concat(jobs.Select(job =>
            $"  - job_name: {job.Job}\n    static_configs:\n      - targets: [{string.Join(", ", job.Pages.Select(page => $"\"{page.Authority}\""))}]\n"));
        var server = new PrometheusServer($"global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: [\"{rules}\"]\nscrape_configs:\n{scrapes}");
        for (int i = 0; i < 1200 && !server._process.HasExited; i++)
        {
            try
            {
                using HttpResponseMessage ready = await server._http.GetAsync(new Uri("/-/ready", UriKind.Relative));
                if (ready.IsSuccessStatusCode)
                    return server;
            }
            catch (HttpRequestException)
            {
                // It does not listen yet.
            }

            await Task.Delay(100);
        }

        server.Dispose();
        throw new InvalidOperationException("Prometheus does not answer.");
    }

    /// <summary>The values of an expression now, one per series; NaN among them.</summary>
    /// <exception cref="InvalidOperationException">It is no expression.</exception>
    public async Task<IReadOnlyList<double>> QueryAsync(string expression)
    {
        using JsonDocument answer = await GetAsync($"/api/v1/query?query={Uri.EscapeDataString(expression)}");
        JsonElement data = answer.RootElement.GetProperty("data"), result = data.GetProperty("result");
        return data.GetProperty("resultType").GetString() == "scalar"
            ? [Value(result)]
            : [.. result.EnumerateArray().Select(series => Value(series.GetProperty("value")))];
    }

    /// <summary>The names of metrics, or of labels, that it has seen.</summary>
    public async Task<HashSet<string>> NamesAsync(bool metrics)
    {
        using JsonDocument answer = await GetAsync(metrics ? "/api/v1/label/__name__/values" : "/api/v1/labels");
        return [.. answer.RootElement.GetProperty("data").EnumerateArray().Select(name => name.GetString()!)];
    }

    /// <summary>Its rules: name, expression, whether it could be evaluated (<c>ok</c>), and <c>firing</c>, <c>pending</c> or <c>inactive</c>.</summary>
    public async Task<IReadOnlyList<(string Name, string Expression, string Health, string State)>> RulesAsync()
    {
        using JsonDocument answer = await GetAsync("/api/v1/rules");
        return [.. answer.RootElement.GetProperty("data").GetProperty("groups").EnumerateArray().SelectMany(group => group.GetProperty("rules").EnumerateArray())
            .Select(rule => (Text(rule, "name"), Text(rule, "query"), Text(rule, "health"), Text(rule, "state")))];
    }

    public void Dispose()
    {
        if (!_process.HasExited)
            _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        _http.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private async Task<JsonDocument> GetAsync(string path)
    {
        using HttpResponseMessage response = await _http.GetAsync(new Uri(path, UriKind.Relative));
        string text = await response.Content.ReadAsStringAsync();
        return response.IsSuccessStatusCode ? JsonDocument.Parse(text) : throw new InvalidOperationException($"{Uri.UnescapeDataString(path)}: {text}");
    }

    private static double Value(JsonElement sample) => sample[1].GetString() switch
    {
        "+Inf" => double.PositiveInfinity,
        "-Inf" => double.NegativeInfinity,
        { } text => double.Parse(text, CultureInfo.InvariantCulture),
        null => double.NaN,
    };

    private static string Text(JsonElement element, string name) => element.GetProperty(name).GetString()!;

    private static int FreePort()
    {
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        return ((IPEndPoint)probe.LocalEndpoint).Port;
    }
}
