using System.CommandLine;
using System.Globalization;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary>The commands of <c>vmmctl vm</c> that reach into a guest: console, registers, memory, NMI.</summary>
internal sealed class InspectionCommands(CliConsole console, ServerOptions server)
{
    public Command Console()
    {
        var name = VmCommands.NameArgument();
        var readOnly = new Option<bool>("--read-only") { Description = "Do not send standard input." };
        var takeOver = new Option<bool>("--take-over") { Description = "Take the place of another client that sends input." };
        var scrollback = new Option<long?>("--scrollback") { Description = "Earlier output to show, at most so many bytes. Default: all that the server keeps.", HelpName = "BYTES" }.Within(0, long.MaxValue);
        var dump = new Option<bool>("--dump") { Description = "Show the earlier output and end." };
        var follow = new Option<bool>("--follow") { Description = "Stay over the end of a run until the VM is deleted." };
        var command = new Command("console", "Attach to a VM's console. On a terminal, Ctrl-] and q leave it.") { name, readOnly, takeOver, scrollback, dump, follow };
        command.Validators.Add(result =>
        {
            if (result.GetValue(dump) && result.GetValue(follow))
                result.AddError("--dump and --follow exclude each other.");
            if (result.GetValue(readOnly) && result.GetValue(takeOver))
                result.AddError("--read-only and --take-over exclude each other.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var writes = !parsed.GetValue(readOnly) && !parsed.GetValue(dump);
            var attach = new ConsoleAttach
            {
                Name = session.VmName(parsed.GetRequiredValue(name)),
                Write = writes,
                TakeOver = parsed.GetValue(takeOver),
                Until = parsed.GetValue(dump) ? ConsoleAttach.Types.Until.ScrollbackEnd
                    : parsed.GetValue(follow) ? ConsoleAttach.Types.Until.Deleted
                    : ConsoleAttach.Types.Until.RunEnd,
            };
            if (parsed.GetValue(scrollback) is { } bytes)
                attach.ScrollbackBytes = bytes;
            return await AttachAsync(console, session, attach, cancellation).ConfigureAwait(false);
        });
        return command;
    }

    /// <summary>Attaches to a console until it ends or is left.</summary>
    public static Task<int> AttachAsync(CliConsole console, Session session, ConsoleAttach attach, CancellationToken cancellation) => console.WhileReadAsync(
        async cancellation =>
        {
            using var guest = await GuestConsole.AttachAsync(session.Connection, attach, cancellation).ConfigureAwait(false);
            var (end, _) = await Interaction.RunAsync(console, guest, attach.Write, cancellation).ConfigureAwait(false);
            if (end is not null)
                console.Error.WriteLine($"vmmctl: the run ended: {Printer.EndText(end)}.");
            return ExitCode.Success;
        },
        cancellation);

    public Command Registers()
    {
        var name = VmCommands.NameArgument();
        var vcpu = VcpuOption();
        var output = OutputFormat.Option();
        var command = new Command("registers", "Show the registers of a vCPU of a running or paused VM.") { name, vcpu, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var registers = await session.Connection.Vms.GetRegistersAsync(
                new GetRegistersRequest { Name = session.VmName(parsed.GetRequiredValue(name)), Vcpu = parsed.GetValue(vcpu) },
                cancellationToken: cancellation).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(registers);
            else
                printer.Registers(registers);
            return ExitCode.Success;
        });
        return command;
    }

    public Command Memory()
    {
        var name = VmCommands.NameArgument();
        var address = new Argument<ulong>("address") { Description = "Where, as 0x1000 or 4096.", CustomParser = result => ParseAddress(result) };
        var length = new Option<int>("--length") { Description = "Bytes to read, to 1 MiB.", HelpName = "N", DefaultValueFactory = _ => 256 }.Within(1, int.MaxValue);
        var isVirtual = new Option<bool>("--virtual") { Description = "Through the present page tables of a vCPU, rather than guest-physical." };
        var vcpu = VcpuOption();
        var write = new Option<string?>("--write") { Description = "Write these bytes instead of reading.", HelpName = "HEX" };
        var raw = new Option<bool>("--raw") { Description = "Print the bytes as they are." };
        var output = OutputFormat.Option();
        var command = new Command("memory", "Read or write memory of a running or paused VM.") { name, address, length, isVirtual, vcpu, write, raw, output };
        write.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && (token.Value.Length is 0 || token.Value.Length % 2 != 0 || !token.Value.All(char.IsAsciiHexDigit)))
                result.AddError("--write: pairs of hexadecimal digits, as 90c3.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var full = session.VmName(parsed.GetRequiredValue(name));
            var space = parsed.GetValue(isVirtual) ? AddressSpace.Virtual : AddressSpace.Physical;
            var at = parsed.GetValue(address);
            if (parsed.GetValue(write) is { } digits)
            {
                var request = new WriteMemoryRequest
                {
                    Name = full,
                    AddressSpace = space,
                    Vcpu = parsed.GetValue(vcpu),
                    Address = at,
                    Data = ByteString.CopyFrom(Convert.FromHexString(digits)),
                };
                await session.Connection.Vms.WriteMemoryAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                return ExitCode.Success;
            }

            var answer = await session.Connection.Vms.ReadMemoryAsync(
                new ReadMemoryRequest { Name = full, AddressSpace = space, Vcpu = parsed.GetValue(vcpu), Address = at, Length = parsed.GetValue(length) },
                cancellationToken: cancellation).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (parsed.GetValue(raw))
                await console.Output.WriteAsync(answer.Data.Memory, cancellation).ConfigureAwait(false);
            else if (printer.IsJson)
                printer.Json(answer);
            else
                printer.HexDump(at, answer.Data.Span);
            return ExitCode.Success;
        });
        return command;
    }

    public Command Nmi()
    {
        var name = VmCommands.NameArgument();
        var vcpu = VcpuOption();
        var command = new Command("nmi", "Deliver a non-maskable interrupt to a vCPU.") { name, vcpu };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            await session.Connection.Vms.InjectNmiAsync(
                new InjectNmiRequest { Name = session.VmName(parsed.GetRequiredValue(name)), Vcpu = parsed.GetValue(vcpu) },
                cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    public Command Trace()
    {
        var name = VmCommands.NameArgument();
        var length = new Option<string>("--for") { Description = "How long, as 30s or 5m; at most 10m. 0 ends it.", HelpName = "DURATION", DefaultValueFactory = _ => "30s" };
        length.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && !VmSpecOptions.TryDuration(token.Value, out _))
                result.AddError($"--for: '{token.Value}' is not a duration as 30s or 5m.");
        });
        var output = OutputFormat.Option();
        var command = new Command("trace", "Put a VM under full trace: for a while all its spans are exported, and VM exits with them.") { name, length, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            VmSpecOptions.TryDuration(parsed.GetRequiredValue(length), out var duration);
            var response = await session.Connection.Vms.TraceVmAsync(
                new TraceVmRequest { Name = session.VmName(parsed.GetRequiredValue(name)), Duration = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(duration) },
                cancellationToken: cancellation).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(response);
            else
                console.Text.WriteLine(response.EndTime is { } end
                    ? $"under full trace until {end.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss'Z'", System.Globalization.CultureInfo.InvariantCulture)}"
                    : "not under full trace any more");
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>The option that names a vCPU.</summary>
    public static Option<int> VcpuOption() => new Option<int>("--vcpu") { Description = "Which vCPU, from 0.", HelpName = "N" }.Within(0, int.MaxValue);

    private static ulong ParseAddress(System.CommandLine.Parsing.ArgumentResult result)
    {
        var text = result.Tokens[0].Value;
        var isHex = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        if (ulong.TryParse(isHex ? text[2..] : text, isHex ? NumberStyles.AllowHexSpecifier : NumberStyles.None, CultureInfo.InvariantCulture, out var address))
            return address;
        result.AddError($"'{text}' is not an address: write 0x1000 or 4096.");
        return 0;
    }
}
