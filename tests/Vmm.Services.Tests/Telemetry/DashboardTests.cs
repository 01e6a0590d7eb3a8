using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Npgsql;
using Vmm.Client;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary><c>deploy/grafana</c> and <c>deploy/prometheus</c>, judged by a real Prometheus that scrapes a fleet of processes.</summary>
[Collection(PostgresTests.Name)]
public sealed partial class DashboardTests(SharedPostgres postgres) : IDisposable
{
    private const string Project = "projects/default";
    private const string Nested = $"{Project}/vms/nested", Saved = $"{Project}/vms/saved";

    /// <summary>Seconds: of the worker that is killed, and of those that are not to lose theirs whatever else the machine does.</summary>
    private const string ShortLease = "10", LongLease = "300";

    private static readonly string Rules = Path.Combine(Repository.Root, "deploy", "prometheus", "rules.yml");

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-dashboards-").FullName;
    private readonly Dictionary<string, FleetProcess> _processes = [];
    private PrometheusServer _prometheus = null!;
    private VmmConnection _fleet = null!;

    public void Dispose()
    {
        _prometheus?.Dispose();
        _fleet?.Dispose();
        foreach (FleetProcess process in _processes.Values)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql prometheus")]
    public async Task Every_panel_and_rule_has_what_a_fleet_under_load_did()
    {
        string registry = await postgres.NewSchemaAsync();
        await Task.WhenAll(FrontendAsync(registry, "f1"), FrontendAsync(registry, "f2"), WorkerAsync(registry, "a", LongLease), WorkerAsync(registry, "b", LongLease), WorkerAsync(registry, "c", ShortLease));
        Uri PageOf(string id) => _processes[id].Metrics!;
        _fleet = _processes["f1"].Connect();
        _prometheus = await PrometheusServer.StartAsync(
            Rules, ("vmm-frontend", [PageOf("f1"), PageOf("f2")]), ("vmm-worker", [PageOf("a"), PageOf("b"), PageOf("c")]));
        await SeenAsync("sum(up)", 5);

        string path = Path.Combine(_folder, "guest");
        await File.WriteAllBytesAsync(path, NestedGuest.Image());
        string kernel = (await _fleet.PushImageAsync(path, Project)).Name;
        // What nobody has room for.
        for (int refused = 1; refused <= 2; refused++)
        {
            VmmError error = VmmError.From(await Assert.ThrowsAsync<RpcException>(async () => await _fleet.Vms.CreateVmAsync(Creation("large", kernel, memoryMib: 32_768))));
            Assert.Equal("NO_WORKER", error.Reason);
            await SeenAsync("sum(vmm_calls_refused_total{vmm_reason=\"NO_WORKER\"})", refused);
        }

        await SeenAsync("sum(vmm_fleet_refusals_total{vmm_reason=\"memory\"})", 2);

        // A guest hypervisor, whose L2 is active when inhibits come: twice, so that there is a rate of it.
        await CreateAsync("nested", kernel);
        await _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Nested, Reason = ApicvInhibitReason.Hyperv });
        await SeenAsync("max(vmm_apicv_inhibited{vmm_apicv_reason=\"hyper_v\"})", 1);
        await EventuallyAsync(async () => (await _prometheus.QueryAsync("max(vmm_apicv_deferral_oldest_seconds) > 0")).Count == 1, "the deferral under way");
        await LeaveL2Async();
        await SeenAsync("sum(vmm_apicv_deferral_duration_seconds_count)", 1);
        await _fleet.Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = Nested, Reason = ApicvInhibitReason.Hyperv });
        await LeaveL2Async();
        await SeenAsync("sum(vmm_apicv_deferral_duration_seconds_count)", 2);

        // There and back and there again.
        for (int move = 1; move <= 3; move++)
        {
            await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Nested, MaxPause = Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });
            // The first one is there before the others, so that there is a rate of them.
            if (move != 2)
                await SeenAsync("sum(vmm_migration_pause_seconds_count)", move);
        }

        // It spins, and has done what it is here for. Its L2 is active, so that this is deferred until somebody lets it go on.
        await _fleet.Vms.PauseVmAsync(new PauseVmRequest { Name = Nested });
        await _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Nested, Reason = ApicvInhibitReason.Blockirq });
        await SeenAsync("sum(vmm_apicv_updates_total{vmm_result=\"deferred\"})", 3);
        await SeenAsync("sum(vmm_exits_total{vmm_level=\"l2\",vmm_owner=\"l1\",vmm_exit_reason=\"vmcall\"})", 2);
        await SeenAsync("sum(vmm_nested_entries_total{vmm_result=\"failed\"})", 0);
        await SeenAsync("sum(vmm_migrations_total{vmm_result=\"moved\"})", 3);
        await SeenAsync("sum(vmm_migrations_total{vmm_result=\"failed\"})", 0);

        // A worker dies, and its VM goes on elsewhere from its last checkpoint.
        foreach (string other in (string[])["workers/a", "workers/b"])
            await _fleet.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = other });
        await CreateAsync("saved", kernel, RestartPolicy.FromLastCheckpoint);
        foreach (string other in (string[])["workers/a", "workers/b"])
            await _fleet.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = other });
        await EventuallyAsync(async () => (await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Saved })).Status.Checkpoint is not null, "a checkpoint");
        await EventuallyAsync(async () => await SumAsync("vmm_checkpoints_total{vmm_result=\"taken\"}") >= 1, "the checkpoint is seen");
        _processes["c"].Kill();
        await EventuallyAsync(async () => await GoesOnAsync(), "the VM goes on elsewhere");
        await _fleet.Vms.PauseVmAsync(new PauseVmRequest { Name = Saved });
        await EventuallyAsync(async () => await FiringAsync("VmmFailover") && await FiringAsync("VmmPlacementsRefused"), "the alerts");
        await using (NpgsqlDataSource database = NpgsqlDataSource.Create(registry))
        {
            // A machine with much else to do may have lost that worker before.
            await using NpgsqlCommand losses = database.CreateCommand("SELECT count(*) FROM worker_events WHERE event = 'LOST'");
            await SeenAsync("sum(vmm_fleet_workers_lost_total)", (long)(await losses.ExecuteScalarAsync())!);
            await using NpgsqlCommand failovers = database.CreateCommand($"SELECT generation - 1 FROM vms WHERE name = '{Saved}'");
            await SeenAsync("sum(vmm_fleet_failovers_total)", (long)(await failovers.ExecuteScalarAsync())!);
        }

        await SeenAsync("sum(vmm_fleet_placements_total)", 2);
        await SeenAsync("max(vmm_fleet_vms{vmm_vm_state=\"running\"})", 0);
        await SeenAsync("max(vmm_fleet_vms{vmm_vm_state=\"paused\"})", 2);
        await SeenAsync("max(vmm_fleet_workers{vmm_worker_state=\"ready\"})", 2);
        await SeenAsync("max(vmm_fleet_workers{vmm_worker_state=\"lost\"})", 1);
        foreach ((string method, int calls) in ((string, int)[])[("SetApicvInhibit", 2), ("ClearApicvInhibit", 1), ("MigrateVm", 3), ("StartVm", 2)])
            await SeenAsync($"sum(rpc_server_call_duration_seconds_count{{job=\"vmm-frontend\",rpc_method=\"vmm.v1.VmService/{method}\",rpc_response_status_code=\"OK\"}})", calls);

        var empty = new List<string>();
        foreach (Dashboard dashboard in Dashboard.All())
            foreach (DashboardPanel panel in dashboard.Panels)
                foreach ((string expression, _) in panel.Targets)
                    await HasValueAsync(expression, () => empty.Add($"{dashboard.Uid}, {panel.Title}: {expression}"));
        Assert.Empty(empty);
        HashSet<string> metrics = await _prometheus.NamesAsync(metrics: true), labels = await _prometheus.NamesAsync(metrics: false);
        IReadOnlyList<(string Name, string Expression, string Health, string State)> rules = await _prometheus.RulesAsync();
        Assert.All(rules, rule => Assert.Equal(("ok", rule.Name), (rule.Health, rule.Name)));
        foreach (var (name, expression, _, _) in rules)
            Assert.True(MetricName().Matches(expression).Select(match => match.Value).All(each => metrics.Contains(each) || labels.Contains(each)), $"{name}: {expression}");
        Assert.False(await FiringAsync("VmmVmcs02EntryFailed"));
    }

    [Fact]
    public void Dashboards_are_alike_and_say_what_they_show()
    {
        IReadOnlyList<Dashboard> dashboards = Dashboard.All();
        Assert.Equal(["vmm-fleet", "vmm-nested", "vmm-vm", "vmm-worker"], dashboards.Select(dashboard => dashboard.Uid));
        Assert.All(dashboards, dashboard =>
        {
            Assert.Equal("datasource", dashboard.Variables[0]);
            Assert.Equal(dashboard.Panels.Count, dashboard.Panels.Select(panel => panel.Id).Distinct().Count());
            Assert.Equal(dashboard.Panels.Count, dashboard.Panels.Select(panel => panel.Title).Distinct().Count());
            Assert.All(dashboard.Panels, panel => Assert.True(
                panel is { Title.Length: > 0, Description.Length: > 20, Unit.Length: > 0, DataSource: "${datasource}", Targets.Count: > 0 } && panel.Targets.All(target => target.Legend.Length > 0),
                $"{dashboard.Uid}, {panel.Title}"));
        });
    }

    [Fact]
    public void Whatever_is_in_the_catalogue_of_metrics_is_in_a_panel()
    {
        string asked = string.Join('\n', Dashboard.All().SelectMany(dashboard => dashboard.Panels).SelectMany(panel => panel.Targets).Select(target => target.Expression));
        string[] metrics = [.. MetricsTests.Catalogue().Select(cells => cells[1].Trim().Trim('`').Replace('.', '_'))];
        Assert.NotEmpty(metrics);
        // With a unit and a suffix, or without.
        Assert.DoesNotContain(metrics, metric => !Regex.IsMatch(asked, $@"\b{metric}(_seconds|_bytes)?(_total|_bucket|_count)?\b"));
    }

    [RequiresPackageFact("prometheus")]
    public async Task Rules_pass_promtool()
    {
        string folder = Path.GetDirectoryName(Rules)!;
        foreach (string[] arguments in (string[][])[["check", "rules", "rules.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "rules.test.yml"]])
        {
            using Process promtool = Process.Start(new ProcessStartInfo("promtool", arguments) { WorkingDirectory = folder, RedirectStandardOutput = true, RedirectStandardError = true })!;
            Task<string> output = promtool.StandardOutput.ReadToEndAsync(), errors = promtool.StandardError.ReadToEndAsync();
            await promtool.WaitForExitAsync();
            Assert.True(promtool.ExitCode == 0, $"promtool {string.Join(' ', arguments)}: {await output}{await errors}");
        }

        // Each rule has a test, and a summary.
        string tests = await File.ReadAllTextAsync(Path.Combine(folder, "rules.test.yml"));
        string[] lines = await File.ReadAllLinesAsync(Rules);
        string[] alerts = [.. lines.Where(line => line.Contains("- alert:", StringComparison.Ordinal)).Select(line => line.Split(':')[1].Trim())];
        Assert.True(alerts.Length >= 10);
        Assert.All(alerts, alert => Assert.Contains($"alertname: {alert}\n", tests, StringComparison.Ordinal));
        Assert.Equal(alerts.Length, lines.Count(line => line.Contains("summary: ", StringComparison.Ordinal)));
    }

    /// <summary>Panels are seen as Grafana asks for them, with every value of their variables and a range in which all has happened.</summary>
    private async Task HasValueAsync(string expression, Action otherwise)
    {
        string asked = expression.Replace("$__rate_interval", "30m", StringComparison.Ordinal).Replace("$__range", "30m", StringComparison.Ordinal)
            .Replace("$instance", ".*", StringComparison.Ordinal).Replace("$vm", ".*", StringComparison.Ordinal);
        Assert.DoesNotContain('$', asked);
        for (int i = 0; i < 20; i++)
        {
            if ((await _prometheus.QueryAsync(asked)).Any(double.IsFinite))
                return;
            await Task.Delay(250);
        }

        otherwise();
    }

    private async Task<bool> FiringAsync(string alert) => (await _prometheus.RulesAsync()).Single(rule => rule.Name == alert).State == "firing";

    private async Task<double> SumAsync(string series) => (await _prometheus.QueryAsync($"sum({series})")).SingleOrDefault(double.NaN);

    private Task SeenAsync(string expression, double value) => EventuallyAsync(
        async () => await _prometheus.QueryAsync(expression) is [var now] && now == value, string.Create(CultureInfo.InvariantCulture, $"{expression} = {value}"));

    private async Task LeaveL2Async()
    {
        long Exits(V1.Vm vm) => (long)vm.Status.Counters.NestedEntries;
        long before = Exits(await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Nested }));
        await _fleet.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Nested, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await EventuallyAsync(async () => Exits(await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = Nested })) > before, "L2 has left and is back");
    }

    private async Task<bool> GoesOnAsync()
    {
        Vm vm = (await _fleet.Vms.ListVmsAsync(new ListVmsRequest { Parent = Project })).Vms.Single(vm => vm.Name == Saved);
        return vm.Status.State == VmState.Running && vm.Status.Worker != "workers/c";
    }

    private async Task CreateAsync(string id, string kernel, RestartPolicy restart = RestartPolicy.Never)
    {
        CreateVmRequest creation = Creation(id, kernel);
        creation.Vm.Labels["vmm-metrics"] = "true";
        // One that has no policy for it must not be on the worker that dies.
        if (restart == RestartPolicy.Never)
            creation.Vm.Spec.Placement = new PlacementSpec { WorkerLabels = { ["lease"] = LongLease } };
        creation.Vm.Spec.RestartPolicy = restart;
        if (restart == RestartPolicy.FromLastCheckpoint)
            creation.Vm.Spec.CheckpointInterval = Duration.FromTimeSpan(TimeSpan.FromSeconds(1));
        Vm vm = await _fleet.Vms.CreateVmAsync(creation);
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = _fleet.Vms.Console(cancellationToken: new CancellationTokenSource(TimeSpan.FromMinutes(5)).Token);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm.Name } });
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        for (string seen = ""; !seen.Contains('2', StringComparison.Ordinal); seen += console.ResponseStream.Current.Output?.Data.ToStringUtf8())
            Assert.True(await console.ResponseStream.MoveNext(CancellationToken.None), $"the console ended after '{seen}'");
    }

    private static CreateVmRequest Creation(string id, string kernel, long memoryMib = 64) => new()
    {
        Parent = Project,
        VmId = id,
        Vm = new Vm { Spec = new VmSpec { MemoryMib = memoryMib, Cpus = 2, Kernel = new FileSource { Image = kernel } } },
    };

    private Task FrontendAsync(string registry, string id) =>
        BeginAsync(id, "frontend", "--listen", $"unix:{Path.Combine(_folder, id)}", "--registry", registry, "--metrics", "127.0.0.1:0");

    private Task WorkerAsync(string registry, string id, string lease) => BeginAsync(
        id, "worker", "--listen", "127.0.0.1:0", "--registry", registry, "--worker-id", id, "--state", Path.Combine(_folder, $"state-{id}"), "--lease", lease, "--max-memory", "4096",
        "--snapshot-store", Path.Combine(_folder, "shared"), "--metrics", "127.0.0.1:0", "--label", $"lease={lease}");

    private async Task BeginAsync(string id, params string[] arguments)
    {
        FleetProcess process = await FleetProcess.StartAsync("vmmd.dll", arguments);
        lock (_processes)
            _processes.Add(id, process);
    }

    private Task EventuallyAsync(Func<Task<bool>> condition, string what) => Eventually.HoldsAsync(condition, what, _processes.Values);

    [GeneratedRegex(@"\b(?:vmm|db|rpc|dotnet)_[a-z0-9_]+")]
    private static partial Regex MetricName();
}
