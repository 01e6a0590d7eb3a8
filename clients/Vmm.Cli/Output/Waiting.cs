using Spectre.Console;
using Vmm.Cli.Terminal;

namespace Vmm.Cli.Output;

/// <summary>A sign of life on a terminal while the server works on something that has no measure.</summary>
internal static class Waiting
{
    /// <summary>Waits for a result; on a terminal, standard error says for what and how long already.</summary>
    public static async Task<T> RunAsync<T>(CliConsole console, string what, Task<T> result)
    {
        if (!console.ErrorIsTerminal || result.IsCompleted)
            return await result.ConfigureAwait(false);
        var screen = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(console.Error) });
        return await screen.Progress()
            .AutoClear(true)
            .Columns(new SpinnerColumn(), new TaskDescriptionColumn(), new ElapsedTimeColumn())
            .StartAsync(async context =>
            {
                context.AddTask(Markup.Escape(what)).IsIndeterminate = true;
                return await result.ConfigureAwait(false);
            }).ConfigureAwait(false);
    }
}
