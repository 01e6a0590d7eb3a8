using System.CommandLine;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl worker</c>: the processes of a fleet that host VMs.</summary>
internal sealed class WorkerCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private WorkerCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new WorkerCommands(console);
        return commands._server.AddTo(new Command("worker", "The processes of a fleet that host VMs.")
        {
            commands.List(),
            commands.OnOne("get", "Show a worker.", (workers, name, token) => workers.GetWorkerAsync(new GetWorkerRequest { Name = name }, cancellationToken: token)),
            commands.OnOne("cordon", "Let a worker take no more VMs; it runs what it has.", (workers, name, token) => workers.CordonWorkerAsync(new CordonWorkerRequest { Name = name }, cancellationToken: token)),
            commands.OnOne("uncordon", "Let a worker take VMs again.", (workers, name, token) => workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = name }, cancellationToken: token)),
            commands.OnOne(
                "drain",
                "Let a worker take no more VMs and move those that it has to others, as far as these have room.",
                (workers, name, token) => workers.DrainWorkerAsync(new DrainWorkerRequest { Name = name }, cancellationToken: token)),
        });
    }

    private Command List()
    {
        var output = OutputFormat.Option();
        var command = new Command("list", "List workers.") { output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var all = new ListWorkersResponse();
            var request = new ListWorkersRequest { PageSize = 1000 };
            do
            {
                var page = await session.Connection.Workers.ListWorkersAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Workers.AddRange(page.Workers);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Workers(all.Workers);
            return ExitCode.Success;
        });
        return command;
    }

    private Command OnOne(string verb, string description, Func<WorkerService.WorkerServiceClient, string, CancellationToken, AsyncUnaryCall<V1.Worker>> call)
    {
        var name = new Argument<string>("worker") { Description = "The worker's id or full name." };
        var output = OutputFormat.Option();
        var command = new Command(verb, description) { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var worker = await call(session.Connection.Workers, ResourceNames.Worker(parsed.GetRequiredValue(name)), cancellation).ConfigureAwait(false);
            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(worker);
            else
                printer.Workers([worker]);
            return ExitCode.Success;
        });
        return command;
    }
}
