using System.Text;

namespace Vmm.Cli.Terminal;

/// <summary>What vmmctl reads and writes. Tests give streams of their own.</summary>
public sealed class CliConsole : IDisposable
{
    private readonly StreamWriter _text;

    /// <summary>Writes to the given streams.</summary>
    /// <param name="output">Standard output.</param>
    /// <param name="error">Standard error.</param>
    /// <param name="input">Standard input, or null where it is closed.</param>
    public CliConsole(Stream output, TextWriter error, Stream? input)
    {
        Output = output;
        Error = error;
        Input = input;
        _text = new StreamWriter(output, new UTF8Encoding(encoderShouldEmitUTF8Identifier: false), leaveOpen: true) { AutoFlush = true };
    }

    /// <summary>Standard output, for bytes of a guest.</summary>
    public Stream Output { get; }

    /// <summary>Standard output, for text.</summary>
    public TextWriter Text => _text;

    /// <summary>Standard error: progress, warnings and errors.</summary>
    public TextWriter Error { get; }

    /// <summary>Standard input, or null where it is closed.</summary>
    public Stream? Input { get; }

    /// <summary>Whether a person types: the terminal is then in raw mode while a guest's console is attached.</summary>
    public bool InputIsTerminal { get; init; }

    /// <summary>Whether standard output is a terminal: tables are then fitted to its width.</summary>
    public bool OutputIsTerminal { get; init; }

    /// <summary>Whether standard error is a terminal: progress is then drawn in place.</summary>
    public bool ErrorIsTerminal { get; init; }

    /// <summary>The environment variable of that name, or null.</summary>
    public Func<string, string?> EnvironmentVariable { get; init; } = Environment.GetEnvironmentVariable;

    /// <summary>Completes when whoever reads standard output has gone away; where that cannot be told, never.</summary>
    public Func<Task> ReaderGoneAsync { get; init; } = static () => Task.Delay(Timeout.Infinite);

    /// <summary>The process's own streams.</summary>
    public static CliConsole OfProcess() => OfProcess(DescriptorStream.StandardOutput());

    private static CliConsole OfProcess(Stream output) => new(
        output,
        new StreamWriter(Console.OpenStandardError(), new UTF8Encoding(encoderShouldEmitUTF8Identifier: false)) { AutoFlush = true },
        DescriptorStream.StandardInput())
    {
        ReaderGoneAsync = output is DescriptorStream descriptor ? descriptor.ReaderGoneAsync : static () => Task.Delay(Timeout.Infinite),
        InputIsTerminal = !Console.IsInputRedirected,
        OutputIsTerminal = !Console.IsOutputRedirected,
        ErrorIsTerminal = !Console.IsErrorRedirected,
    };

    /// <summary>
    /// Runs what prints as things happen, for as long as somebody reads it. A write would find out as well that nobody does, but only when the next thing
    /// happens, which may be never.
    /// </summary>
    /// <exception cref="BrokenPipeException">The reader has gone; what was running has ended.</exception>
    public async Task<int> WhileReadAsync(Func<CancellationToken, Task<int>> print, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(print);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var printing = print(stop.Token);
        if (await Task.WhenAny(printing, ReaderGoneAsync()).ConfigureAwait(false) == printing)
            return await printing.ConfigureAwait(false);
        await stop.CancelAsync().ConfigureAwait(false);
        // How it ends does not matter: there is nobody to tell.
        await printing.ContinueWith(static ended => _ = ended.Exception, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default).ConfigureAwait(false);
        throw new BrokenPipeException();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            _text.Dispose();
        }
        catch (IOException)
        {
            // The reader has gone, which the command has noticed already.
        }
    }
}
