using System.Text.Json;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl apicv</c>, and what of it a VM is created with.</summary>
public sealed class ApicvCommandTests : IAsyncLifetime
{
    private static readonly string Image = "image:" + new string('0', 64);

    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(string commandLine) => Invocation.RunAsync([.. commandLine.Split(' '), "--server", _server.Address]);

    [Fact]
    public async Task Inhibit_says_which_vcpu_has_deferred_it()
    {
        var run = await RunAsync("apicv inhibit one blockirq --wait");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(
            ["inhibits blockirq  generation 1", "VCPU  STATE     APICV   APPLIED", "0     applied   off     1", "1     deferred  active  0"],
            run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.TrimEnd()));
        var request = Assert.Single(_server.Vms.Requests.OfType<SetApicvInhibitRequest>());
        Assert.Equal(("projects/default/vms/one", ApicvInhibitReason.Blockirq, true), (request.Name, request.Reason, request.Wait));
        Assert.NotEmpty(request.RequestId);
    }

    [Fact]
    public async Task Allow_clears()
    {
        var run = await RunAsync("apicv allow one hyperv -o json");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal("2", JsonDocument.Parse(run.Output).RootElement.GetProperty("generation").GetString());
        Assert.Equal(ApicvInhibitReason.Hyperv, Assert.Single(_server.Vms.Requests.OfType<ClearApicvInhibitRequest>()).Reason);
    }

    [Fact]
    public async Task Show_has_the_vcpus_and_their_controls_by_name()
    {
        var run = await RunAsync("apicv show one");
        Assert.Equal(0, run.ExitCode);
        Assert.Contains("inhibits blockirq,apic-id-modified  policy unsafe-immediate  generation 3", run.Output, StringComparison.Ordinal);
        Assert.Contains(run.Output.Split('\n'), line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries) is ["0", "active", "deferred", "0", "L2", "x2apic"]);
        Assert.Contains(
            run.Output.Split('\n'),
            line => line.Contains("0x401e", StringComparison.Ordinal) && line.Contains("00000300", StringComparison.Ordinal)
                && line.Contains("APIC-register virtualization, Virtual-interrupt delivery", StringComparison.Ordinal));
        var json = await RunAsync("apicv show one -o json");
        Assert.Equal("APICV_POLICY_UNSAFE_IMMEDIATE", JsonDocument.Parse(json.Output).RootElement.GetProperty("policy").GetString());
    }

    [Fact]
    public async Task Watch_prints_instruction_counts_and_takes_a_token()
    {
        var run = await RunAsync("apicv watch one --resume-token abc");
        Assert.Equal(0, run.ExitCode);
        var lines = run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, lines.Length);
        Assert.Contains("123  inhibit-set", lines[0], StringComparison.Ordinal);
        Assert.Contains("45  update-deferred", lines[1], StringComparison.Ordinal);
        Assert.Equal("abc", Assert.Single(_server.Vms.Requests.OfType<WatchApicvRequest>()).ResumeToken);
        Assert.Equal(3, (await RunAsync("apicv watch one -o json")).Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
    }

    [Fact]
    public async Task A_vm_is_created_with_policy_fixed_inhibits_and_early_check()
    {
        await RunAsync($"vm create a --kernel {Image} --apicv-policy unsafe-immediate --apicv absent --apicv disable --nested-early-check --enlightened-vmcs --engine auto --vmx-msr 0x48b=0x200000000 --vmx-msr 1157=5");
        await RunAsync($"vm create b --kernel {Image}");
        var specs = _server.Vms.Requests.OfType<CreateVmRequest>().Select(request => request.Vm.Spec).ToList();
        Assert.Equal(
            new ApicvSpec { Policy = ApicvPolicy.UnsafeImmediate, FixedInhibits = { ApicvInhibitReason.Absent, ApicvInhibitReason.Disable } }, specs[0].Apicv);
        Assert.True(specs[0].Nested.EarlyCheck && specs[0].Nested.EnlightenedVmcs);
        Assert.Equal((0x2_0000_0000UL, 5UL), (specs[0].Nested.VmxCapabilityMsrs[0x48B], specs[0].Nested.VmxCapabilityMsrs[0x485]));
        Assert.Equal((ExecutionEngine.Auto, ExecutionEngine.Unspecified), (specs[0].Engine, specs[1].Engine));
        Assert.Null(specs[1].Apicv);
        Assert.Null(specs[1].Nested);
    }

    [Theory]
    [InlineData("apicv inhibit one boredom", "boredom")]
    [InlineData("apicv inhibit one hyperv --timeout 3", "--timeout needs --wait")]
    [InlineData("apicv inhibit one hyperv --wait --timeout 0", "from 0.001 to 1000000")]
    [InlineData("vm create --kernel image:x --apicv hyperv", "hyperv")]
    [InlineData("vm create --kernel image:x --apicv-policy now", "now")]
    [InlineData("vm create --kernel image:x --vmx-msr 0x48b", "0x48b")]
    [InlineData("vm create --kernel image:x --vmx-msr 1=2 --vmx-msr 0x1=3", "twice")]
    public async Task Wrong_command_line_is_2_and_says_why(string commandLine, string message)
    {
        var wrong = await RunAsync(commandLine);
        Assert.Equal(ExitCode.Usage, wrong.ExitCode);
        Assert.Contains(message, wrong.Error, StringComparison.Ordinal);
    }
}
