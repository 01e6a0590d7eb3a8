using System.CommandLine;
using System.Globalization;
using Google.Protobuf.WellKnownTypes;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl token</c>: rights to call the API.</summary>
internal sealed class TokenCommands
{
    private const int DefaultDays = 90;
    private const int MaxDays = 3650;

    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();

    private TokenCommands(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var commands = new TokenCommands(console);
        return commands._server.AddTo(new Command("token", "Tokens: rights to call the API, for whoever knows their secret.")
        {
            commands.Make(),
            commands.Get(),
            commands.List(),
            commands.Revoke(),
        });
    }

    private Command Make()
    {
        var id = new Argument<string?>("id") { Description = "The new token's id; one is made up where none is given.", Arity = ArgumentArity.ZeroOrOne };
        var role = new Option<string>("--role") { Description = "viewer, operator or admin.", HelpName = "ROLE", Required = true };
        role.AcceptOnlyFromAmong("viewer", "operator", "admin");
        var everywhere = new Option<bool>("--all-projects") { Description = "For all projects and the fleet, instead of the one that --project names." };
        var days = new Option<string>("--days") { Description = $"How long it is valid, from 1 to {MaxDays} days, or 'forever'. Default: {DefaultDays}.", HelpName = "N", DefaultValueFactory = _ => DefaultDays.ToString(CultureInfo.InvariantCulture) };
        var display = new Option<string?>("--display-name") { Description = "A name for people.", HelpName = "TEXT" };
        var file = new Option<string?>("--out") { Description = "Write the secret to a new file that only you can read, instead of printing it.", HelpName = "FILE" };
        var output = OutputFormat.Option();
        var command = new Command("create", "Make a token, and print its secret, which is not to be had again.") { id, role, everywhere, days, display, file, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            var token = new Token
            {
                DisplayName = parsed.GetValue(display) ?? "",
                Role = System.Enum.Parse<Role>(parsed.GetRequiredValue(role), ignoreCase: true),
                ExpireTime = EndOf(parsed.GetRequiredValue(days)),
            };
            await using var session = _server.Connect(parsed, _console);
            if (!parsed.GetValue(everywhere))
                token.Project = session.Parent;
            await using var kept = parsed.GetValue(file) is { } path ? SecretFile.Create(path) : null;
            var made = await session.Connection.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = parsed.GetValue(id) ?? "", Token = token }, cancellationToken: cancellation).ConfigureAwait(false);
            if (kept is not null)
            {
                await KeepAsync(session, made, kept).ConfigureAwait(false);
                made.Secret = "";
            }

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
            {
                printer.Json(made);
                return ExitCode.Success;
            }

            if (kept is not null)
            {
                _console.Error.WriteLine($"vmmctl: {made.Token.Name} is made; its secret is in {parsed.GetValue(file)}.");
                return ExitCode.Success;
            }

            // For a file or a variable: nothing but the secret is on standard output.
            _console.Error.WriteLine($"vmmctl: {made.Token.Name} is made. This is its secret; it is not to be had again:");
            _console.Text.WriteLine(made.Secret);
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>A token whose secret nobody has is of no use, and not to be left behind.</summary>
    private static async Task KeepAsync(Session session, CreateTokenResponse made, SecretFile file)
    {
        try
        {
            await file.WriteAsync(made.Secret, CancellationToken.None).ConfigureAwait(false);
        }
        catch (IOException)
        {
            await session.Connection.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = made.Token.Name }).ConfigureAwait(false);
            throw;
        }
    }

    private Command Get()
    {
        var name = NameArgument();
        var output = OutputFormat.Option();
        var command = new Command("get", "Show a token, without its secret.") { name, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var token = await session.Connection.Tokens.GetTokenAsync(new GetTokenRequest { Name = ResourceNames.Token(parsed.GetRequiredValue(name)) }, cancellationToken: cancellation).ConfigureAwait(false);
            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(token);
            else
                printer.Tokens([token]);
            return ExitCode.Success;
        });
        return command;
    }

    private Command List()
    {
        var filter = new Option<string?>("--filter") { Description = "By name, project and role, as in 'role = admin'.", HelpName = "FILTER" };
        var output = OutputFormat.Option();
        var command = new Command("list", "List the tokens that you may see.") { filter, output };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            var all = new ListTokensResponse();
            var request = new ListTokensRequest { PageSize = 1000, Filter = parsed.GetValue(filter) ?? "" };
            do
            {
                var page = await session.Connection.Tokens.ListTokensAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                all.Tokens.AddRange(page.Tokens);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var printer = new Printer(_console, parsed.GetRequiredValue(output));
            if (printer.IsJson)
                printer.Json(all);
            else
                printer.Tokens(all.Tokens);
            return ExitCode.Success;
        });
        return command;
    }

    private Command Revoke()
    {
        var names = new Argument<string[]>("token") { Description = "A token's id or full name; several are revoked in turn.", Arity = ArgumentArity.OneOrMore };
        var command = new Command("revoke", "Revoke tokens: calls with them are refused, and their streams end, within seconds.") { names };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using var session = _server.Connect(parsed, _console);
            foreach (var name in parsed.GetRequiredValue(names))
                await session.Connection.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = ResourceNames.Token(name) }, cancellationToken: cancellation).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private static Timestamp? EndOf(string days)
    {
        if (days == "forever")
            return null;
        return int.TryParse(days, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number is >= 1 and <= MaxDays
            ? Timestamp.FromDateTimeOffset(DateTimeOffset.UtcNow.AddDays(number))
            : throw new UsageException($"--days {days}: a number from 1 to {MaxDays}, or 'forever', is needed.");
    }

    private static Argument<string> NameArgument() => new("token") { Description = "The token's id or full name." };
}
