using System.CommandLine;
using Vmm.Cli.Terminal;
using Vmm.Client;

namespace Vmm.Cli.Sessions;

/// <summary>Which server and project a command is about.</summary>
internal sealed class ServerOptions
{
    /// <summary>Names the server where no option does.</summary>
    public const string ServerVariable = "VMM_SERVER";

    /// <summary>Where <c>vmmd</c> listens unless it is told otherwise.</summary>
    public const string DefaultServer = "http://127.0.0.1:7443";

    /// <summary>Names the project where no option does.</summary>
    public const string ProjectVariable = "VMM_PROJECT";

    private readonly Option<string?> _server = new("--server")
    {
        Description = $"The server: http://HOST:PORT, https://HOST:PORT or unix:/PATH. Default: {ServerVariable}. Where neither names one, run and quickstart start their own, and other commands ask {DefaultServer}.",
        HelpName = "URL",
        Recursive = true,
    };

    private readonly Option<string?> _authorities = Credential("--ca", "A PEM file with the authority of the server's certificate, instead of the system's. Default: VMM_CA.", "FILE");
    private readonly Option<string?> _certificate = Credential("--cert", "A PEM file with the client's certificate, where the server wants one. Default: VMM_CERT.", "FILE");
    private readonly Option<string?> _key = Credential("--key", "The PEM file with that certificate's key. Default: VMM_KEY.", "FILE");

    private readonly Option<string?> _tokenFile = Credential("--token-file", "A file with the secret of a token, where the server wants one. Default: VMM_TOKEN_FILE, or the secret itself in VMM_TOKEN.", "FILE");

    private readonly Option<string?> _project = new("--project")
    {
        Description = $"The project. Default: {ProjectVariable}, or default.",
        HelpName = "ID",
        Recursive = true,
    };

    /// <summary>Gives a command and those below it the options.</summary>
    public Command AddTo(Command command)
    {
        command.Add(_server);
        command.Add(_project);
        command.Add(_authorities);
        command.Add(_certificate);
        command.Add(_key);
        command.Add(_tokenFile);
        return command;
    }

    /// <summary>A session with the named server, or with the one of this host where none is named.</summary>
    /// <exception cref="UsageException">What is named is no address.</exception>
    public Session Connect(ParseResult parsed, CliConsole console) =>
        Session.Connect(Named(parsed, console) ?? DefaultServer, Project(parsed, console), Credentials(parsed, console));

    /// <summary>A session with the named server, or with one in this process where none is named.</summary>
    public async Task<Session> ConnectOrEmbedAsync(ParseResult parsed, CliConsole console, CancellationToken cancellation) =>
        Named(parsed, console) is { } server
            ? Session.Connect(server, Project(parsed, console), Credentials(parsed, console))
            : await Session.EmbedAsync(Project(parsed, console), cancellation).ConfigureAwait(false);

    private string? Named(ParseResult parsed, CliConsole console) => Given(parsed, _server, console, ServerVariable);

    private string? Project(ParseResult parsed, CliConsole console) => Given(parsed, _project, console, ProjectVariable);

    private VmmCredentials Credentials(ParseResult parsed, CliConsole console) => new()
    {
        Authorities = GivenFile(parsed, _authorities, console, "VMM_CA"),
        Certificate = GivenFile(parsed, _certificate, console, "VMM_CERT"),
        Key = GivenFile(parsed, _key, console, "VMM_KEY"),
        Token = GivenFile(parsed, _tokenFile, console, "VMM_TOKEN_FILE") is { } file ? File.ReadAllText(file).Trim() : console.EnvironmentVariable("VMM_TOKEN") is { Length: > 0 } secret ? secret.Trim() : null,
    };

    private static string? GivenFile(ParseResult parsed, Option<string?> option, CliConsole console, string variable) =>
        Given(parsed, option, console, variable) is { } path ? InputFile.Require(path, parsed.GetValue(option) is null ? variable : option.Name) : null;

    private static string? Given(ParseResult parsed, Option<string?> option, CliConsole console, string variable)
    {
        var given = parsed.GetValue(option) ?? console.EnvironmentVariable(variable);
        return string.IsNullOrWhiteSpace(given) ? null : given;
    }

    private static Option<string?> Credential(string name, string description, string helpName) => new(name) { Description = description, HelpName = helpName, Recursive = true };
}
