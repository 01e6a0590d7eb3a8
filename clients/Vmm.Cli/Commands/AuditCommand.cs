using System.CommandLine;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl audit</c>: who did what.</summary>
internal static class AuditCommand
{
    private const int DefaultLimit = 50;
    private const int MaxPage = 1000;

    public static Command Create(CliConsole console)
    {
        var server = new ServerOptions();
        var filter = new Option<string?>("--filter") { Description = "By token, method, resource, request_id, code and reason, as in 'token = \"tokens/ci\" AND code != OK'.", HelpName = "FILTER" };
        var limit = new Option<int>("--limit") { Description = $"So many entries at most. Default: {DefaultLimit}.", HelpName = "N", DefaultValueFactory = _ => DefaultLimit }.Within(1, int.MaxValue);
        var everywhere = new Option<bool>("--all-projects") { Description = "Of all projects that you may see, instead of the one that --project names." };
        var output = OutputFormat.Option();
        var command = server.AddTo(new Command("audit", "The audit log, the latest first: changes, and calls that were refused because of who called.") { filter, limit, everywhere, output });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var all = new ListAuditEntriesResponse();
            int wanted = parsed.GetValue(limit);
            var request = new ListAuditEntriesRequest
            {
                Parent = parsed.GetValue(everywhere) ? "" : ResourceNames.Project(session.Project),
                Filter = parsed.GetValue(filter) ?? "",
            };
            do
            {
                request.PageSize = Math.Min(MaxPage, wanted - all.AuditEntries.Count);
                var page = await session.Connection.Audit.ListAuditEntriesAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.AuditEntries.AddRange(page.AuditEntries);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0 && all.AuditEntries.Count < wanted);

            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.AuditEntries(all.AuditEntries);
            return ExitCode.Success;
        });
        return command;
    }
}
