using System.CommandLine;
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
}
