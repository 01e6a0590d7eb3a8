using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using Grpc.Core;
using Vmm.Cli.Commands;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
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
                wrong.ShowTypoCorrections = false; // it offers -h for every short word
                Suggestions.Write(console.Error, parsed);
                settings.Output = console.Error; // suggestions are not what was asked for
                await parsed.InvokeAsync(settings, cancellation).ConfigureAwait(false);
                console.Error.WriteLine($"Try: {CommandPath(parsed)} --help");
                return ExitCode.Usage;
            }

            using var traces = CallTraces.Start(console);
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
        catch (UsageException wrong)
        {
            return Report(console, wrong.Message, ExitCode.Usage);
        }
        catch (RpcException) when (cancellation.IsCancellationRequested)
        {
            return ExitCode.Interrupted;
        }
        catch (RpcException failure)
        {
            return Report(console, ErrorText.Of(failure), failure.StatusCode == StatusCode.Unavailable || ErrorText.IsOfConnection(failure) ? ExitCode.Unreachable : ExitCode.Failed);
        }
        catch (BrokenPipeException)
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
        // The aliases of other systems' shells would be offered as completions.
        foreach (var help in root.Options.OfType<HelpOption>())
        {
            help.Aliases.Remove("/h");
            help.Aliases.Remove("/?");
        }
        root.Add(RunCommand.Create(console));
        root.Add(VmCommands.Create(console));
        root.Add(TopCommand.Create(console));
        root.Add(ApicvCommands.Create(console));
        root.Add(NestedCommands.Create(console));
        root.Add(ImageCommands.Create(console));
        root.Add(SnapshotCommands.Create(console));
        root.Add(CloneCommand.Create(console));
        root.Add(WorkerCommands.Create(console));
        root.Add(MigrateCommand.Create(console));
        root.Add(ProjectCommands.Create(console));
        root.Add(TokenCommands.Create(console));
        root.Add(AuditCommand.Create(console));
        root.Add(CertsCommands.Create(console));
        root.Add(QuickstartCommand.Create(console));
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
