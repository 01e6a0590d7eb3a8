using System.CommandLine;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl vm</c>: the API's methods on VMs, one command each. Those that look into a guest are in <see cref="InspectionCommands"/>.</summary>
internal sealed class VmCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private VmCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new VmCommands(console);
        var inspection = new InspectionCommands(console, commands._server);
        var vm = new Command("vm", "VMs on a server.")
        {
            commands.CreateVm(),
            commands.Get(),
            commands.List(),
            commands.Update(),
            commands.Start(),
            commands.Stop(),
            commands.Change("pause", "Hold a VM between two instructions.", (vms, name, etag, cancellation) =>
                vms.PauseVmAsync(new PauseVmRequest { Name = name, Etag = etag }, cancellationToken: cancellation).ResponseAsync),
            commands.Change("resume", "Let a paused VM go on.", (vms, name, etag, cancellation) =>
                vms.ResumeVmAsync(new ResumeVmRequest { Name = name, Etag = etag }, cancellationToken: cancellation).ResponseAsync),
            commands.Change("reset", "Press a VM's reset button.", (vms, name, etag, cancellation) =>
                vms.ResetVmAsync(new ResetVmRequest { Name = name, Etag = etag }, cancellationToken: cancellation).ResponseAsync),
            commands.Change("add-vcpu", "Add a vCPU to a VM that runs or is paused.", (vms, name, etag, cancellation) =>
                vms.AddVcpuAsync(new AddVcpuRequest { Name = name, Etag = etag }, cancellationToken: cancellation).ResponseAsync),
            MigrateCommand.Create(console, commands._server),
            commands.Delete(),
            commands.Watch(),
            inspection.Console(),
            inspection.Registers(),
            inspection.Memory(),
            inspection.Nmi(),
            inspection.Trace(),
        };
        return commands._server.AddTo(vm);
    }

    private Command CreateVm()
    {
        var id = new Argument<string?>("id") { Description = "The VM's id; one is made up where none is given.", Arity = ArgumentArity.ZeroOrOne };
        var labels = LabelOption();
        var start = new Option<bool>("--start") { Description = "Start it, too." };
        var output = OutputFormat.Option();
        var spec = new VmSpecOptions();
        var command = new Command("create", "Create a VM, stopped. Files of this host are uploaded.") { id };
        spec.AddTo(command);
        command.Add(labels);
        command.Add(start);
        command.Add(output);
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var vm = new V1.Vm { Spec = await spec.BuildAsync(parsed, session, _console, cancellation).ConfigureAwait(false) };
            AddLabels(vm.Labels, parsed.GetValue(labels));
            var request = new CreateVmRequest { Parent = session.Parent, VmId = parsed.GetValue(id) ?? "", Vm = vm };
            vm = await session.Connection.Vms.CreateVmAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
            if (parsed.GetValue(start))
                vm = await session.Connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Get()
    {
        var name = NameArgument();
        var output = OutputFormat.Option();
        var command = new Command("get", "Show a VM.") { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var vm = await session.Connection.Vms.GetVmAsync(
                new GetVmRequest { Name = session.VmName(parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
            return ExitCode.Success;
        });
        return command;
    }

    private Command List()
    {
        var filter = FilterOption();
        var order = new Option<string?>("--order-by") { Description = "name, create_time, update_time or state; as \"create_time desc, name\".", HelpName = "FIELDS" };
        var limit = new Option<int?>("--limit") { Description = "At most so many.", HelpName = "N" }.Within(1, int.MaxValue);
        var output = OutputFormat.Option();
        var command = new Command("list", "List VMs.") { filter, order, limit, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var all = new ListVmsResponse();
            var most = parsed.GetValue(limit) ?? int.MaxValue;
            var request = new ListVmsRequest
            {
                Parent = session.Parent,
                Filter = parsed.GetValue(filter) ?? "",
                OrderBy = parsed.GetValue(order) ?? "",
                PageSize = Math.Clamp(most, 1, 1000),
            };
            do
            {
                var page = await session.Connection.Vms.ListVmsAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Vms.AddRange(page.Vms.Take(most - all.Vms.Count));
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0 && all.Vms.Count < most);

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Vms(all.Vms);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Update()
    {
        var name = NameArgument();
        var labels = LabelOption();
        var remove = new Option<string[]>("--remove-label") { Description = "Remove a label; may be given again.", HelpName = "KEY" };
        var etag = EtagOption();
        var output = OutputFormat.Option();
        var share = new ShareOptions();
        var command = new Command("update", "Change a VM's labels, of which those not named stay, or what it gets of the processors, also while it runs.") { name, labels, remove };
        share.AddTo(command);
        command.Add(etag);
        command.Add(output);
        command.Validators.Add(result =>
        {
            if (result.GetResult(labels) is null && result.GetResult(remove) is null && !share.IsGiven(result))
                result.AddError("Nothing is named that is to change: --label, --remove-label, --cpu-weight or --cpu-limit.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var full = session.VmName(parsed.GetRequiredValue(name));
            var vm = await session.Connection.Vms.GetVmAsync(new GetVmRequest { Name = full }, cancellationToken: cancellation).ConfigureAwait(false);
            // The etag of what the change is based on, so that nobody else's change is lost.
            var changed = new V1.Vm { Name = full, Etag = parsed.GetValue(etag) is { Length: > 0 } given ? given : vm.Etag, Spec = new VmSpec() };
            changed.Labels.Add(vm.Labels);
            foreach (var key in parsed.GetValue(remove) ?? [])
                changed.Labels.Remove(key);
            AddLabels(changed.Labels, parsed.GetValue(labels));
            var request = new UpdateVmRequest { Vm = changed, UpdateMask = new FieldMask { Paths = { "labels", share.Apply(parsed, changed.Spec) } } };
            vm = await session.Connection.Vms.UpdateVmAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Start() =>
        Change("start", "Start a stopped VM.", (vms, name, etag, cancellation) =>
            vms.StartVmAsync(new StartVmRequest { Name = name, Etag = etag }, cancellationToken: cancellation).ResponseAsync);

    private Command Stop()
    {
        var name = NameArgument();
        var force = new Option<bool>("--force") { Description = "Pull the plug at once." };
        var grace = new Option<double?>("--grace")
        {
            Description = "How long the guest may take after its power button was pressed; then the plug is pulled. Default: 30.",
            HelpName = "SECONDS",
        }.Within(0, 3600);
        var etag = EtagOption();
        var output = OutputFormat.Option();
        var command = new Command("stop", "Stop a VM by its power button, or by force.") { name, force, grace, etag, output };
        command.Validators.Add(result =>
        {
            if (result.GetValue(force) && result.GetResult(grace) is not null)
                result.AddError("--force and --grace exclude each other.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var request = new StopVmRequest
            {
                Name = session.VmName(parsed.GetRequiredValue(name)),
                Etag = parsed.GetValue(etag) ?? "",
                Force = parsed.GetValue(force),
            };
            if (parsed.GetValue(grace) is { } seconds)
                request.GracePeriod = Duration.FromTimeSpan(TimeSpan.FromSeconds(seconds));
            var vm = await session.Connection.Vms.StopVmAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Delete()
    {
        var names = new Argument<string[]>("vm") { Description = "A VM's id or full name; several are deleted in turn.", Arity = ArgumentArity.OneOrMore };
        var force = new Option<bool>("--force") { Description = "Pull the plug first where it is not stopped." };
        var command = new Command("delete", "Delete a VM with its disks.") { names, force };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            foreach (var name in parsed.GetRequiredValue(names))
                await session.Connection.Vms.DeleteVmAsync(
                    new DeleteVmRequest { Name = session.VmName(name), Force = parsed.GetValue(force) }, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Watch()
    {
        var filter = FilterOption();
        var resume = new Option<string?>("--resume-token") { Description = "Go on after the event that carried it.", HelpName = "TOKEN" };
        var output = OutputFormat.Option();
        var command = new Command("watch", "Print the VMs, then every change, until interrupted.") { filter, resume, output };
        command.SetAction((parsed, interrupt) => _console.WhileReadAsync(async cancellation =>
        {
            await using var session = _server.Connect(parsed, _console);
            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            var events = session.Connection.WatchVmsAsync(
                session.Parent,
                parsed.GetValue(filter) ?? "",
                parsed.GetValue(resume),
                () => _console.Error.WriteLine("vmmctl: changes may have been missed; the VMs follow anew."),
                cancellation);
            await foreach (var change in events.ConfigureAwait(false))
            {
                if (printer.IsJson)
                    printer.JsonLine(change);
                else if (change.Type != VmEvent.Types.Type.Synced)
                    _console.Text.WriteLine(
                        $"{change.Type.ToString().ToUpperInvariant(),-9} {Printer.ShortName(change.Vm.Name),-24} "
                        + $"{Printer.StateName(change.Vm.Status?.State ?? VmState.Unspecified),-9} "
                        + $"{$"{Printer.CpusOf(change.Vm)} vCPU(s)",-10} {(Printer.WorkerText(change.Vm) is { Length: > 0 } worker ? $"{worker,-12} " : "")}{Printer.EndText(change.Vm.Status?.End)}".TrimEnd());
            }

            return ExitCode.Success;
        }, interrupt));
        return command;
    }

    private Command Change(
        string verb, string description, Func<VmService.VmServiceClient, string, string, CancellationToken, Task<V1.Vm>> call)
    {
        var name = NameArgument();
        var etag = EtagOption();
        var output = OutputFormat.Option();
        var command = new Command(verb, description) { name, etag, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var vm = await call(
                session.Connection.Vms, session.VmName(parsed.GetRequiredValue(name)), parsed.GetValue(etag) ?? "", cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Vm(vm);
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>The argument that names a VM.</summary>
    public static Argument<string> NameArgument() => new("vm") { Description = "The VM's id or full name." };

    private static Option<string?> EtagOption() => new("--etag") { Description = "Do it only if the VM's etag is this one.", HelpName = "ETAG" };

    private static Option<string?> FilterOption() =>
        new("--filter") { Description = "AIP-160 on name, state and labels, as: state = RUNNING AND labels.tier = \"web\".", HelpName = "TEXT" };

    /// <summary>The option that sets labels.</summary>
    public static Option<string[]> LabelOption()
    {
        var option = new Option<string[]>("--label", "-l") { Description = "Set a label; may be given again.", HelpName = "KEY=VALUE" };
        RequirePairs(option);
        return option;
    }

    /// <summary>Lets an option take KEY=VALUE only.</summary>
    public static void RequirePairs(Option<string[]> option) => option.Validators.Add(result =>
    {
        foreach (var token in result.Tokens)
            if (token.Value.IndexOf('=', StringComparison.Ordinal) <= 0)
                result.AddError($"{option.Name}: '{token.Value}' is not KEY=VALUE.");
    });

    /// <summary>Sets the labels that <see cref="LabelOption"/> gave.</summary>
    public static void AddLabels(IDictionary<string, string> target, string[]? labels)
    {
        foreach (var label in labels ?? [])
        {
            var separator = label.IndexOf('=', StringComparison.Ordinal);
            target[label[..separator]] = label[(separator + 1)..];
        }
    }
}
