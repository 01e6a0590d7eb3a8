using System.CommandLine;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl image</c>: kernels, initial RAM disks and disks on a server, named by their content.</summary>
internal static class ImageCommands
{
    private const string StandardInput = "-";

    public static Command Create(CliConsole console)
    {
        var server = new ServerOptions();
        return server.AddTo(new Command("image", "Kernels, initial RAM disks and disks on a server.") { Push(console, server), List(console, server), Delete(console, server) });
    }

    private static Command Push(CliConsole console, ServerOptions server)
    {
        var file = new Argument<string>("file") { Description = $"The file; {StandardInput} for standard input." };
        file.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: not StandardInput } token] && InputFile.Problem(token.Value) is { } problem)
                result.AddError(problem);
        });
        var displayName = new Option<string?>("--name") { Description = "What people see. Default: the file's name.", HelpName = "TEXT" };
        var output = OutputFormat.Option();
        var command = new Command("push", "Upload a file, unless the server has its content. What broke off is resumed.") { file, displayName, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var image = await Upload.RunAsync(
                session, parsed.GetRequiredValue(file) is var path && path == StandardInput ? "/dev/stdin" : path, parsed.GetValue(displayName), console, cancellation).ConfigureAwait(false);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(image);
            else
                console.Text.WriteLine(ResourceNames.Id(image.Name));
            return ExitCode.Success;
        });
        return command;
    }

    private static Command List(CliConsole console, ServerOptions server)
    {
        var output = OutputFormat.Option();
        var command = new Command("list", "List images.") { output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            var all = new ListImagesResponse();
            var request = new ListImagesRequest { Parent = session.Parent, PageSize = 1000 };
            do
            {
                var page = await session.Connection.Images.ListImagesAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Images.AddRange(page.Images);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var printer = new Printer(console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Images(all.Images);
            return ExitCode.Success;
        });
        return command;
    }

    private static Command Delete(CliConsole console, ServerOptions server)
    {
        var names = new Argument<string[]>("image") { Description = "An image's name or SHA-256; several are deleted in turn.", Arity = ArgumentArity.OneOrMore };
        var command = new Command("delete", "Delete images that no VM uses.") { names };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = server.Connect(parsed, console);
            foreach (var name in parsed.GetRequiredValue(names))
                await session.Connection.Images.DeleteImageAsync(
                    new DeleteImageRequest { Name = ResourceNames.Image(name, session.Project) }, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }
}
