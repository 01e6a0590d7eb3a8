using System.Text.Json;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl clone</c>.</summary>
public sealed class CloneCommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(params string[] arguments) => Invocation.RunAsync(["clone", .. arguments, "--server", _server.Address]);

    [Fact]
    public async Task Prints_the_clones_and_fails_where_one_is_missing()
    {
        var run = await RunAsync("one", "--prefix", "c", "-l", "tier=web");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        Assert.Contains("c-1", run.Output, StringComparison.Ordinal);
        var request = Assert.IsType<CloneVmRequest>(_server.Vms.Requests.Single());
        Assert.Equal(("projects/default", "projects/default/vms/one", 1, "c", false, "web"), (request.Parent, request.Vm, request.Count, request.VmIdPrefix, request.Paused, request.Labels["tier"]));
        Assert.NotEmpty(request.RequestId);

        run = await RunAsync("--snapshot", "s", "-n", "3", "--prefix", "c", "--paused", "-o", "json");
        Assert.Equal((ExitCode.Failed, "vmmctl: c-2: It exists already.\n"), (run.ExitCode, run.Error));
        Assert.Equal(3, JsonDocument.Parse(run.Output).RootElement.GetProperty("results").GetArrayLength());
        request = _server.Vms.Requests.OfType<CloneVmRequest>().Last();
        Assert.Equal(("projects/default/snapshots/s", 3, true), (request.Snapshot, request.Count, request.Paused));
    }

    [Theory]
    [InlineData()]
    [InlineData("one", "--snapshot", "s")]
    [InlineData("one", "--count", "0")]
    [InlineData("one", "--count", "257")]
    public async Task What_cannot_be_asked_for_is_2_and_nothing_is_done(params string[] arguments)
    {
        Assert.Equal(ExitCode.Usage, (await RunAsync(arguments)).ExitCode);
        Assert.Empty(_server.Vms.Requests);
    }
}
