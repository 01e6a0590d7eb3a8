using System.Diagnostics.Metrics;
using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Server;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>Meters are the process's: these tests run while no other server is in it.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class AloneInTheProcess
{
    public const string Name = "alone in the process";
}

/// <summary>Metrics of a server with the engine's machines and a guest that is a hypervisor.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed partial class MetricsTests : NestedGuestTest
{
    protected override ServerOptions Options => base.Options with { Metrics = new IPEndPoint(IPAddress.Loopback, 0), MaxVmSeries = 1 };

    [Fact]
    public void Whatever_is_measured_is_in_the_catalogue_and_the_other_way_round()
    {
        var measured = new SortedSet<string>(StringComparer.Ordinal);
        using var listener = new MeterListener
        {
            InstrumentPublished = (instrument, _) =>
            {
                if (instrument.Meter.Name.StartsWith("Vmm.", StringComparison.Ordinal))
                    measured.Add($"{instrument.Name}, {KindOf(instrument)}, {instrument.Unit}");
            },
        };
        listener.Start();
        Assert.Equal(measured, Catalogue().Select(cells => $"{cells[1].Trim().Trim('`')}, {cells[2].Trim()}, {cells[3].Trim()}").Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task A_nested_guest_and_a_deferred_inhibit_are_on_the_page_for_prometheus()
    {
        // From the start there is a series of each reason, so that the first inhibit is a change.
        Dictionary<string, double> before = await ScrapeAsync();
        Assert.All(
            (string[])["absent", "disable", "block_irq", "hyper_v", "apic_id_modified", "physical_id_aliased", "logical_id_aliased", "apic_base_modified"],
            reason => Assert.Equal(0, before[$"vmm_apicv_inhibited{{vmm_apicv_reason=\"{reason}\"}}"]));
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Blockirq });
        Dictionary<string, double> during = await ScrapeUntilAsync("vmm_apicv_updates_total{vmm_result=\"coalesced\"}", 1);
        Assert.Equal(1, during["vmm_apicv_updates_total{vmm_result=\"deferred\"}"]);
        Assert.Equal(1, during["vmm_apicv_inhibited{vmm_apicv_reason=\"hyper_v\"}"]);
        Assert.Equal(1, during["vmm_apicv_vcpus{vmm_apicv_state=\"active\"}"]);
        Assert.Equal(1, during["vmm_nested_entries_total{vmm_result=\"entered\"}"]);
        Assert.Equal(1, during["vmm_worker_vms{vmm_vm_state=\"running\"}"]);
        Assert.Equal(2, during["vmm_worker_vcpus"]);
        Assert.False(during.ContainsKey("vmm_apicv_deferral_duration_seconds_count"));

        // L2 leaves to L1, which finds both applied.
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
        // A page may be of a moment that is as long ago as values stay fresh.
        Dictionary<string, double> after = await ScrapeUntilAsync("vmm_apicv_vcpus{vmm_apicv_state=\"active\"}", 0);
        Assert.Equal(1, after["vmm_apicv_deferral_duration_seconds_count"]);
        Assert.Equal(1, after["vmm_apicv_deferral_instructions_count"]);
        Assert.True(after["vmm_apicv_deferral_instructions_sum"] > 0);
        Assert.Equal(1, after["vmm_exits_total{vmm_exit_reason=\"vmcall\",vmm_level=\"l2\",vmm_owner=\"l1\"}"]);
        Assert.True(after["vmm_exits_total{vmm_exit_reason=\"vmlaunch\",vmm_level=\"l1\",vmm_owner=\"l0\"}"] >= 1);
        Assert.True(after["vmm_instructions_total{vmm_level=\"l2\"}"] >= after["vmm_apicv_deferral_instructions_sum"]);
        Assert.Equal(2, after["rpc_server_call_duration_seconds_count{rpc_method=\"vmm.v1.VmService/SetApicvInhibit\",rpc_response_status_code=\"OK\",rpc_system_name=\"grpc\"}"]);

        // What a machine has counted stays when it ends.
        await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        await console.RequestStream.CompleteAsync();
        await EventuallyAsync(() => Vms.GetVm(new GetVmRequest { Name = Name }).Status.State == VmState.Stopped, "the end");
        Dictionary<string, double> ended = await ScrapeUntilAsync("vmm_apicv_vcpus{vmm_apicv_state=\"inhibited\"}", 0);
        Assert.True(ended["vmm_instructions_total{vmm_level=\"l2\"}"] >= after["vmm_instructions_total{vmm_level=\"l2\"}"]);
        Assert.Equal(0, ended["vmm_worker_vms{vmm_vm_state=\"running\"}"]);
        Assert.Equal(0, ended["vmm_apicv_inhibited{vmm_apicv_reason=\"hyper_v\"}"]);
    }

    [Fact]
    public async Task A_vm_that_asks_for_series_has_them_while_it_runs_and_others_do_not()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        await ScrapeUntilAsync("vmm_worker_vm_series{vmm_result=\"measured\"}", 0);
        Assert.DoesNotContain(await ScrapeAsync(), series => series.Key.StartsWith("vmm_vm_", StringComparison.Ordinal));

        await LabelAsync(Name, "true");
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        await ScrapeUntilAsync($"vmm_vm_apicv_deferrals_total{{vmm_vm_name=\"{Name}\"}}", 1);
        Dictionary<string, double> asked = await ScrapeUntilAsync($"vmm_vm_cpu_time_seconds_total{{vmm_vm_name=\"{Name}\"}}", now => now > 0, "more than nothing");
        Assert.Equal(1, asked["vmm_worker_vm_series{vmm_result=\"measured\"}"]);
        Assert.True(asked[$"vmm_vm_instructions_total{{vmm_level=\"l2\",vmm_vm_name=\"{Name}\"}}"] > 0);
        Assert.True(asked[$"vmm_vm_exits_total{{vmm_level=\"l1\",vmm_owner=\"l0\",vmm_vm_name=\"{Name}\"}}"] > 0);
        Assert.InRange(asked[$"vmm_vm_memory_resident_bytes{{vmm_vm_name=\"{Name}\"}}"], 4096, 16 << 20);

        // What a status says is the same.
        ExecutionCounters counters = (await Vms.GetVmAsync(new GetVmRequest { Name = Name })).Status.Counters;
        Assert.Equal(1UL, counters.ApicvDeferrals);
        Assert.Equal(1UL, counters.NestedEntries);
        Assert.True(counters.L2Instructions > 0 && counters.L2Instructions < counters.Instructions);
        Assert.True(counters.L1Exits >= asked[$"vmm_vm_exits_total{{vmm_level=\"l1\",vmm_owner=\"l0\",vmm_vm_name=\"{Name}\"}}"]);
        Assert.True(counters.ProcessorTime.ToTimeSpan() > TimeSpan.Zero);

        // There is room for one.
        CreateVmRequest second = Creation("two");
        second.Vm.Labels["vmm-metrics"] = "true";
        await Vms.CreateVmAsync(second);
        await Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/two" });
        // A page may be of two moments, and the one after it is of the later one or a later still.
        await ScrapeUntilAsync("vmm_worker_vm_series{vmm_result=\"refused\"}", 1);
        Dictionary<string, double> both = await ScrapeAsync();
        Assert.DoesNotContain(both, series => series.Key.Contains("vms/two", StringComparison.Ordinal));
        await LabelAsync(Name, "false");
        await ScrapeUntilAsync("vmm_worker_vm_series{vmm_result=\"refused\"}", 0);
        Dictionary<string, double> other = await ScrapeAsync();
        Assert.Contains(other, series => series.Key == "vmm_vm_apicv_deferrals_total{vmm_vm_name=\"projects/default/vms/two\"}");
        Assert.DoesNotContain(other, series => series.Key.Contains($"vmm_vm_name=\"{Name}\"", StringComparison.Ordinal));
    }

    [Fact]
    public async Task The_page_is_all_that_is_served_there()
    {
        using var http = new HttpClient();
        using HttpResponseMessage other = await http.GetAsync(new Uri(new Uri(Server.MetricsAddress!), "/vmm.v1.VmService/ListVms"));
        Assert.Equal(HttpStatusCode.NotFound, other.StatusCode);
        using HttpResponseMessage page = await http.GetAsync(Server.MetricsAddress);
        Assert.Equal(HttpStatusCode.OK, page.StatusCode);
    }

    private async Task LabelAsync(string name, string value)
    {
        Vm vm = await Vms.GetVmAsync(new GetVmRequest { Name = name });
        vm.Labels["vmm-metrics"] = value;
        vm.Etag = "";
        await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = vm });
    }

    /// <summary>The cells of the rows of the catalogue.</summary>
    internal static IEnumerable<string[]> Catalogue() => File.ReadLines(Path.Combine(Repository.Root, "services", "README.md"))
        .SkipWhile(line => line != "## Metrics").Skip(1).TakeWhile(line => !line.StartsWith("## ", StringComparison.Ordinal)).Where(line => line.StartsWith("| `", StringComparison.Ordinal)).Select(row => row.Split('|'));

    private Task<Dictionary<string, double>> ScrapeUntilAsync(string series, double value) => ScrapeUntilAsync(series, now => now == value, $"{value}");

    private async Task<Dictionary<string, double>> ScrapeUntilAsync(string series, Func<double, bool> condition, string expected)
    {
        for (int k = 0; k < 6000; k++)
        {
            Dictionary<string, double> values = await ScrapeAsync();
            if (values.TryGetValue(series, out double now) && condition(now))
                return values;
            await Task.Delay(10);
        }

        Assert.Fail($"{series} did not become {expected}");
        return [];
    }

    private async Task<Dictionary<string, double>> ScrapeAsync()
    {
        using var http = new HttpClient();
        var values = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (string line in (await http.GetStringAsync(Server.MetricsAddress)).Split('\n'))
        {
            if (Series().Match(line) is not { Success: true } series)
                continue;
            string[] labels = [.. Label().Matches(series.Groups["labels"].Value).Select(label => label.Value).Where(label => !label.StartsWith("otel_scope", StringComparison.Ordinal)).Order(StringComparer.Ordinal)];
            values[series.Groups["name"].Value + (labels.Length == 0 ? "" : $"{{{string.Join(',', labels)}}}")] = double.Parse(series.Groups["value"].Value, CultureInfo.InvariantCulture);
        }

        return values;
    }

    private static string KindOf(Instrument instrument)
    {
        string type = instrument.GetType().Name;
        return type.Contains("UpDown", StringComparison.Ordinal) ? "up-down counter"
            : type.Contains("Counter", StringComparison.Ordinal) ? "counter"
            : type.Contains("Histogram", StringComparison.Ordinal) ? "histogram"
            : "gauge";
    }

    [GeneratedRegex("^(?<name>[a-z_]+)(\\{(?<labels>[^}]*)\\})? (?<value>[^ ]+)")]
    private static partial Regex Series();

    [GeneratedRegex("[a-z_]+=\"[^\"]*\"")]
    private static partial Regex Label();
}
