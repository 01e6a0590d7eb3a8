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
    private static readonly TimeSpan LookInterval = TimeSpan.FromMilliseconds(500);

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
            commands.Drain(),
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

    private Command Drain()
    {
        var name = new Argument<string>("worker") { Description = "The worker's id or full name." };
        var wait = new Option<bool>("--wait") { Description = "Until all VMs have gone, or those that are left stay: then the exit code is 1, and why they do is told. Interrupted, the worker goes on draining." };
        var output = OutputFormat.Option();
        var command = new Command("drain", "Let a worker take no more VMs and move those that it has to others, as far as these have room.") { name, wait, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var workers = session.Connection.Workers;
            var full = ResourceNames.Worker(parsed.GetRequiredValue(name));
            var worker = await workers.DrainWorkerAsync(new DrainWorkerRequest { Name = full }, cancellationToken: cancellation).ConfigureAwait(false);
            var stay = 0;
            if (parsed.GetValue(wait))
            {
                stay = await WaitAsync(workers, full, cancellation).ConfigureAwait(false);
                worker = await workers.GetWorkerAsync(new GetWorkerRequest { Name = full }, cancellationToken: cancellation).ConfigureAwait(false);
            }

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(worker);
            else
                printer.Workers([worker]);
            return stay == 0 ? ExitCode.Success : ExitCode.Failed;
        });
        return command;
    }

    /// <summary>Tells of each VM that has gone or stays, until there is none of which it is not known.</summary>
    /// <returns>How many stay.</returns>
    private async Task<int> WaitAsync(WorkerService.WorkerServiceClient workers, string worker, CancellationToken cancellation)
    {
        var id = ResourceNames.Id(worker);
        IReadOnlyList<DrainedVm> left = [];
        var told = new Dictionary<string, string>(StringComparer.Ordinal);
        try
        {
            while (true)
            {
                var now = (await workers.GetWorkerDrainAsync(new GetWorkerDrainRequest { Name = worker }, cancellationToken: cancellation).ConfigureAwait(false)).Vms;
                foreach (var gone in left.Where(vm => now.All(there => there.Name != vm.Name)))
                    _console.Error.WriteLine($"vmmctl: {Printer.ShortName(gone.Name)} has gone; {now.Count} VM(s) left on {id}.");
                foreach (var vm in now.Where(vm => vm.Obstacle is not null && told.GetValueOrDefault(vm.Name) != vm.Obstacle.Message))
                {
                    told[vm.Name] = vm.Obstacle.Message;
                    _console.Error.WriteLine($"vmmctl: {Printer.ShortName(vm.Name)} stays: {vm.Obstacle.Message} [{vm.Obstacle.Reason}]");
                }

                left = now;
                if (now.All(vm => vm.Obstacle is not null && vm.Migration is null))
                    break;
                await Task.Delay(LookInterval, cancellation).ConfigureAwait(false);
            }
        }
        catch (Exception) when (cancellation.IsCancellationRequested)
        {
            _console.Error.WriteLine($"vmmctl: {id} goes on draining; 'vmmctl worker uncordon {id}' ends that.");
            throw;
        }

        if (left.Count > 0)
            _console.Error.WriteLine($"vmmctl: {left.Count} VM(s) stay on {id}, which goes on trying.");
        return left.Count;
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
