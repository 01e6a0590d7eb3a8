using System.CommandLine;
using Google.Protobuf.WellKnownTypes;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl project</c>: what VMs, images and snapshots belong to, and how many there may be.</summary>
internal sealed class ProjectCommands
{
    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private ProjectCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new ProjectCommands(console);
        return commands._server.AddTo(new Command("project", "Projects: what VMs, images and snapshots belong to, and how many there may be.")
        {
            commands.Make(),
            commands.Get(),
            commands.List(),
            commands.Update(),
            commands.Delete(),
        });
    }

    private Command Make()
    {
        var id = new Argument<string>("id") { Description = "The new project's id." };
        var display = DisplayOption();
        var quota = new QuotaOptions();
        var output = OutputFormat.Option();
        var command = quota.AddTo(new Command("create", "Make a project.") { id, display, output });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var project = new Project { DisplayName = parsed.GetValue(display) ?? "" };
            if (quota.Apply(parsed, new ProjectQuota()) is { } limits)
                project.Quota = limits;
            Print(parsed.GetRequiredValue(output), await session.Connection.Projects.CreateProjectAsync(
                new CreateProjectRequest { ProjectId = ResourceNames.Id(parsed.GetRequiredValue(id)), Project = project }, cancellationToken: cancellation).ConfigureAwait(false));
            return ExitCode.Success;
        });
        return command;
    }

    private Command Get()
    {
        var name = NameArgument();
        var output = OutputFormat.Option();
        var command = new Command("get", "Show a project.") { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            Print(parsed.GetRequiredValue(output), await session.Connection.Projects.GetProjectAsync(
                new GetProjectRequest { Name = ResourceNames.Project(parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false));
            return ExitCode.Success;
        });
        return command;
    }

    private Command List()
    {
        var output = OutputFormat.Option();
        var command = new Command("list", "List the projects that you may see.") { output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var all = new ListProjectsResponse();
            var request = new ListProjectsRequest { PageSize = 1000 };
            do
            {
                var page = await session.Connection.Projects.ListProjectsAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Projects.AddRange(page.Projects);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Projects(all.Projects);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Update()
    {
        var name = NameArgument();
        var display = DisplayOption();
        var quota = new QuotaOptions();
        var output = OutputFormat.Option();
        var command = quota.AddTo(new Command("update", "Change a project's display name or single limits; 'none' takes a limit away.") { name, display, output });
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            string full = ResourceNames.Project(parsed.GetRequiredValue(name));
            var project = await session.Connection.Projects.GetProjectAsync(new GetProjectRequest { Name = full }, cancellationToken: cancellation).ConfigureAwait(false);
            var mask = new FieldMask();
            if (parsed.GetValue(display) is { } text)
            {
                project.DisplayName = text;
                mask.Paths.Add("display_name");
            }

            if (quota.Apply(parsed, project.Quota ?? new ProjectQuota()) is { } limits)
            {
                project.Quota = limits;
                mask.Paths.Add("quota");
            }

            if (mask.Paths.Count == 0)
                throw new UsageException("Nothing to change was given.");
            // The etag is that of what was read: limits that somebody else has changed meanwhile are not undone.
            Print(parsed.GetRequiredValue(output), await session.Connection.Projects.UpdateProjectAsync(
                new UpdateProjectRequest { Project = project, UpdateMask = mask }, cancellationToken: cancellation).ConfigureAwait(false));
            return ExitCode.Success;
        });
        return command;
    }

    private Command Delete()
    {
        var name = NameArgument();
        var command = new Command("delete", "Delete an empty project and its tokens.") { name };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            await session.Connection.Projects.DeleteProjectAsync(
                new DeleteProjectRequest { Name = ResourceNames.Project(parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private void Print(string format, Project project)
    {
        var printer = new Printer(_console, format);
        if (printer.IsJson)
            printer.Json(project);
        else
            printer.Projects([project]);
    }

    private static Argument<string> NameArgument() => new("project") { Description = "The project's id or full name." };

    private static Option<string?> DisplayOption() => new("--display-name") { Description = "A name for people.", HelpName = "TEXT" };

    /// <summary>The limits of a quota: numbers, or none.</summary>
    private sealed class QuotaOptions
    {
        private static readonly string[] Fields = ["vms", "vcpus", "memory_mib", "images", "streams"];

        private readonly List<(string Field, Option<string?> Option)> _options =
        [
            .. Fields.Select(field => (field, new Option<string?>($"--max-{field.Replace("_mib", "", StringComparison.Ordinal)}")
            {
                Description = $"The most {field.Replace("memory_mib", "memory in MiB", StringComparison.Ordinal)} that there may be; 'none' for no limit.",
                HelpName = "N",
            })),
        ];

        public Command AddTo(Command command)
        {
            foreach (var (_, option) in _options)
                command.Add(option);
            return command;
        }

        /// <summary>The quota with what was given; null where nothing was.</summary>
        public ProjectQuota? Apply(ParseResult parsed, ProjectQuota quota)
        {
            bool given = false;
            foreach (var (field, option) in _options)
            {
                if (parsed.GetValue(option) is not { } text)
                    continue;
                given = true;
                var accessor = ProjectQuota.Descriptor.FindFieldByName(field).Accessor;
                if (text == "none")
                    accessor.Clear(quota);
                else if (long.TryParse(text, out long limit) && limit >= 0 && (field == "memory_mib" || limit <= int.MaxValue))
                    accessor.SetValue(quota, field == "memory_mib" ? limit : (object)(int)limit);
                else
                    throw new UsageException($"{option.Name} {text}: a number or 'none' is needed.");
            }

            return given ? quota : null;
        }
    }
}
