using System.IO.Pipelines;
using System.Text;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Vmm.V1;
using Xunit;
using GrpcStatus = Grpc.Core.Status;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl run</c> against guests that are delegates, over real connections.</summary>
public sealed class RunTests : IAsyncLifetime
{
    private readonly string _kernel = Path.GetTempFileName();
    private FakeServer _server = null!;

    public async Task InitializeAsync()
    {
        await File.WriteAllTextAsync(_kernel, "a kernel");
        _server = await FakeServer.StartAsync();
    }

    public async Task DisposeAsync()
    {
        await _server.DisposeAsync();
        File.Delete(_kernel);
    }

    [Theory]
    [InlineData(VmEndReason.PowerOff, 0, 0)]
    [InlineData(VmEndReason.DebugExit, 33, 33)]
    [InlineData(VmEndReason.DebugExit, 255, 255)]
    [InlineData(VmEndReason.DebugExit, 0x1FF, 255)]
    [InlineData(VmEndReason.TripleFault, 126, 126)]
    [InlineData(VmEndReason.Failed, 125, 125)]
    [InlineData(VmEndReason.Stopped, 137, 137)]
    public async Task Exit_code_is_the_guests(VmEndReason reason, int guestCode, int expected)
    {
        _server.Vms.Guest = (_, _) => Task.FromResult(new VmEnd { Reason = reason, ExitCode = guestCode });
        var run = await Invocation.RunAsync(Arguments());
        Assert.Equal(expected, run.ExitCode);
        Assert.False(run.Error.Contains("could not be deleted", StringComparison.Ordinal), run.Error);
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Output_is_the_consoles_bytes_and_nothing_else()
    {
        var bytes = Enumerable.Range(0, 256).Select(value => (byte)value).ToArray();
        _server.Vms.Guest = (vm, _) =>
        {
            vm.Print(bytes);
            vm.Print("and more\n");
            return Task.FromResult(new VmEnd { Reason = VmEndReason.PowerOff });
        };
        var run = await Invocation.RunAsync(Arguments());
        Assert.Equal([.. bytes, .. "and more\n"u8], run.OutputBytes);
        Assert.Equal("", run.Error);
    }

    [Fact]
    public async Task Input_reaches_the_guest_whose_output_keeps_coming_after_its_end()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            await foreach (var bytes in vm.Input.Reader.ReadAllAsync(cancellation))
                vm.Print(Encoding.UTF8.GetString(bytes).ToUpperInvariant());
            vm.Print("end");
            return new VmEnd { Reason = VmEndReason.PowerOff };
        };
        var typed = new MemoryStream(Encoding.UTF8.GetBytes(string.Concat(Enumerable.Repeat("line\n", 5000))));
        var run = await Invocation.RunAsync(Arguments(), typed);
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(string.Concat(Enumerable.Repeat("LINE\n", 5000)) + "end", run.Output);
    }

    [Fact]
    public async Task Closed_input_is_told_to_the_server_and_hinders_nothing()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            await vm.InputClosed.Task.WaitAsync(cancellation);
            vm.Print("on my own");
            return new VmEnd { Reason = VmEndReason.DebugExit, ExitCode = 1 };
        };
        var run = await Invocation.RunAsync(Arguments(), input: null);
        Assert.Equal((1, "on my own"), (run.ExitCode, run.Output));
    }

    [Fact]
    public async Task Interrupt_removes_the_vm()
    {
        using var interrupt = new CancellationTokenSource();
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            vm.Print("going");
            await interrupt.CancelAsync();
            await Task.Delay(Timeout.Infinite, cancellation);
            return new VmEnd();
        };
        var never = new Pipe();
        var run = await Invocation.RunAsync(Arguments(), never.Reader.AsStream(), cancellation: interrupt.Token);
        Assert.Equal(ExitCode.Interrupted, run.ExitCode);
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Timeout_removes_the_vm()
    {
        _server.Vms.Guest = async (_, cancellation) =>
        {
            await Task.Delay(Timeout.Infinite, cancellation);
            return new VmEnd();
        };
        var run = await Invocation.RunAsync(Arguments("--timeout", "0.2"));
        Assert.Equal(ExitCode.TimedOut, run.ExitCode);
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Broken_pipe_removes_the_vm()
    {
        _server.Vms.Guest = async (vm, cancellation) =>
        {
            while (true)
            {
                vm.Print("y\n");
                await Task.Delay(1, cancellation);
            }
        };
        var run = await Invocation.RunAsync(Arguments(), input: null, output: new BreakingStream(100));
        Assert.Equal(ExitCode.BrokenPipe, run.ExitCode);
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Refused_creation_names_the_fields()
    {
        var bad = new BadRequest { FieldViolations = { new BadRequest.Types.FieldViolation { Field = "vm.spec.memory_mib", Description = "is above the limit of 65536" } } };
        _server.Vms.Failures["CreateVm"] = Detailed(StatusCode.InvalidArgument, "The spec is not acceptable.", bad);
        var run = await Invocation.RunAsync(Arguments("--memory", "99999999"));
        Assert.Equal(ExitCode.NotStarted, run.ExitCode);
        Assert.Contains("vm.spec.memory_mib: is above the limit of 65536", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_lockstep_found_is_printed()
    {
        _server.Vms.Guest = (_, _) => Task.FromResult(new VmEnd { Reason = VmEndReason.Failed, ExitCode = 125, Detail = "They differ.", Report = "line 1\nline 2" });
        var run = await Invocation.RunAsync(Arguments("--engine", "lockstep", "--clock", "virtual"));
        Assert.Equal(ExecutionEngine.Lockstep, _server.Vms.Requests.OfType<CreateVmRequest>().Single().Vm.Spec.Engine);
        Assert.Equal(125, run.ExitCode);
        Assert.Contains("line 1\nline 2", run.Error, StringComparison.Ordinal);
        Assert.Contains("the engine failed: They differ.", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Refused_start_removes_the_vm()
    {
        _server.Vms.Failures["StartVm"] = new RpcException(new GrpcStatus(StatusCode.FailedPrecondition, "This kernel cannot be booted."));
        var run = await Invocation.RunAsync(Arguments());
        Assert.Equal(ExitCode.NotStarted, run.ExitCode);
        Assert.Contains("cannot be booted", run.Error, StringComparison.Ordinal);
        Assert.Empty(_server.Vms.Vms);
    }

    [Fact]
    public async Task Unreachable_server_is_125()
    {
        var address = _server.Address;
        await _server.DisposeAsync();
        var run = await Invocation.RunAsync("run", "--kernel", _kernel, "--server", address);
        Assert.Equal(ExitCode.NotStarted, run.ExitCode);
        Assert.Contains("cannot be reached", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Spec_is_what_the_options_say()
    {
        var disk = _kernel + ".disk";
        await File.WriteAllTextAsync(disk, "a disk");
        try
        {
            var run = await Invocation.RunAsync(Arguments(
                "--initrd", _kernel, "--append", "console=ttyS0", "--memory", "64", "--cpus", "2", "--clock", "virtual", "--seed", "7",
                "--disk", disk + ",ro", "--disk", disk, "--module", _kernel + " with words"));
            Assert.Equal((0, ""), (run.ExitCode, run.Error));
        }
        finally
        {
            File.Delete(disk);
        }

        var spec = Assert.Single(_server.Vms.Requests.OfType<CreateVmRequest>()).Vm.Spec;
        Assert.Equal((64, 2, "console=ttyS0", Clock.Virtual, 7ul), (spec.MemoryMib, spec.Cpus, spec.CommandLine, spec.Clock, spec.Seed));
        Assert.Equal([true, false], spec.Disks.Select(each => each.ReadOnly));
        Assert.Equal("with words", Assert.Single(spec.Modules).CommandLine);
        Assert.StartsWith("projects/default/images/sha256-", spec.Kernel.Image, StringComparison.Ordinal);
        Assert.Equal(spec.Kernel.Image, spec.Initrd.Image);
        Assert.Contains("a kernel", _server.Images.Contents.Values.Select(Encoding.UTF8.GetString));
        Assert.Contains("a disk", _server.Images.Contents.Values.Select(Encoding.UTF8.GetString));
    }

    private string[] Arguments(params string[] more) => ["run", "--server", _server.Address, "--kernel", _kernel, .. more];

    private static RpcException Detailed(StatusCode code, string message, BadRequest bad)
    {
        var status = new Google.Rpc.Status { Code = (int)code, Message = message, Details = { Any.Pack(bad) } };
        var trailers = new Metadata { { "grpc-status-details-bin", Google.Protobuf.MessageExtensions.ToByteArray(status) } };
        return new RpcException(new GrpcStatus(code, message), trailers);
    }
}
