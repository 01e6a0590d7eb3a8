using System.Diagnostics;
using System.Text.Json;
using Google.Protobuf.WellKnownTypes;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl top</c>, with a server whose counters go on with every look.</summary>
public sealed class TopCommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync()
    {
        _server = await FakeServer.StartAsync();
        Add("quiet", VmState.Stopped, 0);
        Add("fast", VmState.Running, 2_000_000_000);
        Add("slow", VmState.Running, 1_000_000);
    }

    public async Task DisposeAsync() => await _server.DisposeAsync();

    private Task<Invocation> RunAsync(params string[] arguments) => Invocation.RunAsync(["top", .. arguments, "--server", _server.Address]);

    private static string[] Words(string line) => line.Split(' ', StringSplitOptions.RemoveEmptyEntries);

    [Fact]
    public async Task Without_a_terminal_each_look_is_a_table_of_plain_lines()
    {
        var run = await RunAsync("--interval", "0.1", "--count", "2");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        var lines = run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(10, lines.Length);
        Assert.DoesNotContain('\e', run.Output);
        Assert.StartsWith("3 VMs, 2 running; ", lines[0], StringComparison.Ordinal);
        Assert.Equal(["NAME", "STATE", "VCPUS", "MEMORY", "CPU", "MIPS", "L2", "L1", "EXITS/S", "L2", "EXITS/S", "DEFERRALS", "WORKER"], Words(lines[1]));
        string[] fast = Words(lines[2]), slow = Words(lines[3]), quiet = Words(lines[4]);
        Assert.Equal(["fast", "running", "2", "64.0", "MiB"], fast[..5]);
        Assert.Equal(["slow", "quiet"], [slow[0], quiet[0]]);
        // Half of the instructions are L2's, and there is an exit of L1 for every two of L2; how long a look took is known to nobody.
        Assert.Equal("50%", fast[7]);
        Assert.True(double.Parse(fast[6], System.Globalization.CultureInfo.InvariantCulture) > 100 * double.Parse(slow[6], System.Globalization.CultureInfo.InvariantCulture));
        Assert.Equal(["-", "-", "-", "-", "-", "-"], quiet[5..11]);
        Assert.Equal(("7", "a"), (fast[10], fast[11]));
    }

    [Fact]
    public async Task Rows_are_sorted_and_filtered_as_asked_for()
    {
        var run = await RunAsync("--interval", "0.1", "-n", "1", "--sort", "name", "--filter", "state = RUNNING");
        Assert.Equal(["fast", "quiet", "slow"], run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)[2..].Select(line => Words(line)[0]));
        Assert.All(_server.Vms.Requests.OfType<ListVmsRequest>(), request => Assert.Equal("state = RUNNING", request.Filter));
        var json = await RunAsync("--interval", "0.1", "-n", "2", "-o", "json");
        Assert.Equal(2, json.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
        foreach (var line in json.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries))
            Assert.Equal("projects/default/vms/fast", JsonDocument.Parse(line).RootElement.GetProperty("vms")[0].GetProperty("name").GetString());
    }

    [Theory]
    [InlineData("--interval", "0")]
    [InlineData("--interval", "x")]
    [InlineData("--count", "0")]
    [InlineData("--sort", "colour")]
    public async Task Wrong_options_are_told(params string[] options)
    {
        var run = await RunAsync(options);
        Assert.Equal((ExitCode.Usage, ""), (run.ExitCode, run.Output));
    }

    /// <summary>On a terminal (of <c>script</c>, with so many lines) it is drawn in place, q leaves, and the terminal is as it was.</summary>
    [Theory]
    [InlineData(24, 120)]
    [InlineData(3, 20)]
    public async Task On_a_terminal_it_is_drawn_in_place_until_q(int rows, int columns)
    {
        var vmmctl = Path.Combine(AppContext.BaseDirectory, "vmmctl");
        var start = new ProcessStartInfo("script", ["-qec", $"stty rows {rows} cols {columns}; before=$(stty -g); '{vmmctl}' top --interval 0.1 --server {_server.Address}; code=$?; test \"$before\" = \"$(stty -g)\" && echo same $code", "/dev/null"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        start.Environment["TERM"] = "xterm";
        using var process = Process.Start(start)!;
        try
        {
            var seen = "";
            var buffer = new char[4096];
            while (CountOf(seen, "\e[H") < 3)
            {
                var count = await process.StandardOutput.ReadAsync(buffer.AsMemory(), new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token);
                Assert.True(count > 0, seen);
                seen += new string(buffer, 0, count);
            }

            await process.StandardInput.WriteAsync('q');
            await process.StandardInput.FlushAsync();
            seen += await process.StandardOutput.ReadToEndAsync(new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token);
            Assert.StartsWith("\e[?1049h\e[?25l", seen, StringComparison.Ordinal);
            Assert.EndsWith("\e[?25h\e[?1049lsame 0", seen.TrimEnd(), StringComparison.Ordinal);
            var frame = seen.Split("\e[H")[^2];
            Assert.Equal(Math.Min(rows, 5), frame.Split("\r\n").Length);
            Assert.Equal(rows > 5, frame.Contains("fast", StringComparison.Ordinal));
            Assert.Equal(rows < 5, frame.Contains("... and 3 more", StringComparison.Ordinal));
            Assert.All(frame.Split("\r\n"), line => Assert.True(Plain(line).Length <= columns, line));
        }
        finally
        {
            if (!process.HasExited)
                process.Kill(entireProcessTree: true);
        }

        static int CountOf(string text, string part) => text.Split(part).Length - 1;

        static string Plain(string line) => System.Text.RegularExpressions.Regex.Replace(line, "\e\\[[?0-9;]*[A-Za-z]", "");
    }

    private void Add(string id, VmState state, ulong perLook)
    {
        var vm = new V1.Vm
        {
            Name = $"projects/default/vms/{id}",
            Uid = id,
            Spec = new VmSpec { MemoryMib = 64, Cpus = 2 },
            Status = new VmStatus { State = state, Worker = "workers/a" },
        };
        if (state == VmState.Running)
        {
            vm.Status.Cpus = 2;
            vm.Status.RunCount = 1;
            vm.Status.MemoryBytes = 64 << 20;
            vm.Status.Counters = new ExecutionCounters { ApicvDeferrals = 7, ProcessorTime = new Duration() };
        }

        _server.Vms.Vms[vm.Name] = new FakeVm { Resource = vm };
        _server.Vms.Looks[vm.Name] = () =>
        {
            if (vm.Status.Counters is not { } counters)
                return;
            counters.Instructions += perLook;
            counters.L2Instructions += perLook / 2;
            counters.L1Exits += 1000;
            counters.L2Exits += 500;
            counters.ReflectedExits += 1500;
        };
    }
}
