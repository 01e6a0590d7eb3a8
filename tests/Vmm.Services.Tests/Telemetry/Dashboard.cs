using System.Text.Json;
using Vmm.Testing;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>A dashboard of <c>deploy/grafana</c>.</summary>
internal sealed record Dashboard(string File, string Uid, IReadOnlyList<DashboardPanel> Panels, IReadOnlyList<string> Variables)
{
    /// <summary>Where they are.</summary>
    public static string Folder { get; } = Path.Combine(Repository.Root, "deploy", "grafana", "dashboards");

    /// <summary>All of them.</summary>
    public static IReadOnlyList<Dashboard> All() => [.. Directory.GetFiles(Folder, "*.json").Order(StringComparer.Ordinal).Select(Read)];

    private static Dashboard Read(string path)
    {
        using JsonDocument document = JsonDocument.Parse(System.IO.File.ReadAllText(path));
        JsonElement root = document.RootElement;
        return new Dashboard(
            Path.GetFileNameWithoutExtension(path),
            Text(root, "uid"),
            [.. root.GetProperty("panels").EnumerateArray().Where(panel => Text(panel, "type") != "row").Select(ReadPanel)],
            [.. root.GetProperty("templating").GetProperty("list").EnumerateArray().Select(variable => Text(variable, "name"))]);
    }

    private static DashboardPanel ReadPanel(JsonElement panel) => new(
        panel.GetProperty("id").GetInt32(),
        Text(panel, "title"),
        Text(panel, "description"),
        Text(panel.GetProperty("fieldConfig").GetProperty("defaults"), "unit"),
        Text(panel.GetProperty("datasource"), "uid"),
        [.. panel.GetProperty("targets").EnumerateArray().Select(target => (Text(target, "expr"), Text(target, "legendFormat")))]);

    private static string Text(JsonElement element, string name) => element.TryGetProperty(name, out JsonElement value) ? value.GetString() ?? "" : "";
}

/// <summary>One of its panels.</summary>
internal sealed record DashboardPanel(int Id, string Title, string Description, string Unit, string DataSource, IReadOnlyList<(string Expression, string Legend)> Targets);
