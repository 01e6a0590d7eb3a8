using System.CommandLine;
using System.CommandLine.Invocation;
using Vmm.Cli.Commands;
using Vmm.Cli.Terminal;
using Vmm.Guests;

namespace Vmm.Cli;

/// <summary>The commands of vmmctl, and what becomes of what goes wrong in them.</summary>
public static class CommandLine
{
    /// <summary>Parses and runs one command.</summary>
    /// <param name="arguments">Without the program's name.</param>
    /// <param name="console">Its streams.</param>
    /// <param name="cancellation">Interrupts the command, which undoes what it began.</param>
    /// <returns>The process's exit code, see <see cref="ExitCode"/>.</returns>
    public static async Task<int> RunAsync(IReadOnlyList<string> arguments, CliConsole console, CancellationToken cancellation)
    {
        var parsed = Create(console).Parse(arguments);
        var settings = new InvocationConfiguration
        {
            Output = console.Text,
            Error = console.Error,
            EnableDefaultExceptionHandler = false,
            ProcessTerminationTimeout = null, // signals are Program's
        };
        try
        {
            if (parsed.Action is ParseErrorAction wrong)
            {
                wrong.ShowHelp = false;
                await parsed.InvokeAsync(settings, cancellation).ConfigureAwait(false);
                console.Error.WriteLine($"Try: {CommandPath(parsed)} --help");
                return ExitCode.Usage;
            }

            return await parsed.InvokeAsync(settings, cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            return ExitCode.Interrupted;
        }
        catch (GuestUnavailableException unavailable)
        {
            return Report(console, unavailable.Message, ExitCode.Failed);
        }
        catch (BrokenPipeException)
        {
            return ExitCode.BrokenPipe;
        }
        catch (IOException failure) when (BrokenPipeException.Is(failure))
        {
            return ExitCode.BrokenPipe;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return Report(console, failure.Message, ExitCode.Failed);
        }
    }

    private static int Report(CliConsole console, string message, int code)
    {
        console.Error.WriteLine($"vmmctl: {message}");
        return code;
    }

    private static RootCommand Create(CliConsole console)
    {
        var root = new RootCommand("Virtual machines on an emulated processor, over gRPC.");
        root.Add(GuestCommand.Create(console));
        root.Add(CompletionCommand.Create(console));
        root.Add(HelpCommand.Create(root, console));
        return root;
    }

    private static string CommandPath(ParseResult parsed)
    {
        var names = new List<string>();
        for (var symbol = parsed.CommandResult; symbol?.Command is not RootCommand and not null; symbol = symbol.Parent as System.CommandLine.Parsing.CommandResult)
            names.Insert(0, symbol.Command.Name);
        return string.Join(' ', names.Prepend("vmmctl"));
    }
}
