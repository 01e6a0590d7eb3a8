using System.CommandLine;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl snapshot</c>: VMs at one moment, from which others go on.</summary>
internal sealed class SnapshotCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private SnapshotCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new SnapshotCommands(console);
        return commands._server.AddTo(new Command("snapshot", "VMs at one moment, with memory, devices and disks, from which any number of VMs go on.")
        {
            commands.Take(),
            commands.Get(),
            commands.List(),
            commands.Restore(),
            commands.Delete(),
        });
    }

    private Command Take()
    {
        var name = VmCommands.NameArgument();
        var id = new Option<string?>("--id") { Description = "The snapshot's id; one is made up where none is given.", HelpName = "ID" };
        var output = OutputFormat.Option();
        var command = new Command("create", "Take a snapshot of a running or paused VM, which then goes on.") { name, id, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var request = new CreateSnapshotRequest
            {
                Parent = session.Parent,
                SnapshotId = parsed.GetValue(id) ?? "",
                Snapshot = new Snapshot { Vm = session.VmName(parsed.GetRequiredValue(name)) },
            };
            var snapshot = await Waiting.RunAsync(
                _console,
                "writing the VM's memory and disks",
                session.Connection.Snapshots.CreateSnapshotAsync(request, cancellationToken: cancellation).ResponseAsync).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Snapshot(snapshot);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Get()
    {
        var name = NameArgument();
        var output = OutputFormat.Option();
        var command = new Command("get", "Show a snapshot.") { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var snapshot = await session.Connection.Snapshots.GetSnapshotAsync(
                new GetSnapshotRequest { Name = FullName(session, parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Snapshot(snapshot);
            return ExitCode.Success;
        });
        return command;
    }

    private Command List()
    {
        var vm = new Option<string?>("--vm") { Description = "Only those of this VM.", HelpName = "VM" };
        var order = new Option<string?>("--order-by") { Description = "name, vm, create_time or size_bytes; as \"create_time desc\".", HelpName = "FIELDS" };
        var output = OutputFormat.Option();
        var command = new Command("list", "List snapshots.") { vm, order, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var all = new ListSnapshotsResponse();
            var request = new ListSnapshotsRequest
            {
                Parent = session.Parent,
                Filter = parsed.GetValue(vm) is { Length: > 0 } of ? $"vm = \"{session.VmName(of)}\"" : "",
                OrderBy = parsed.GetValue(order) ?? "",
                PageSize = 1000,
            };
            do
            {
                var page = await session.Connection.Snapshots.ListSnapshotsAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Snapshots.AddRange(page.Snapshots);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Snapshots(all.Snapshots);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Restore()
    {
        var name = NameArgument();
        var id = new Option<string?>("--id") { Description = "The new VM's id; one is made up where none is given.", HelpName = "VM" };
        var labels = VmCommands.LabelOption();
        var paused = new Option<bool>("--paused") { Description = "Leave the new VM paused." };
        var attach = new Option<bool>("--attach") { Description = "Attach to its console, as vm console does; the VM stays when the console is left." };
        var output = OutputFormat.Option();
        var command = new Command("restore", "Make a new VM that goes on where the snapshot was taken.") { name, id, labels, paused, attach, output };
        command.Validators.Add(result =>
        {
            if (result.GetValue(attach) && result.GetValue(paused))
                result.AddError("--attach and --paused exclude each other.");
            if (result.GetValue(attach) && result.GetValue(output) == OutputFormat.Json)
                result.AddError("--attach and -o json exclude each other.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var request = new RestoreSnapshotRequest
            {
                Name = FullName(session, parsed.GetRequiredValue(name)),
                VmId = parsed.GetValue(id) ?? "",
                Paused = parsed.GetValue(paused),
            };
            VmCommands.AddLabels(request.Labels, parsed.GetValue(labels));
            var vm = await Waiting.RunAsync(
                _console,
                "making a VM of the snapshot",
                session.Connection.Snapshots.RestoreSnapshotAsync(request, cancellationToken: cancellation).ResponseAsync).ConfigureAwait(false);
            if (!parsed.GetValue(attach))
            {
                new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
                return ExitCode.Success;
            }

            _console.Error.WriteLine($"vmmctl: {Printer.ShortName(vm.Name)} goes on where the snapshot was taken.");
            return await InspectionCommands.AttachAsync(_console, session, new ConsoleAttach { Name = vm.Name, Write = true }, cancellation).ConfigureAwait(false);
        });
        return command;
    }

    private Command Delete()
    {
        var names = new Argument<string[]>("snapshot") { Description = "A snapshot's id or full name; several are deleted in turn.", Arity = ArgumentArity.OneOrMore };
        var command = new Command("delete", "Delete snapshots. VMs that were restored from them stay, and run on.") { names };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            foreach (var name in parsed.GetRequiredValue(names))
                await session.Connection.Snapshots.DeleteSnapshotAsync(
                    new DeleteSnapshotRequest { Name = FullName(session, name) }, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private static Argument<string> NameArgument() => new("snapshot") { Description = "The snapshot's id or full name." };

    private static string FullName(Session session, string nameOrId) => ResourceNames.Snapshot(nameOrId, session.Project);
}
