using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Vmm.V1;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary>What only a process of its own shows: signals, and standard streams that are closed or broken.</summary>
public sealed class ProcessTests : IAsyncLifetime
{
    private const int Interrupt = 2; // SIGINT
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    private readonly string _kernel = Path.GetTempFileName();
    private FakeServer _server = null!;

    public async Task InitializeAsync()
    {
        await File.WriteAllTextAsync(_kernel, "kernel");
        _server = await FakeServer.StartAsync();
    }

    public async Task DisposeAsync()
    {
        await _server.DisposeAsync();
        File.Delete(_kernel);
    }

    [Fact]
    public async Task Closed_standard_input_hinders_nothing()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            await vm.InputClosed.Task.WaitAsync(cancellation);
            vm.Print("alone\n");
            return new VmEnd { Reason = VmEndReason.DebugExit, ExitCode = 5 };
        };
        var (code, output) = await ShellAsync("\"$@\" <&-");
        Assert.Equal((5, "alone\n"), (code, output));
    }

    [Fact]
    public async Task Broken_pipe_ends_the_vm()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            while (true)
            {
                vm.Print("yes\n");
                await Task.Delay(1, cancellation);
            }
        };
        var (code, output) = await ShellAsync("\"$@\" </dev/null | head -n 1; exit ${PIPESTATUS[0]}");
        Assert.Equal((ExitCode.BrokenPipe, "yes\n"), (code, output));
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Vm_ends_when_its_reader_goes_although_it_prints_no_more()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            vm.Print("yes\n");
            await Task.Delay(Timeout.Infinite, cancellation);
            return new VmEnd();
        };
        var (code, output) = await ShellAsync("\"$@\" </dev/null | head -n 1; exit ${PIPESTATUS[0]}");
        Assert.Equal((ExitCode.BrokenPipe, "yes\n"), (code, output));
        Assert.Empty(_server.Vms.Vms);
    }

    [Theory]
    [InlineData("vm watch", 1)]
    [InlineData("vm console vm", 1)]
    [InlineData("apicv watch vm", 1)]
    [InlineData("nested trace vm", 1)]
    [InlineData("nested trace --summary vm", 0)]
    [InlineData("top --interval 3600", 0)]
    public async Task Streams_end_when_their_reader_goes_although_nothing_more_happens(string command, int lines)
    {
        _server.Vms.StreamsStall = true;
        _server.Vms.Add("vm").Print("yes\n");
        _server.Vms.Events.Add(new VmEvent { Type = VmEvent.Types.Type.Added, Vm = new Vmm.V1.Vm { Name = "projects/default/vms/vm" } });
        var (code, output) = await ShellAsync($"\"$@\" </dev/null | {(lines > 0 ? $"head -n {lines}" : "true")}; exit ${{PIPESTATUS[0]}}", command.Split(' '));
        Assert.Equal((ExitCode.BrokenPipe, lines), (code, output.Count(character => character == '\n')));
    }

    [Fact]
    public async Task Outputs_that_share_a_file_follow_each_other()
    {
        _server.Vms.Guest = (vm, _) =>
        {
            vm.Print("guest\n");
            return Task.FromResult(new VmEnd { Reason = VmEndReason.PowerOff });
        };
        var (code, output) = await ShellAsync("f=$(mktemp); { echo before; \"$@\" </dev/null; echo after; } >$f; cat $f; rm $f");
        Assert.Equal((0, "before\nguest\nafter\n"), (code, output));
    }

    [Theory]
    [InlineData("-")]
    [InlineData("/dev/stdin")]
    public async Task An_image_comes_out_of_a_pipe(string file)
    {
        byte[] content = new byte[3 << 20];
        new Random(1).NextBytes(content);
        await File.WriteAllBytesAsync(_kernel, content);
        using var shell = Start(
            "bash", ["-c", "cat \"$0\" | \"$@\"", _kernel, Path.Combine(AppContext.BaseDirectory, "vmmctl"), "image", "push", file, "--server", _server.Address]);
        try
        {
            var output = await shell.StandardOutput.ReadToEndAsync().WaitAsync(Patience);
            await shell.WaitForExitAsync().WaitAsync(Patience);
            var sha256 = Convert.ToHexStringLower(SHA256.HashData(content));
            Assert.Equal((0, $"sha256-{sha256}\n"), (shell.ExitCode, output));
            Assert.Equal(content, _server.Images.Contents[sha256]);
        }
        finally
        {
            if (!shell.HasExited)
                shell.Kill(entireProcessTree: true);
        }
    }

    [Fact]
    public async Task Interrupt_removes_the_vm()
    {
        var started = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        _server.Vms.Guest = async (_, cancellation) =>
        {
            started.SetResult();
            await Task.Delay(Timeout.Infinite, cancellation);
            return new VmEnd();
        };
        using var process = Start(Path.Combine(AppContext.BaseDirectory, "vmmctl"), ["run", "--server", _server.Address, "--kernel", _kernel]);
        try
        {
            await started.Task.WaitAsync(Patience);
            Assert.Equal(0, kill(process.Id, Interrupt));
            await process.WaitForExitAsync().WaitAsync(Patience);
            Assert.Equal(ExitCode.Interrupted, process.ExitCode);
            Assert.Empty(_server.Vms.Vms);
        }
        finally
        {
            if (!process.HasExited)
                process.Kill(entireProcessTree: true);
        }
    }

    private Task<(int Code, string Output)> ShellAsync(string script) => ShellAsync(script, ["run", "--kernel", _kernel]);

    private async Task<(int Code, string Output)> ShellAsync(string script, string[] command)
    {
        using var shell = Start("bash", ["-c", script, "bash", Path.Combine(AppContext.BaseDirectory, "vmmctl"), .. command, "--server", _server.Address]);
        try
        {
            var output = await shell.StandardOutput.ReadToEndAsync().WaitAsync(Patience);
            await shell.WaitForExitAsync().WaitAsync(Patience);
            return (shell.ExitCode, output);
        }
        finally
        {
            if (!shell.HasExited)
                shell.Kill(entireProcessTree: true);
        }
    }

    private static Process Start(string program, string[] arguments) =>
        Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardInput = true })!;

    [DllImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int kill(int process, int signal);
}
