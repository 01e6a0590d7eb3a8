using Spectre.Console;
using Spectre.Console.Rendering;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;

namespace Vmm.Cli.Output;

/// <summary>Uploads with a bar on a terminal's standard error.</summary>
internal static class Upload
{
    /// <summary>Uploads a file, unless the server has its content already.</summary>
    public static async Task<V1.Image> RunAsync(
        Session session, string file, string? displayName, CliConsole console, CancellationToken cancellation)
    {
        if (!console.ErrorIsTerminal)
            return await session.Connection.PushImageAsync(file, session.Parent, displayName, cancellation: cancellation).ConfigureAwait(false);
        var screen = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(console.Error) });
        return await screen.Progress()
            .AutoClear(true)
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new BytesColumn())
            .StartAsync(async context =>
            {
                // How much comes out of a pipe is known at its end.
                var length = new FileInfo(file).Length;
                var bar = context.AddTask(Markup.Escape(Path.GetFileName(file)), maxValue: length > 0 ? length : double.MaxValue);
                bar.IsIndeterminate = length == 0;
                return await session.Connection
                    .PushImageAsync(file, session.Parent, displayName, new Sink(bar), cancellation).ConfigureAwait(false);
            }).ConfigureAwait(false);
    }

    /// <summary>What is done of how much and how fast, in the units of the rest of vmmctl; Spectre.Console's own column counts in 1024s and calls it MB.</summary>
    private sealed class BytesColumn : ProgressColumn
    {
        protected override bool NoWrap => true;

        public override IRenderable Render(RenderOptions options, ProgressTask task, TimeSpan deltaTime)
        {
            string speed = task.Speed is { } rate ? $"  {Printer.SizeText((long)rate)}/s" : "";
            string whole = task.IsIndeterminate ? "" : $" of {Printer.SizeText((long)task.MaxValue)}";
            return new Text($"{Printer.SizeText((long)task.Value)}{whole}{speed}");
        }
    }

    private sealed class Sink(ProgressTask bar) : IProgress<long>
    {
        public void Report(long value) => bar.Value = value;
    }
}
