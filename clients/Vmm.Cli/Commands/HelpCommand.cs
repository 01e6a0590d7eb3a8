using System.CommandLine;
using Vmm.Cli.Terminal;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl help [COMMAND…]</c> and <c>vmmctl help exit-codes</c>.</summary>
internal static class HelpCommand
{
    public static Command Create(RootCommand root, CliConsole console)
    {
        var topic = new Argument<string[]>("topic")
        {
            Description = "A command, or exit-codes.",
            Arity = ArgumentArity.ZeroOrMore,
        };
        topic.CompletionSources.Add("exit-codes", "run", "vm", "image", "quickstart", "guest", "completion");
        var command = new Command("help", "Explain a command, or the exit codes.") { topic };
        command.SetAction(async (parsed, cancellation) =>
        {
            var words = parsed.GetValue(topic) ?? [];
            if (words is ["exit-codes"])
            {
                foreach (var (code, meaning) in ExitCode.Table)
                    console.Text.WriteLine($"{code,5}  {meaning}");
                return ExitCode.Success;
            }

            return await root.Parse([.. words, "--help"]).InvokeAsync(parsed.InvocationConfiguration, cancellation).ConfigureAwait(false);
        });
        return command;
    }
}
