using System.Text;

namespace Vmm.Cli.Terminal;

/// <summary>
/// The whole terminal, drawn again and again in place, on its alternate screen; disposing leaves the terminal as it was found, with what
/// was on it before.
/// </summary>
internal sealed class Screen : IDisposable
{
    private const int DefaultWidth = 80;
    private const int DefaultHeight = 24;

    private readonly CliConsole _console;
    private readonly RawTerminal? _raw;

    /// <summary>Takes the terminal.</summary>
    public Screen(CliConsole console)
    {
        _console = console;
        // Keys count without Enter, and are not echoed.
        _raw = console.InputIsTerminal ? RawTerminal.Enter() : null;
        console.Text.Write("\e[?1049h\e[?25l");
    }

    /// <summary>Columns and lines of now; they may change at any time.</summary>
    public static (int Width, int Height) Size
    {
        get
        {
            try
            {
                return (Console.WindowWidth > 0 ? Console.WindowWidth : DefaultWidth, Console.WindowHeight > 0 ? Console.WindowHeight : DefaultHeight);
            }
            catch (IOException)
            {
                return (DefaultWidth, DefaultHeight);
            }
        }
    }

    /// <summary>Shows these lines and nothing else; the second is the head of a table.</summary>
    public void Draw(IReadOnlyList<string> lines, bool colours)
    {
        var text = new StringBuilder("\e[H");
        for (var i = 0; i < lines.Count; i++)
        {
            var head = i == 1 && colours;
            text.Append(head ? "\e[7m" : "").Append(lines[i]).Append(head ? "\e[0m" : "").Append("\e[K");
            if (i < lines.Count - 1)
                text.Append("\r\n");
        }

        _console.Text.Write(text.Append("\e[J").ToString());
    }

    /// <summary>Completes when q or Ctrl-C was typed, or input has ended.</summary>
    public async Task LeftAsync(CancellationToken cancellation)
    {
        if (_console.Input is not { } keys || !_console.InputIsTerminal)
        {
            await Task.Delay(Timeout.Infinite, cancellation).ConfigureAwait(false);
            return;
        }

        var buffer = new byte[64];
        while (true)
        {
            var count = await keys.ReadAsync(buffer, cancellation).AsTask().WaitAsync(cancellation).ConfigureAwait(false);
            if (count == 0 || buffer.AsSpan(0, count).ContainsAny((byte)'q', (byte)'Q', (byte)3))
                return;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _console.Text.Write("\e[?25h\e[?1049l");
        _raw?.Dispose();
    }
}
