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

    [Theory]
    [InlineData("2m", 120, "under full trace until 1970-01-01 00:02:00Z")]
    [InlineData("0", 0, "not under full trace any more")]
    public async Task Trace_says_when_it_ends(string length, int seconds, string told)
    {
        var run = await Invocation.RunAsync("vm", "trace", "one", "--for", length, "--server", _server.Address);
        Assert.Equal((0, told), (run.ExitCode, run.Output.TrimEnd()));
        Assert.Equal(seconds, Assert.Single(_server.Vms.Requests.OfType<TraceVmRequest>()).Duration.Seconds);
        Assert.Equal(ExitCode.Usage, (await Invocation.RunAsync("vm", "trace", "one", "--for", "long", "--server", _server.Address)).ExitCode);
    }

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

    [Fact]
    public async Task Trace_prints_a_line_a_record_and_what_was_lost()
    {
        var run = await RunAsync("nested", "trace", "one", "--level", "2", "--reason", "cpuid,ept-violation", "--reason", "12", "--owner", "l1", "--kind", "exit,entry-failure", "--vcpu", "0,1", "--limit", "9");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(
            [
                "            41  vcpu 0  L2 exit          l1  rip 0000000000001234  48 EPT violation  qualification 182  write, page not present, of the translated address  physical fee00000  linear 7000",
                "            41  vcpu 0  L2 reflection    l1  rip 0000000000001234  48 EPT violation  qualification 182  write, page not present, of the translated address  physical fee00000  linear 7000",
                "                7 records lost",
                "            42  vcpu 0  L1 entry         l0  rip 0000000000000099  injects external interrupt 0x20",
            ],
            run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[..4]);
        Assert.Contains("the run ended: power-off", run.Error, StringComparison.Ordinal);
        Assert.Equal("                2 records lost", run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1]);
        var request = Assert.Single(_server.Vms.Requests.OfType<TraceExitsRequest>());
        Assert.Equal((2, ExitOwner.L1, 9L), (request.Level, request.Owner, request.Limit));
        Assert.Equal(["cpuid", "ept-violation", "12"], request.Reasons);
        Assert.Equal([ExitTraceKind.Exit, ExitTraceKind.EntryFailure], request.Kinds);
        Assert.Equal([0, 1], request.Vcpus);
        var json = await RunAsync("nested", "trace", "one", "-o", "json");
        string[] records = json.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(5, records.Length);
        Assert.Equal("""{"lost":2}""", records[^1]);
    }

    [Fact]
    public async Task Trace_sums_up_at_the_end_and_when_it_is_interrupted()
    {
        var run = await RunAsync("nested", "trace", "one", "--summary");
        var lines = run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => string.Join(' ', line.Split(' ', StringSplitOptions.RemoveEmptyEntries))).ToList();
        Assert.Equal(
            ["COUNT LEVEL KIND OWNER REASON", "2 L2 exit l1 EPT violation", "1 L1 entry l0 injects external interrupt 0x20", "1 L2 reflection l1 EPT violation", "9 records were lost and are in no count"],
            lines);
        Assert.Equal(0, run.ExitCode);

        _server.Vms.StreamsStall = true;
        using var interrupt = new CancellationTokenSource();
        var running = Invocation.RunAsync(["nested", "trace", "one", "--summary", "-o", "json", "--server", _server.Address], input: null, cancellation: interrupt.Token);
        await _server.Vms.TraceSent.WaitAsync(TimeSpan.FromMinutes(1));
        await interrupt.CancelAsync();
        var interrupted = await running;
        Assert.Equal(ExitCode.Interrupted, interrupted.ExitCode);
        // What the client has counted by then depends on the network.
        Assert.StartsWith("{\"lost\":", interrupted.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--kind", "reflexion")]
    [InlineData("--level", "3")]
    [InlineData("--owner", "l2")]
    [InlineData("--limit", "0")]
    [InlineData("--vcpu", "one")]
    public async Task A_trace_that_cannot_be_asked_for_is_2_and_says_why(string option, string value)
    {
        var wrong = await RunAsync("nested", "trace", "one", option, value);
        Assert.Equal(ExitCode.Usage, wrong.ExitCode);
        Assert.Contains(value, wrong.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task State_is_saved_to_a_file_and_loaded_from_it()
    {
        string folder = Directory.CreateTempSubdirectory("vmm-nested-").FullName;
        try
        {
            string file = Path.Combine(folder, "state");
            Assert.Equal(0, (await RunAsync("nested", "save", "one", file, "--vcpu", "1")).ExitCode);
            Assert.Equal([1, 2, 3], await File.ReadAllBytesAsync(file));
            Assert.Equal(0, (await RunAsync("nested", "load", "one", file)).ExitCode);
            Assert.Equal([1, 2, 3], Assert.Single(_server.Vms.Requests.OfType<SetNestedStateRequest>()).State.ToByteArray());
            Assert.Equal(1, Assert.Single(_server.Vms.Requests.OfType<GetNestedStateRequest>()).Vcpu);

            // Without a server: what is no nested state says why, what is one is shown.
            var wrong = await Invocation.RunAsync("nested", "decode", file);
            Assert.Equal(ExitCode.Failed, wrong.ExitCode);
            Assert.Contains("It has 3 bytes", wrong.Error, StringComparison.Ordinal);
            byte[] state = new byte[128 + 4096];
            BitConverter.TryWriteBytes(state.AsSpan(0), (ushort)1);
            BitConverter.TryWriteBytes(state.AsSpan(4), state.Length);
            BitConverter.TryWriteBytes(state.AsSpan(8), 0x1000L);
            BitConverter.TryWriteBytes(state.AsSpan(16), 0x2000L);
            BitConverter.TryWriteBytes(state.AsSpan(128), 0x11E57ED0);
            await File.WriteAllBytesAsync(file, state);
            var decoded = await Invocation.RunAsync("nested", "decode", file);
            Assert.Equal(0, decoded.ExitCode);
            Assert.Equal(["vmx on, vmxon pointer 1000", "L2 is active", "vmcs12 at 2000, revision 11e57ed0, clear"], decoded.Output.Split('\n')[..3]);
            Assert.Contains("Guest RIP", decoded.Output, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
