using System.Text;
using Vmm.Cli.Terminal;

namespace Vmm.Cli.Tests;

/// <summary>One invocation of vmmctl in this process.</summary>
internal sealed class Invocation
{
    private readonly MemoryStream _output = new();
    private readonly StringWriter _error = new();

    public int ExitCode { get; private set; }

    public byte[] OutputBytes => _output.ToArray();

    public string Output => Encoding.UTF8.GetString(OutputBytes);

    public string Error => _error.ToString();

    public static Task<Invocation> RunAsync(params string[] arguments) => RunAsync(arguments, input: null);

    public static async Task<Invocation> RunAsync(
        string[] arguments, Stream? input, Stream? output = null, IReadOnlyDictionary<string, string>? environment = null, CancellationToken cancellation = default)
    {
        var invocation = new Invocation();
        using var console = new CliConsole(output ?? invocation._output, TextWriter.Synchronized(invocation._error), input)
        {
            EnvironmentVariable = name => environment?.GetValueOrDefault(name),
        };
        invocation.ExitCode = await CommandLine.RunAsync(arguments, console, cancellation);
        return invocation;
    }
}

/// <summary>An output whose reader goes away after some bytes.</summary>
internal sealed class BreakingStream(int bytes) : MemoryStream
{
    public override void Write(ReadOnlySpan<byte> buffer)
    {
        if (Length + buffer.Length > bytes)
            throw new BrokenPipeException();
        base.Write(buffer);
    }

    public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        Write(buffer.Span);
        return ValueTask.CompletedTask;
    }
}
