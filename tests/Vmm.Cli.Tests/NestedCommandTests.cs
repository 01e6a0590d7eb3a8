using System.Text.Json;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl nested</c>.</summary>
public sealed class NestedCommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(params string[] arguments) => Invocation.RunAsync([.. arguments, "--server", _server.Address]);

    [Fact]
    public async Task Show_has_level_pointers_and_exits_in_words()
    {
        var run = await RunAsync("nested", "show", "one", "--vcpu", "3");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(
            [
                "vcpu 3  L2 runs  77 instructions",
                "vmx on, vmxon pointer 1000",
                "current vmcs 2000, launched",
                "last exit to L1  28 Control-register accesses  qualification 303  MOV CR3, RBX",
                "last exit to L0  10 CPUID  qualification 0",
            ],
            run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(3, Assert.Single(_server.Vms.Requests.OfType<GetVcpuNestedRequest>()).Vcpu);
    }

    [Fact]
    public async Task Vmcs_prints_fields_with_their_meaning()
    {
        var run = await RunAsync("nested", "vmcs", "one", "vmcs12", "--field", "Pin-based VM-execution controls");
        Assert.Equal(0, run.ExitCode);
        Assert.Contains(
            run.Output.Split('\n'),
            line => line.Contains("0x4000", StringComparison.Ordinal) && line.Contains("00000009", StringComparison.Ordinal)
                && line.Contains("External-interrupt exiting, NMI exiting", StringComparison.Ordinal));
        var request = Assert.Single(_server.Vms.Requests.OfType<ReadVmcsRequest>());
        Assert.Equal((VmcsKind.Vmcs12, "Pin-based VM-execution controls"), (request.Vmcs, Assert.Single(request.Fields)));
        var json = await RunAsync("nested", "vmcs", "one", "vmcs01", "-o", "json");
        Assert.Equal("VMCS_KIND_VMCS01", JsonDocument.Parse(json.Output).RootElement.GetProperty("vmcs").GetString());
        var wrong = await RunAsync("nested", "vmcs", "one", "vmcs21");
        Assert.Equal(ExitCode.Usage, wrong.ExitCode);
    }
}
