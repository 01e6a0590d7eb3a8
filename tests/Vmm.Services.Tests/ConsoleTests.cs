using System.Security.Cryptography;
using System.Text;
using Grpc.Core;
using Vmm.Client;
using Vmm.Machine;
using Vmm.V1;
using Xunit;
using Until = Vmm.V1.ConsoleAttach.Types.Until;

namespace Vmm.Services.Tests;

public sealed class ConsoleTests : ServerTest
{
    private Task<VmConsole> AttachAsync(string name, Until until = Until.RunEnd, bool write = false, bool takeOver = false, long? scrollback = null)
    {
        var attach = new ConsoleAttach { Name = name, Until = until, Write = write, TakeOver = takeOver };
        if (scrollback is { } bytes)
            attach.ScrollbackBytes = bytes;
        return VmConsole.AttachAsync(Connection, attach, Soon);
    }

    private static async Task<(string Text, ulong Dropped, VmEnd? End)> DrainAsync(VmConsole console)
    {
        using var output = new MemoryStream();
        ulong dropped = 0;
        VmEnd? end = await console.CopyToAsync(output, bytes => dropped += bytes, Soon);
        return (Encoding.Latin1.GetString(output.ToArray()), dropped, end);
    }

    [Fact]
    public async Task Whoever_attaches_before_the_start_sees_all_and_the_end()
    {
        Vm vm = await CreateAsync();
        using VmConsole console = await AttachAsync(vm.Name);
        await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        Factory.Last.Print("Linux version 6.1\n");
        Factory.Last.Print("login: ");
        Factory.Last.Finish(MachineEndReason.DebugExit, 33);
        (string text, ulong dropped, VmEnd? end) = await DrainAsync(console);
        Assert.Equal("Linux version 6.1\nlogin: ", text);
        Assert.Equal(0UL, dropped);
        Assert.Equal(33, end!.ExitCode);
        // The end is told after the VM's state says so: it can be deleted at once.
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
    }

    [Fact]
    public async Task Late_joiners_get_the_scrollback_as_much_as_they_ask_for()
    {
        Vm vm = await StartAsync();
        Factory.Last.Print("0123456789");
        using (VmConsole all = await AttachAsync(vm.Name, Until.ScrollbackEnd))
            Assert.Equal("0123456789", (await DrainAsync(all)).Text);
        using (VmConsole some = await AttachAsync(vm.Name, Until.ScrollbackEnd, scrollback: 4))
        {
            Assert.Equal(6UL, some.StartOffset);
            Assert.Equal("6789", (await DrainAsync(some)).Text);
        }

        using (VmConsole none = await AttachAsync(vm.Name, Until.ScrollbackEnd, scrollback: 0))
            Assert.Equal("", (await DrainAsync(none)).Text);
        using (VmConsole resumed = await VmConsole.AttachAsync(Connection, new ConsoleAttach { Name = vm.Name, Until = Until.ScrollbackEnd, ResumeOffset = 3 }))
            Assert.Equal("3456789", (await DrainAsync(resumed)).Text);
        await FailsAsync(StatusCode.OutOfRange, "CONSOLE_OFFSET_AHEAD", () => VmConsole.AttachAsync(Connection, new ConsoleAttach { Name = vm.Name, ResumeOffset = 11 }));
    }

    [Fact]
    public async Task The_scrollback_is_bounded_and_says_what_is_gone()
    {
        Vm vm = await StartAsync();
        var expected = new StringBuilder();
        for (int i = 0; i < 20_000; i++)
        {
            string line = $"line {i}\n";
            expected.Append(line);
            Factory.Last.Print(line);
        }

        using VmConsole console = await VmConsole.AttachAsync(Connection, new ConsoleAttach { Name = vm.Name, Until = Until.ScrollbackEnd, ResumeOffset = 0 });
        (string text, ulong dropped, _) = await DrainAsync(console);
        Assert.Equal(64 << 10, text.Length);
        Assert.Equal((ulong)(expected.Length - text.Length), dropped);
        Assert.Equal(expected.ToString()[^text.Length..], text);
    }

    [Fact]
    public async Task Refused_input_gets_its_reason_although_the_reader_is_behind()
    {
        Vm vm = await StartAsync();
        // More than flow control lets through, so that the server is in the middle of a write when the input arrives.
        Factory.Last.Print(new string('x', 64 << 10));
        using var call = Vms.Console(cancellationToken: Soon);
        await call.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm.Name, Until = Until.Deleted } });
        await call.ResponseHeadersAsync;
        for (int i = 0; i < 64; i++)
            Factory.Last.Print(new string('y', 32 << 10));
        await call.RequestStream.WriteAsync(new ConsoleRequest());
        RpcException refused = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await call.ResponseStream.MoveNext(Soon))
            {
            }
        });
        Assert.Equal(StatusCode.InvalidArgument, refused.StatusCode);
        Assert.NotEmpty(VmmError.From(refused).Reason);
    }

    [Fact]
    public async Task A_console_can_span_runs_and_ends_with_the_vm()
    {
        Vm vm = await CreateAsync();
        using VmConsole console = await AttachAsync(vm.Name, Until.Deleted);
        for (int run = 0; run < 2; run++)
        {
            await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
            Factory.Last.Print($"run {run}\n");
            await Vms.StopVmAsync(new StopVmRequest { Name = vm.Name });
        }

        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
        var seen = new List<string>();
        await foreach (ConsoleResponse response in console.ReadAsync(Soon))
            seen.Add(response.Output is { } output ? output.Data.ToStringUtf8() : response.ResponseCase.ToString());
        Assert.Equal(["run 0\n", "RunEnded", "run 1\n", "RunEnded"], seen);
    }

    [Fact]
    public async Task There_is_one_writer_until_it_leaves_or_is_relieved()
    {
        Vm vm = await StartAsync();
        VmConsole first = await AttachAsync(vm.Name, write: true);
        Assert.True(first.IsWriter);
        await FailsAsync(StatusCode.FailedPrecondition, "CONSOLE_BUSY", () => AttachAsync(vm.Name, write: true));
        using VmConsole reader = await AttachAsync(vm.Name);
        await first.WriteAsync("from first\n"u8.ToArray());
        await EventuallyAsync(() => Factory.Last.Input == "from first\n", "the input");

        using (VmConsole second = await AttachAsync(vm.Name, write: true, takeOver: true))
        {
            await foreach (ConsoleResponse response in first.ReadAsync(Soon))
            {
                Assert.Equal(ConsoleResponse.ResponseOneofCase.WriterLost, response.ResponseCase);
                break;
            }

            Assert.False(first.IsWriter);
            await second.WriteAsync("from second\n"u8.ToArray());
            await EventuallyAsync(() => Factory.Last.Input.EndsWith("from second\n", StringComparison.Ordinal), "the input");
            await first.WriteAsync("too late"u8.ToArray());
            await FailsAsync(StatusCode.FailedPrecondition, "CONSOLE_NOT_WRITER", () => DrainAsync(first));
        }

        await reader.WriteAsync("not a writer"u8.ToArray());
        await FailsAsync(StatusCode.FailedPrecondition, "CONSOLE_NOT_WRITER", () => DrainAsync(reader));
        first.Dispose();
        await EventuallyAsync(
            () =>
            {
                try
                {
                    AttachAsync(vm.Name, write: true).GetAwaiter().GetResult().Dispose();
                    return true;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.FailedPrecondition)
                {
                    return false;
                }
            },
            "the writer's leaving");
        Assert.DoesNotContain("late", Factory.Last.Input, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Input_waits_for_the_vm_to_run_and_for_its_port_to_have_room()
    {
        Vm vm = await CreateAsync();
        using VmConsole console = await AttachAsync(vm.Name, write: true);
        string input = new('x', 100_000);
        await console.WriteAsync(Encoding.Latin1.GetBytes(input));
        await console.CompleteInputAsync();
        await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await EventuallyAsync(() => Factory.Last.Input.Length == input.Length, "the input");

        Factory.Last.InputRoom = 3;
        using VmConsole second = await AttachAsync(vm.Name, write: true, takeOver: true);
        await second.WriteAsync("abcdefgh"u8.ToArray());
        await EventuallyAsync(() => Factory.Last.Input.EndsWith("abc", StringComparison.Ordinal), "the first part");
        Factory.Last.Drain(2);
        await EventuallyAsync(() => Factory.Last.Input.EndsWith("abcde", StringComparison.Ordinal), "the second part");
        Factory.Last.Drain(100);
        await EventuallyAsync(() => Factory.Last.Input.EndsWith("abcdefgh", StringComparison.Ordinal), "the rest");

        // Output goes on after the end of input.
        Factory.Last.Print("still here");
        Factory.Last.Finish(MachineEndReason.PowerOff);
        Assert.EndsWith("still here", (await DrainAsync(console)).Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_hundred_clients_see_the_same_bytes_and_more_connections_than_one_carry_them()
    {
        Vm vm = await StartAsync();
        VmConsole[] consoles = await Task.WhenAll(Enumerable.Range(0, 100).Select(_ => AttachAsync(vm.Name)));
        Task<(string Text, ulong Dropped, VmEnd? End)>[] drains = [.. consoles.Select(DrainAsync)];
        var expected = new StringBuilder();
        for (int i = 0; i < 500; i++)
        {
            string line = $"tick {i}\n";
            expected.Append(line);
            Factory.Last.Print(line);
        }

        Factory.Last.Finish(MachineEndReason.PowerOff);
        foreach (var result in await Task.WhenAll(drains))
        {
            Assert.Equal(expected.ToString(), result.Text);
            Assert.Equal(VmEndReason.PowerOff, result.End!.Reason);
        }

        foreach (VmConsole console in consoles)
            console.Dispose();
    }

    [Fact]
    public async Task A_flood_is_never_slowed_by_a_reader_that_does_not_read_and_another_vm_does_not_notice()
    {
        Vm vm = await StartAsync();
        FakeMachine flooding = Factory.Last;
        Vm other = await StartAsync("other");
        FakeMachine calm = Factory.Last;
        using VmConsole stuck = await AttachAsync(vm.Name);
        using VmConsole neighbour = await AttachAsync(other.Name);
        const int blocks = 2000;
        byte[] block = new byte[16 << 10];
        for (int i = 0; i < blocks; i++)
        {
            RandomNumberGenerator.Fill(block);
            flooding.Print(block);
        }

        calm.Print("calm");
        calm.Finish(MachineEndReason.PowerOff);
        Assert.Equal("calm", (await DrainAsync(neighbour)).Text);
        flooding.Finish(MachineEndReason.PowerOff);
        (string text, ulong dropped, VmEnd? end) = await DrainAsync(stuck);
        Assert.NotNull(end);
        Assert.True(dropped > 0);
        Assert.Equal((ulong)blocks * (ulong)block.Length, (ulong)text.Length + dropped);
        Assert.Equal(Encoding.Latin1.GetString(block), text[^block.Length..]);
    }

    [Fact]
    public async Task Clients_that_go_away_leave_nothing_behind()
    {
        Vm vm = await StartAsync();
        for (int i = 0; i < 30; i++)
        {
            using VmmConnection doomed = VmmConnection.Open(Server.Address);
            VmConsole console = await VmConsole.AttachAsync(doomed, new ConsoleAttach { Name = vm.Name, Write = true, TakeOver = true });
            await console.WriteAsync("x"u8.ToArray());
        }

        Factory.Last.Print("after");
        using VmConsole last = await AttachAsync(vm.Name, write: true, takeOver: true);
        Factory.Last.Finish(MachineEndReason.PowerOff);
        Assert.Equal("after", (await DrainAsync(last)).Text);
    }

    [Fact]
    public async Task A_console_needs_an_attachment_first_and_only_once()
    {
        Vm vm = await StartAsync();
        using (var call = Vms.Console())
        {
            await call.RequestStream.WriteAsync(new ConsoleRequest { Input = Google.Protobuf.ByteString.CopyFromUtf8("x") });
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => call.ResponseStream.MoveNext());
        }

        using (var call = Vms.Console())
        {
            await call.RequestStream.CompleteAsync();
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => call.ResponseStream.MoveNext());
        }

        using (var call = Vms.Console())
        {
            var attach = new ConsoleRequest { Attach = new ConsoleAttach { Name = vm.Name } };
            await call.RequestStream.WriteAsync(attach);
            Assert.True(await call.ResponseStream.MoveNext());
            await call.RequestStream.WriteAsync(attach);
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => call.ResponseStream.MoveNext());
        }

        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", () => AttachAsync("projects/default/vms/nobody"));
    }
}
