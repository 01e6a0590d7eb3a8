using System.Text;
using System.Text.Json;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl snapshot</c>.</summary>
public sealed class SnapshotCommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(params string[] arguments) => Invocation.RunAsync([.. arguments, "--server", _server.Address]);

    private static string[] Words(string line) => line.Split("  ", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    [Fact]
    public async Task Create_prints_what_was_taken_as_a_table_or_as_json()
    {
        var run = await RunAsync("snapshot", "create", "one", "--id", "before");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        var lines = run.Output.Split('\n');
        Assert.Equal(["SNAPSHOT", "VM", "MEMORY", "SIZE", "INSTRUCTIONS", "GUEST TIME", "CREATED"], Words(lines[0]));
        Assert.Equal(["before", "one", "64 MiB", "5.0 MiB", "1234", "1.500 s", "2030-01-02 03:04:05Z"], Words(lines[1]));
        var request = Assert.IsType<CreateSnapshotRequest>(_server.Snapshots.Requests.Single());
        Assert.Equal(("projects/default", "before", "projects/default/vms/one"), (request.Parent, request.SnapshotId, request.Snapshot.Vm));
        Assert.NotEmpty(request.RequestId);

        var json = await RunAsync("snapshot", "create", "one", "--project", "other", "-o", "json");
        Assert.Equal("projects/other/snapshots/made-up", JsonDocument.Parse(json.Output).RootElement.GetProperty("name").GetString());
    }

    [Fact]
    public async Task Get_list_and_delete_know_short_and_full_names()
    {
        foreach (var id in (string[])["b", "a"])
            await RunAsync("snapshot", "create", "one", "--id", id);
        Assert.Contains("a ", (await RunAsync("snapshot", "get", "projects/default/snapshots/a")).Output, StringComparison.Ordinal);
        var list = await RunAsync("snapshot", "list", "--vm", "one", "--order-by", "create_time desc");
        Assert.Equal(["SNAPSHOT", "a", "b"], list.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => Words(line)[0]));
        var asked = _server.Snapshots.Requests.OfType<ListSnapshotsRequest>().First();
        Assert.Equal(("vm = \"projects/default/vms/one\"", "create_time desc"), (asked.Filter, asked.OrderBy));
        var json = await RunAsync("snapshot", "list", "-o", "json");
        Assert.Equal(2, JsonDocument.Parse(json.Output).RootElement.GetProperty("snapshots").GetArrayLength());
        Assert.Equal(0, (await RunAsync("snapshot", "delete", "a", "projects/default/snapshots/b")).ExitCode);
        Assert.Empty(_server.Snapshots.All);
        var missing = await RunAsync("snapshot", "get", "a");
        Assert.Equal(ExitCode.Failed, missing.ExitCode);
        Assert.Contains("does not exist", missing.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Restore_makes_a_vm_that_runs_or_is_paused()
    {
        await RunAsync("snapshot", "create", "one", "--id", "s");
        var run = await RunAsync("snapshot", "restore", "s", "--id", "two", "-l", "tier=web", "-l", "owner=me");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal("two", Words(run.Output.Split('\n')[1])[0]);
        var request = _server.Snapshots.Requests.OfType<RestoreSnapshotRequest>().Single();
        Assert.Equal(("projects/default/snapshots/s", "two", false, "web", "me"), (request.Name, request.VmId, request.Paused, request.Labels["tier"], request.Labels["owner"]));
        await RunAsync("snapshot", "restore", "s", "--paused", "-o", "json");
        Assert.True(_server.Snapshots.Requests.OfType<RestoreSnapshotRequest>().Last() is { Paused: true, VmId: "" });
    }

    [Fact]
    public async Task Restore_attaches_to_the_console_of_the_new_vm()
    {
        await RunAsync("snapshot", "create", "one", "--id", "s");
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            vm.Print($"got {Encoding.UTF8.GetString(await vm.Input.Reader.ReadAsync(cancellation))}");
            return new VmEnd { Reason = VmEndReason.PowerOff };
        };
        using var input = new MemoryStream("uname\n"u8.ToArray());
        var run = await Invocation.RunAsync(["snapshot", "restore", "s", "--id", "two", "--attach", "--server", _server.Address], input);
        Assert.Equal((0, "got uname\n"), (run.ExitCode, run.Output));
        Assert.Equal(["vmmctl: two goes on where the snapshot was taken.", "vmmctl: the run ended: power-off."], run.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    [Theory]
    [InlineData("restore", "s", "--attach", "--paused")]
    [InlineData("restore", "s", "--attach", "-o", "json")]
    [InlineData("restore")]
    [InlineData("create")]
    [InlineData("delete")]
    public async Task What_cannot_be_asked_for_is_2_and_nothing_is_done(params string[] arguments)
    {
        var run = await RunAsync(["snapshot", .. arguments]);
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Empty(_server.Snapshots.Requests);
    }

    [Fact]
    public async Task Completion_knows_the_commands()
    {
        var run = await Invocation.RunAsync("[suggest:16]", "vmmctl snapshot ");
        Assert.Equal(["create", "delete", "get", "list", "restore"], run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(word => word[0] != '-').Order(StringComparer.Ordinal));
    }
}
