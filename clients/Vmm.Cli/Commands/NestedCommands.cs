using System.CommandLine;
using Google.Protobuf;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl nested</c>: the VMX operation of a guest that is a hypervisor.</summary>
internal sealed class NestedCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private NestedCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new NestedCommands(console);
        return commands._server.AddTo(new Command("nested", "The VMX operation of a guest that is a hypervisor.")
        {
            commands.Show(),
            commands.Vmcs(),
            commands.Save(),
            commands.Load(),
            commands.Decode(),
            TraceCommand.Create(console, commands._server),
        });
    }

    private Command Show()
    {
        var name = VmCommands.NameArgument();
        var vcpu = InspectionCommands.VcpuOption();
        var output = OutputFormat.Option();
        var command = new Command("show", "Show who runs on a vCPU, L1's VMX pointers, and the last exits.") { name, vcpu, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var nested = await session.Connection.Vms.GetVcpuNestedAsync(
                new GetVcpuNestedRequest { Name = session.VmName(parsed.GetRequiredValue(name)), Vcpu = parsed.GetValue(vcpu) },
                cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Nested(nested);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Vmcs()
    {
        var name = VmCommands.NameArgument();
        var which = new Argument<string>("vmcs") { Description = "vmcs01 runs L1, vmcs02 runs L2, vmcs12 is L1's own." };
        which.AcceptOnlyFromAmong("vmcs01", "vmcs02", "vmcs12");
        var fields = new Option<string[]>("--field") { Description = "Only this field, by its name in the manual; may be given again.", HelpName = "NAME" };
        var vcpu = InspectionCommands.VcpuOption();
        var output = OutputFormat.Option();
        var command = new Command("vmcs", "Show the fields of a VMCS, with what their bits mean.") { name, which, fields, vcpu, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var request = new ReadVmcsRequest
            {
                Name = session.VmName(parsed.GetRequiredValue(name)),
                Vcpu = parsed.GetValue(vcpu),
                Vmcs = Words.Parse<VmcsKind>(parsed.GetRequiredValue(which)),
                Fields = { parsed.GetValue(fields) ?? [] },
            };
            var vmcs = await session.Connection.Vms.ReadVmcsAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(vmcs);
            else
                printer.Fields(vmcs.Fields);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Save()
    {
        var name = VmCommands.NameArgument();
        var file = new Argument<string>("file") { Description = "The file to write." };
        var vcpu = InspectionCommands.VcpuOption();
        var command = new Command("save", "Write a vCPU's nested state to a file, in the binary form of Linux's KVM_GET_NESTED_STATE.") { name, file, vcpu };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var state = await session.Connection.Vms.GetNestedStateAsync(
                new GetNestedStateRequest { Name = session.VmName(parsed.GetRequiredValue(name)), Vcpu = parsed.GetValue(vcpu) },
                cancellationToken: cancellation).ConfigureAwait(false);
            await File.WriteAllBytesAsync(parsed.GetRequiredValue(file), state.State.ToByteArray(), cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Load()
    {
        var name = VmCommands.NameArgument();
        var file = StateFile();
        var vcpu = InspectionCommands.VcpuOption();
        var command = new Command("load", "Put a nested state from a file into a vCPU of a paused VM.") { name, file, vcpu };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var request = new SetNestedStateRequest
            {
                Name = session.VmName(parsed.GetRequiredValue(name)),
                Vcpu = parsed.GetValue(vcpu),
                State = await ReadStateAsync(parsed.GetRequiredValue(file), cancellation).ConfigureAwait(false),
            };
            await session.Connection.Vms.SetNestedStateAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Decode()
    {
        var file = StateFile();
        var output = OutputFormat.Option();
        var command = new Command("decode", "Show what is in a file with a nested state, by the manual's names; no server is needed.") { file, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            var state = await ReadStateAsync(parsed.GetRequiredValue(file), cancellation).ConfigureAwait(false);
            await using var session = await _server.ConnectOrEmbedAsync(parsed, _console, cancellation).ConfigureAwait(false);
            var decoded = await session.Connection.Vms.DecodeNestedStateAsync(
                new DecodeNestedStateRequest { Parent = session.Parent, State = state }, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).NestedState(decoded);
            return ExitCode.Success;
        });
        return command;
    }

    private static Argument<string> StateFile()
    {
        var file = new Argument<string>("file") { Description = "A file as nested save writes it." };
        file.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && InputFile.Problem(token.Value) is { } problem)
                result.AddError(problem);
        });
        return file;
    }

    // No more than could be right, whatever file it is.
    private static async Task<ByteString> ReadStateAsync(string path, CancellationToken cancellation)
    {
        const int most = 1 << 20;
        await using var file = File.OpenRead(path);
        if (file.Length > most)
            throw new UsageException($"'{path}' has {file.Length} bytes, and is no nested state.");
        return await ByteString.FromStreamAsync(file, cancellation).ConfigureAwait(false);
    }
}
