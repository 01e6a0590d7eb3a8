using System.CommandLine;
using Vmm.Cli.Terminal;

namespace Vmm.Cli.Sessions;

/// <summary>Which server and project a command is about.</summary>
internal sealed class ServerOptions
{
    /// <summary>Names the server where no option does.</summary>
    public const string ServerVariable = "VMM_SERVER";

    /// <summary>Where <c>vmmd</c> listens unless it is told otherwise.</summary>
    public const string DefaultServer = "http://127.0.0.1:7443";

    private readonly Option<string?> _server = new("--server")
    {
        Description = $"The server: http://HOST:PORT, https://HOST:PORT or unix:/PATH. Default: {ServerVariable}. Where neither names one, run and quickstart start their own, and other commands ask {DefaultServer}.",
        HelpName = "URL",
        Recursive = true,
    };

    private readonly Option<string?> _project = new("--project")
    {
        Description = "The project. Default: default.",
        HelpName = "ID",
        Recursive = true,
    };

    /// <summary>Gives a command and those below it the options.</summary>
    public Command AddTo(Command command)
    {
        command.Add(_server);
        command.Add(_project);
        return command;
    }

    /// <summary>A session with the named server, or with the one of this host where none is named.</summary>
    /// <exception cref="UsageException">What is named is no address.</exception>
    public Session Connect(ParseResult parsed, CliConsole console) =>
        Session.Connect(Named(parsed, console) ?? DefaultServer, parsed.GetValue(_project));

    /// <summary>A session with the named server, or with one in this process where none is named.</summary>
    public async Task<Session> ConnectOrEmbedAsync(ParseResult parsed, CliConsole console, CancellationToken cancellation) =>
        Named(parsed, console) is { } server
            ? Session.Connect(server, parsed.GetValue(_project))
            : await Session.EmbedAsync(parsed.GetValue(_project), cancellation).ConfigureAwait(false);

    private string? Named(ParseResult parsed, CliConsole console)
    {
        var named = parsed.GetValue(_server) ?? console.EnvironmentVariable(ServerVariable);
        return string.IsNullOrWhiteSpace(named) ? null : named;
    }
}
