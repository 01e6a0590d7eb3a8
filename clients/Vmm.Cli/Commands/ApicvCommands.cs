using System.CommandLine;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl apicv</c>: virtualization of the local APIC by the processor, of a running or paused VM.</summary>
internal sealed class ApicvCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private ApicvCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new ApicvCommands(console);
        var apicv = new Command("apicv", "Virtualization of the local APIC by the processor.")
        {
            commands.Change("inhibit", "Add a reason for which APICv is not used; each vCPU applies it, or defers it while L2 is active.", async (vms, name, reason, wait, deadline, cancellation) =>
                await vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = reason, Wait = wait }, deadline: deadline, cancellationToken: cancellation).ConfigureAwait(false)),
            commands.Change("allow", "Take a reason away again.", async (vms, name, reason, wait, deadline, cancellation) =>
                await vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = name, Reason = reason, Wait = wait }, deadline: deadline, cancellationToken: cancellation).ConfigureAwait(false)),
            commands.Show(),
            commands.Watch(),
        };
        return commands._server.AddTo(apicv);
    }

    private Command Change(
        string verb, string description, Func<VmService.VmServiceClient, string, ApicvInhibitReason, bool, DateTime?, CancellationToken, Task<ApicvChange>> call)
    {
        var name = VmCommands.NameArgument();
        var reason = new Argument<string>("reason") { Description = "blockirq or hyperv. The others are fixed at creation or follow from the guest." };
        reason.AcceptOnlyFromAmong([.. Enum.GetValues<ApicvInhibitReason>().Skip(1).Select(value => Words.Of(value))]);
        var wait = new Option<bool>("--wait") { Description = "Come back only when every vCPU has applied it." };
        var timeout = new Option<double?>("--timeout") { Description = "Wait so long at most; the change stays made.", HelpName = "SECONDS" }.Within(0.001, 1e6);
        var output = OutputFormat.Option();
        var command = new Command(verb, description) { name, reason, wait, timeout, output };
        command.Validators.Add(result =>
        {
            if (result.GetResult(timeout) is not null && !result.GetValue(wait))
                result.AddError("--timeout needs --wait.");
        });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            DateTime? deadline = parsed.GetValue(timeout) is { } seconds ? DateTime.UtcNow.AddSeconds(seconds) : null;
            var change = await call(
                session.Connection.Vms,
                session.VmName(parsed.GetRequiredValue(name)),
                Words.Parse<ApicvInhibitReason>(parsed.GetRequiredValue(reason)),
                parsed.GetValue(wait),
                deadline,
                cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).ApicvChange(change);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Show()
    {
        var name = VmCommands.NameArgument();
        var output = OutputFormat.Option();
        var command = new Command("show", "Show the inhibits, how far each vCPU is with them, and its vmcs01 controls.") { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var apicv = await session.Connection.Vms.GetApicvAsync(
                new GetApicvRequest { Name = session.VmName(parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false);
            new Printer(_console, parsed.GetRequiredValue(output)).Apicv(apicv);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Watch()
    {
        var name = VmCommands.NameArgument();
        var resume = new Option<string?>("--resume-token") { Description = "Go on after the event that carried it.", HelpName = "TOKEN" };
        var output = OutputFormat.Option();
        var command = new Command("watch", "Print what happens to APICv, with instruction counts, until interrupted or the VM is deleted.") { name, resume, output };
        command.SetAction((parsed, interrupt) => _console.WhileReadAsync(async cancellation =>
        {
            await using var session = _server.Connect(parsed, _console);
            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            using var call = session.Connection.Vms.WatchApicv(
                new WatchApicvRequest { Name = session.VmName(parsed.GetRequiredValue(name)), ResumeToken = parsed.GetValue(resume) ?? "" }, cancellationToken: cancellation);
            while (await call.ResponseStream.MoveNext(cancellation).ConfigureAwait(false))
                printer.ApicvEvent(call.ResponseStream.Current);
            return ExitCode.Success;
        }, interrupt));
        return command;
    }
}
