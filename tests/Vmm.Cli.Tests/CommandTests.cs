using System.Text.Json;
using Vmm.Cli.Terminal;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary>The other commands: parsing, tables, JSON, errors.</summary>
public sealed class CommandTests : IAsyncLifetime
{
    private FakeServer _server = null!;

    public async Task InitializeAsync() => _server = await FakeServer.StartAsync();

    public async Task DisposeAsync() => await _server.DisposeAsync();

    [Theory]
    [InlineData("run", "--kernel")]
    [InlineData("run --kernel /nonexistent", "'/nonexistent' does not exist")]
    [InlineData("run --kernel / ", "'/' is a folder")]
    [InlineData("run --memory 0 --kernel image:x", "--memory: '0' is not")]
    [InlineData("run --cpus -1 --kernel image:x", "--cpus: '-1' is not")]
    [InlineData("run --max-cpus 0 --kernel image:x", "--max-cpus: '0' is not")]
    [InlineData("run --timeout 0 --kernel image:x", "--timeout: '0' is not")]
    [InlineData("run --clock sundial --kernel image:x", "sundial")]
    [InlineData("vm", "Required command")]
    [InlineData("vm frobnicate", "frobnicate")]
    [InlineData("vm stop a --force --grace 3", "exclude each other")]
    [InlineData("vm stop a --grace -3", "from 0 to 3600")]
    [InlineData("vm stop a --grace soon", "--grace: 'soon' is not a number from 0 to 3600.")]
    [InlineData("vm stop a --force --grace soon", "exclude each other")]
    [InlineData("vm list --limit x", "--limit: 'x' is not a whole number above 0.")]
    [InlineData("vm list --limit 0", "--limit: '0' is not")]
    [InlineData("vm registers a --vcpu x", "--vcpu: 'x' is not a whole number of 0 or more.")]
    [InlineData("vm memory a 0 --length 1.5", "--length: '1.5' is not")]
    [InlineData("vm console a --scrollback x", "--scrollback: 'x' is not")]
    [InlineData("vm update a --cpu-weight x", "--cpu-weight: 'x' is not")]
    [InlineData("vm update a --cpu-limit x", "--cpu-limit: 'x' is not")]
    [InlineData("vm update a", "Nothing is named that is to change")]
    [InlineData("vm migrate a --max-pause x", "--max-pause: 'x' is not a whole number from 1 to 600000.")]
    [InlineData("clone a --count x", "--count: 'x' is not a whole number from 1 to 256.")]
    [InlineData("audit --limit x", "--limit: 'x' is not")]
    [InlineData("certs init d --days x", "--days: 'x' is not")]
    [InlineData("apicv inhibit a hyperv --wait --timeout x", "--timeout: 'x' is not")]
    [InlineData("apicv inhibit a hyperv --timeout 1", "--timeout needs --wait")]
    [InlineData("top --interval x", "--interval: 'x' is not a number from 0.1 to 3600.")]
    [InlineData("nested trace a --limit x", "--limit: 'x' is not")]
    [InlineData("run --seed x --kernel image:x", "--seed: 'x' is not")]
    [InlineData("run --memory 1G --kernel image:x", "--memory: '1G' is not a whole number above 0.")]
    [InlineData("image push /", "'/' is a folder")]
    [InlineData("image push /nonexistent", "'/nonexistent' does not exist")]
    [InlineData("vm memory a 0xzz", "is not an address")]
    [InlineData("vm memory a 0 --write 123", "pairs of hexadecimal digits")]
    [InlineData("vm update a --label novalue", "is not KEY=VALUE")]
    [InlineData("vm list -o yaml", "yaml")]
    [InlineData("vm list --server ftp://host", "is not a server's address")]
    [InlineData("vm list --ca /nonexistent", "--ca: '/nonexistent' does not exist.")]
    [InlineData("vm list --ca /", "--ca: '/' is a folder.")]
    [InlineData("vm list --server https://127.0.0.1:1 --ca /dev/null", "There is no certificate")]
    [InlineData("vm list --cert /nonexistent --key /dev/null", "--cert: '/nonexistent' does not exist.")]
    [InlineData("vm list --cert /dev/null --key /nonexistent", "--key: '/nonexistent' does not exist.")]
    [InlineData("vm list --server https://127.0.0.1:1 --cert /dev/null --key /dev/null", "is not as it should be")]
    [InlineData("vm list --token-file /nonexistent", "--token-file: '/nonexistent' does not exist.")]
    [InlineData("vm list --token-file /", "--token-file: '/' is a folder.")]
    [InlineData("vm list --token-file /dev/null", "which is one word")]
    [InlineData("nested load a /nonexistent", "'/nonexistent' does not exist")]
    [InlineData("nested decode /", "'/' is a folder")]
    [InlineData("guest --script /nonexistent", "'/nonexistent' does not exist")]
    [InlineData("quickstart --kernel /nonexistent --initrd /", "'/' is a folder")]
    [InlineData("token create --role viewer --out /", "--out: '/' exists already")]
    [InlineData("token create --role viewer --out /nonexistent/file", "--out: '/nonexistent/file' cannot be made")]
    [InlineData("completion tcsh", "tcsh")]
    [InlineData("quickstart --kernel /nonexistent", "go together")]
    public async Task Wrong_command_line_is_2_and_says_why(string commandLine, string message)
    {
        var wrong = await Invocation.RunAsync(commandLine.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(ExitCode.Usage, wrong.ExitCode);
        Assert.Contains(message, wrong.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("System.", wrong.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("(Parameter", wrong.Error, StringComparison.Ordinal);
        Assert.Equal("", wrong.Output);
    }

    [Theory]
    [InlineData("vm lst", "list")]
    [InlineData("imge", "image")]
    [InlineData("run --kernle x", "--kernel")]
    public async Task Typos_get_suggestions(string commandLine, string suggestion)
    {
        var wrong = await Invocation.RunAsync(commandLine.Split(' '));
        Assert.Contains(suggestion, wrong.Error.Split('\n').Select(line => line.Trim()));
    }

    [Theory]
    [InlineData("x")]
    [InlineData("vm xyz")]
    [InlineData("run x")]
    public async Task Words_like_no_other_get_no_suggestion(string commandLine)
    {
        var wrong = await Invocation.RunAsync(commandLine.Split(' '));
        Assert.Equal(ExitCode.Usage, wrong.ExitCode);
        Assert.DoesNotContain("Did you mean", wrong.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Help_lists_every_exit_code()
    {
        var help = await Invocation.RunAsync("help", "exit-codes");
        Assert.Equal(0, help.ExitCode);
        foreach (var field in typeof(ExitCode).GetFields())
            Assert.Contains(help.Output.Split('\n'), line => line.Trim().StartsWith($"{field.GetRawConstantValue()}  ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Help_of_a_command_is_that_commands()
    {
        var help = await Invocation.RunAsync("help", "vm", "stop");
        Assert.Equal(0, help.ExitCode);
        Assert.Contains("--grace", help.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("bash")]
    [InlineData("zsh")]
    [InlineData("fish")]
    public async Task Completion_scripts_ask_vmmctl(string shell)
    {
        var script = await Invocation.RunAsync("completion", shell);
        Assert.Equal(0, script.ExitCode);
        Assert.Contains("[suggest:", script.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Suggestions_are_what_may_follow()
    {
        var suggested = await Invocation.RunAsync("[suggest:11]", "vmmctl vm st");
        Assert.Equal(["start", "stop"], suggested.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(word => word.StartsWith("st", StringComparison.Ordinal)));
        var options = await Invocation.RunAsync("[suggest:19]", "vmmctl image delete ");
        Assert.DoesNotContain(options.Output.Split('\n'), word => word.StartsWith('/'));
    }

    [Fact]
    public async Task Json_of_a_list_has_every_page()
    {
        foreach (var id in new[] { "b", "a", "c" })
            await Invocation.RunAsync("vm", "create", id, "--kernel", "image:" + new string('0', 64), "--label", "tier=web", "--server", _server.Address);
        var list = await Invocation.RunAsync("vm", "list", "-o", "json", "--server", _server.Address);
        Assert.Equal(0, list.ExitCode);
        var names = JsonDocument.Parse(list.Output).RootElement.GetProperty("vms").EnumerateArray().Select(vm => vm.GetProperty("name").GetString());
        Assert.Equal(["projects/default/vms/a", "projects/default/vms/b", "projects/default/vms/c"], names);

        var few = await Invocation.RunAsync("vm", "list", "--limit", "2", "-o", "json", "--server", _server.Address);
        Assert.Equal(2, JsonDocument.Parse(few.Output).RootElement.GetProperty("vms").GetArrayLength());
    }

    [Fact]
    public async Task Table_has_a_line_for_each_vm()
    {
        await Invocation.RunAsync("vm", "create", "one", "--kernel", "image:" + new string('0', 64), "--memory", "64", "--label", "tier=[web]", "--server", _server.Address);
        var list = await Invocation.RunAsync("vm", "list", "--server", _server.Address);
        var lines = list.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, lines.Length);
        Assert.StartsWith("NAME", lines[0], StringComparison.Ordinal);
        Assert.Equal(["one", "stopped", "1", "64", "MiB", "realtime", "tier=[web]"], lines[1].Split(' ', StringSplitOptions.RemoveEmptyEntries));
    }

    [Fact]
    public async Task A_vcpu_is_added_and_the_table_has_the_runs_number()
    {
        await Invocation.RunAsync("vm", "create", "one", "--kernel", "image:" + new string('0', 64), "--max-cpus", "3", "--start", "--server", _server.Address);
        Assert.Equal(3, Assert.Single(_server.Vms.Requests.OfType<CreateVmRequest>()).Vm.Spec.MaxCpus);
        var added = await Invocation.RunAsync("vm", "add-vcpu", "one", "--etag", "7", "--server", _server.Address);
        Assert.Equal((0, ""), (added.ExitCode, added.Error));
        var request = Assert.Single(_server.Vms.Requests.OfType<AddVcpuRequest>());
        Assert.Equal(("projects/default/vms/one", "7"), (request.Name, request.Etag));
        Assert.NotEqual("", request.RequestId);
        Assert.Equal(["one", "running", "2"], added.Output.Split('\n')[1].Split(' ', StringSplitOptions.RemoveEmptyEntries)[..3]);
    }

    [Fact]
    public async Task What_the_compiler_did_is_shown_with_the_vm()
    {
        await Invocation.RunAsync("vm", "create", "one", "--kernel", "image:" + new string('0', 64), "--engine", "auto", "--start", "--server", _server.Address);
        _server.Vms.Vms["projects/default/vms/one"].Resource.Status.CompiledCode = new CompiledCode
        {
            RegionCount = 12,
            DiscardedRegionCount = 3,
            InstructionCount = 456,
            SizeBytes = 7 << 10,
            LimitBytes = 16 << 20,
            CompileTime = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMilliseconds(1250)),
        };
        var shown = await Invocation.RunAsync("vm", "get", "one", "--server", _server.Address);
        Assert.Contains("compiled: 12 regions, 3 more discarded, 456 instructions; 7 of 16384 KiB in 1.25 s", shown.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("not compiled", shown.Output, StringComparison.Ordinal);
        _server.Vms.Vms["projects/default/vms/one"].Resource.Status.CompiledCode.FailedRegionCount = 2;
        _server.Vms.Vms["projects/default/vms/one"].Resource.Status.CompiledCode.LastFailure = "CodeLimitException: Too many temporaries.";
        shown = await Invocation.RunAsync("vm", "get", "one", "--server", _server.Address);
        Assert.Contains("not compiled, for a bug of vmmd: 2 regions, which are interpreted; the last: CodeLimitException: Too many temporaries.", shown.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Project_is_part_of_the_names()
    {
        await Invocation.RunAsync("vm", "get", "one", "--project", "lab", "--server", _server.Address);
        Assert.Equal("projects/lab/vms/one", Assert.Single(_server.Vms.Requests.OfType<GetVmRequest>()).Name);
    }

    [Fact]
    public async Task Missing_vm_is_1_with_the_servers_words()
    {
        var missing = await Invocation.RunAsync("vm", "get", "none", "--server", _server.Address);
        Assert.Equal(ExitCode.Failed, missing.ExitCode);
        Assert.Contains("There is no 'projects/default/vms/none'", missing.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Unreachable_server_is_4()
    {
        var address = _server.Address;
        await _server.DisposeAsync();
        var list = await Invocation.RunAsync("vm", "list", "--server", address);
        Assert.Equal(ExitCode.Unreachable, list.ExitCode);
    }

    [Fact]
    public async Task Update_keeps_other_labels_and_gives_the_etag_back()
    {
        await Invocation.RunAsync("vm", "create", "one", "--kernel", "image:" + new string('0', 64), "-l", "a=1", "-l", "b=2", "--server", _server.Address);
        var update = await Invocation.RunAsync("vm", "update", "one", "-l", "c=3", "--remove-label", "a", "--server", _server.Address);
        Assert.Equal(0, update.ExitCode);
        var request = Assert.Single(_server.Vms.Requests.OfType<UpdateVmRequest>());
        Assert.Equal("1", request.Vm.Etag);
        Assert.Equal(["b=2", "c=3"], request.Vm.Labels.Select(label => $"{label.Key}={label.Value}").Order());
        Assert.Equal(["labels"], request.UpdateMask.Paths);
    }

    [Fact]
    public async Task Memory_is_dumped_and_written()
    {
        var dump = await Invocation.RunAsync("vm", "memory", "one", "0x1000", "--length", "18", "--server", _server.Address);
        Assert.Equal(
            "0000000000001000  40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  @ABCDEFGHIJKLMNO\n"
            + "0000000000001010  50 51                                            PQ\n",
            dump.Output);
        var write = await Invocation.RunAsync("vm", "memory", "one", "4096", "--virtual", "--vcpu", "1", "--write", "90c3", "--server", _server.Address);
        Assert.Equal(0, write.ExitCode);
        var request = Assert.Single(_server.Vms.Requests.OfType<WriteMemoryRequest>());
        Assert.Equal((4096ul, 1, AddressSpace.Virtual), (request.Address, request.Vcpu, request.AddressSpace));
        Assert.Equal([0x90, 0xC3], request.Data.ToByteArray());
    }

    [Theory]
    [InlineData("abc", "abc", false)]
    [InlineData("a\u001dq", "a", true)]
    [InlineData("\u001d\u001d", "\u001d", false)]
    [InlineData("\u001dx", "\u001dx", false)]
    [InlineData("\u001d|q rest", "", true)]
    [InlineData("q\u001d|\u001d|q", "q\u001dq", false)]
    public void Escape_keys_leave_and_all_others_pass(string typed, string expected, bool leaves)
    {
        // Pieces, divided by |, as they may come from a terminal.
        var escape = new EscapeSequence();
        var passed = new List<byte>();
        var left = false;
        foreach (var piece in typed.Split('|'))
        {
            var bytes = System.Text.Encoding.ASCII.GetBytes(piece);
            var forGuest = new byte[bytes.Length + 1];
            left |= escape.Filter(bytes, forGuest, out var length);
            passed.AddRange(forGuest[..length]);
        }

        Assert.Equal((expected, leaves), (System.Text.Encoding.ASCII.GetString([.. passed]), left));
    }

    [Theory]
    [InlineData("plain", "plain")]
    [InlineData("a\u001b[6nb", "ab")]
    [InlineData("a\u001b|[6|nb", "ab")]
    [InlineData("\u001b[31mred\u001b\u001b[6n", "\u001b[31mred\u001b")]
    public void Cursor_queries_are_taken_out(string output, string expected)
    {
        var filter = new TerminalQueryFilter();
        var left = output.Split('|').SelectMany(piece => filter.Remove(System.Text.Encoding.ASCII.GetBytes(piece))).ToArray();
        Assert.Equal(expected, System.Text.Encoding.ASCII.GetString(left));
    }
}
