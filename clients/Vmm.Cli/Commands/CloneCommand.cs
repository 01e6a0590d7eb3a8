using System.CommandLine;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl clone</c>: many VMs from one.</summary>
internal static class CloneCommand
{
    private const int MostPerCall = 256;

    public static Command Create(CliConsole console)
    {
        var server = new ServerOptions();
        var vm = new Argument<string?>("vm") { Description = "The id or full name of a VM that runs or is paused.", Arity = ArgumentArity.ZeroOrOne };
        var snapshot = new Option<string?>("--snapshot") { Description = "Instead of a VM: a snapshot's id or full name.", HelpName = "SNAPSHOT" };
        var count = new Option<int?>("--count", "-n") { Description = $"How many, from 1 to {MostPerCall}; one where no number is given.", HelpName = "N" }.Within(1, MostPerCall);
        var prefix = new Option<string?>("--prefix") { Description = "The clones are named PREFIX-1, PREFIX-2 and so on; one is made up where none is given.", HelpName = "PREFIX" };
        var labels = VmCommands.LabelOption();
        var paused = new Option<bool>("--paused") { Description = "Leave the clones paused." };
        var output = OutputFormat.Option();
        var command = new Command("clone", "Make VMs that go on where a VM is now, or where a snapshot was taken. Memory is shared until it is written.")
        {
            vm, snapshot, count, prefix, labels, paused, output,
        };
        command.Validators.Add(result =>
        {
            if (result.GetValue(vm) is null == result.GetValue(snapshot) is null)
                result.AddError("A VM or --snapshot is needed, and not both.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var request = new CloneVmRequest { Parent = session.Parent, Count = parsed.GetValue(count) ?? 1, VmIdPrefix = parsed.GetValue(prefix) ?? "", Paused = parsed.GetValue(paused) };
            if (parsed.GetValue(snapshot) is { } name)
                request.Snapshot = ResourceNames.Snapshot(name, session.Project);
            else
                request.Vm = session.VmName(parsed.GetRequiredValue(vm)!);
            VmCommands.AddLabels(request.Labels, parsed.GetValue(labels));
            var response = await Waiting.RunAsync(console, "making clones", session.Connection.Vms.CloneVmAsync(request, cancellationToken: cancellation).ResponseAsync).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(response);
            else
                printer.Vms(response.Results.Select(result => result.Vm).OfType<Vm>());
            var failures = response.Results.Where(result => result.ResultCase == CloneResult.ResultOneofCase.Failure).ToList();
            foreach (var result in failures)
                console.Error.WriteLine($"vmmctl: {Printer.ShortName(result.Name)}: {result.Failure.Message}");
            return failures.Count == 0 ? ExitCode.Success : ExitCode.Failed;
        });
        return server.AddTo(command);
    }
}
