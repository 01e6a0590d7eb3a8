using Grpc.Core;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Sessions;

/// <summary>A VM's console over one or more connections: a broken one is made again, and the output goes on where it was.</summary>
internal sealed class GuestConsole : IDisposable
{
    private const int MaxAttempts = 6;
    private static readonly TimeSpan FirstDelay = TimeSpan.FromMilliseconds(200);

    private readonly VmmConnection _connection;
    private readonly ConsoleAttach _attach;
    private VmConsole _console;
    private bool _inputComplete;

    private GuestConsole(VmmConnection connection, ConsoleAttach attach, VmConsole console)
    {
        _connection = connection;
        _attach = attach;
        _console = console;
        Offset = console.StartOffset;
    }

    /// <summary>Offset of the next byte of output.</summary>
    public ulong Offset { get; private set; }

    /// <summary>Attaches; what the guest prints from here on is not missed.</summary>
    public static async Task<GuestConsole> AttachAsync(VmmConnection connection, ConsoleAttach attach, CancellationToken cancellation)
    {
        var console = await VmConsole.AttachAsync(connection, attach, cancellation).ConfigureAwait(false);
        return new GuestConsole(connection, attach, console);
    }

    /// <summary>Passes on output until the server ends the stream.</summary>
    /// <param name="output">Gets the bytes as they come.</param>
    /// <param name="notice">Gets a line for the user where output was lost or the connection was.</param>
    /// <param name="cancellation">Stops reading.</param>
    /// <returns>How the run ended, or null where the stream ended otherwise.</returns>
    public async Task<VmEnd?> CopyAsync(Func<ReadOnlyMemory<byte>, ValueTask> output, Action<string> notice, CancellationToken cancellation)
    {
        VmEnd? end = null;
        while (true)
        {
            try
            {
                await foreach (var response in _console.ReadAsync(cancellation).ConfigureAwait(false))
                {
                    switch (response.ResponseCase)
                    {
                        case ConsoleResponse.ResponseOneofCase.Output:
                            Offset = response.Output.Offset + (ulong)response.Output.Data.Length;
                            await output(response.Output.Data.Memory).ConfigureAwait(false);
                            break;
                        case ConsoleResponse.ResponseOneofCase.Dropped:
                            Offset += response.Dropped.Bytes;
                            notice($"{response.Dropped.Bytes} bytes of output were lost: this reader is slower than the guest.");
                            break;
                        case ConsoleResponse.ResponseOneofCase.WriterLost:
                            notice("another client took over the input of this console.");
                            break;
                        case ConsoleResponse.ResponseOneofCase.RunEnded:
                            end = response.RunEnded;
                            break;
                    }
                }

                return end;
            }
            catch (RpcException broken) when (broken.StatusCode == StatusCode.Unavailable && !cancellation.IsCancellationRequested)
            {
                await AttachAgainAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Sends input. Returns false where the console takes no more of it. What was under way when a connection broke may be lost.</summary>
    public async Task<bool> WriteAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation)
    {
        try
        {
            await _console.WriteAsync(input, cancellation).ConfigureAwait(false);
            return true;
        }
        catch (RpcException broken)
        {
            return broken.StatusCode == StatusCode.Unavailable;
        }
        catch (InvalidOperationException)
        {
            // The call is complete: the reading side knows why.
            return false;
        }
    }

    /// <summary>Says that no more input will come.</summary>
    public async Task CompleteInputAsync()
    {
        _inputComplete = true;
        try
        {
            await _console.CompleteInputAsync().ConfigureAwait(false);
        }
        catch (Exception ended) when (ended is RpcException or InvalidOperationException)
        {
            // The call is complete already: the reading side knows why.
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _console.Dispose();

    private async Task AttachAgainAsync(CancellationToken cancellation)
    {
        _console.Dispose();
        var again = _attach.Clone();
        again.ClearScrollbackBytes();
        again.ResumeOffset = Offset;
        again.Write &= !_inputComplete;
        for (var attempt = 1; ; attempt++)
        {
            await Task.Delay(FirstDelay * (1 << (attempt - 1)), cancellation).ConfigureAwait(false);
            try
            {
                _console = await VmConsole.AttachAsync(_connection, again, cancellation).ConfigureAwait(false);
                return;
            }
            catch (RpcException refused) when (refused.StatusCode == StatusCode.Unavailable && attempt < MaxAttempts)
            {
                // Perhaps the server is being restarted.
            }
        }
    }
}
