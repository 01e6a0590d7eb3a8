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

    /// <summary>The process's own streams.</summary>
    public static CliConsole OfProcess() => new(
        DescriptorStream.StandardOutput(),
        new StreamWriter(Console.OpenStandardError(), new UTF8Encoding(encoderShouldEmitUTF8Identifier: false)) { AutoFlush = true },
        DescriptorStream.StandardInput())
    {
        InputIsTerminal = !Console.IsInputRedirected,
        OutputIsTerminal = !Console.IsOutputRedirected,
        ErrorIsTerminal = !Console.IsErrorRedirected,
    };

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
