using System.CommandLine;
using System.Globalization;
using Google.Protobuf.WellKnownTypes;
using Spectre.Console;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl vm migrate</c>, and <c>vmmctl migrate</c>: a VM goes to another worker while it runs.</summary>
internal static class MigrateCommand
{
    private const int MaxPauseMilliseconds = 600_000;
    private static readonly TimeSpan LookInterval = TimeSpan.FromMilliseconds(100);

    /// <summary>The command below <c>vm</c>, which has the options of the server.</summary>
    public static Command Create(CliConsole console, ServerOptions server)
    {
        var name = VmCommands.NameArgument();
        var worker = new Option<string?>("--to") { Description = "The worker's id or full name; the one that placement prefers where none is given.", HelpName = "WORKER" };
        var pause = new Option<int?>("--max-pause") { Description = "How long the guest may stand, in milliseconds. Default: 300.", HelpName = "MS" }.Within(1, MaxPauseMilliseconds);
        var output = OutputFormat.Option();
        var command = new Command("migrate", "Move a VM to another worker while it runs; consoles and watches go on.") { name, worker, pause, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var request = new MigrateVmRequest { Name = session.VmName(parsed.GetRequiredValue(name)) };
            if (parsed.GetValue(worker) is { Length: > 0 } target)
                request.Worker = ResourceNames.Worker(target);
            if (parsed.GetValue(pause) is { } milliseconds)
                request.MaxPause = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(milliseconds));
            var moved = await RunAsync(session, request, console, cancellation).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(moved);
            else
                console.Text.WriteLine(Summary(moved));
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>The command at the top, with options of the server of its own.</summary>
    public static Command Create(CliConsole console)
    {
        var server = new ServerOptions();
        return server.AddTo(Create(console, server));
    }

    private static string Summary(MigrateVmResponse moved)
    {
        var stood = moved.Pause is { } pause ? string.Create(CultureInfo.InvariantCulture, $", standing for {pause.ToTimeSpan().TotalMilliseconds:f0} ms") : "";
        return $"{Printer.ShortName(moved.Vm.Name)} moved from {ResourceNames.Id(moved.SourceWorker)} to {ResourceNames.Id(moved.Vm.Status.Worker)}: "
            + $"{Printer.SizeText(moved.TransferredBytes)} in {moved.Rounds} round(s){stood}";
    }

    private static async Task<MigrateVmResponse> RunAsync(Session session, MigrateVmRequest request, CliConsole console, CancellationToken cancellation)
    {
        var call = session.Connection.Vms.MigrateVmAsync(request, cancellationToken: cancellation).ResponseAsync;
        if (!console.ErrorIsTerminal)
            return await call.ConfigureAwait(false);
        var screen = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(console.Error) });
        return await screen.Status().StartAsync("planning", async context =>
        {
            while (await Task.WhenAny(call, Task.Delay(LookInterval, cancellation)).ConfigureAwait(false) != call)
                if (await LookAsync(session, request.Name, cancellation).ConfigureAwait(false) is { } progress)
                    context.Status(
                        $"to {Markup.Escape(ResourceNames.Id(progress.TargetWorker))}, round {progress.Round}: {Printer.SizeText(progress.TransferredBytes)} sent, {Printer.SizeText(progress.RemainingBytes)} left");
            return await call.ConfigureAwait(false);
        }).ConfigureAwait(false);
    }

    // How far it is is only for the eye: what becomes of the move, the call says.
    private static async Task<MigrationProgress?> LookAsync(Session session, string name, CancellationToken cancellation)
    {
        try
        {
            return (await session.Connection.Vms.GetVmAsync(new GetVmRequest { Name = name }, cancellationToken: cancellation).ConfigureAwait(false)).Status?.Migration;
        }
        catch (Grpc.Core.RpcException) when (!cancellation.IsCancellationRequested)
        {
            return null;
        }
    }
}
