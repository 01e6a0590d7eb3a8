using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Sessions;

/// <summary>Connects this process's standard streams with a guest's console.</summary>
internal static class Interaction
{
    private const int InputBytes = 4096;

    /// <summary>Passes bytes both ways until the console ends, or the user leaves it.</summary>
    /// <param name="console">The standard streams.</param>
    /// <param name="guest">The guest's console.</param>
    /// <param name="sendInput">Whether standard input is passed on.</param>
    /// <param name="cancellation">Stops both ways.</param>
    /// <returns>How the run ended, null where the stream ended otherwise; and whether the user left.</returns>
    public static async Task<(VmEnd? End, bool Left)> RunAsync(
        CliConsole console, GuestConsole guest, bool sendInput, CancellationToken cancellation)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var raw = sendInput && console.InputIsTerminal ? RawTerminal.Enter() : null;
        if (raw is not null)
            console.Error.Write("vmmctl: Ctrl-] and q leave this console.\r\n");
        var output = guest.CopyAsync(
            async bytes =>
            {
                await console.Output.WriteAsync(bytes, stop.Token).ConfigureAwait(false);
                await console.Output.FlushAsync(stop.Token).ConfigureAwait(false);
            },
            text => console.Error.Write($"vmmctl: {text}{(raw is null ? "\n" : "\r\n")}"),
            stop.Token);
        var input = sendInput && console.Input is { } typed
            ? SendAsync(typed, raw is not null, guest, stop.Token)
            : LeaveClosedAsync(guest);
        try
        {
            if (await Task.WhenAny(output, input).ConfigureAwait(false) == input && await input.ConfigureAwait(false))
            {
                // The guest's cursor is anywhere; what comes next begins a line.
                if (raw is not null)
                    console.Error.Write("\r\n");
                return (null, true);
            }
            return (await output.ConfigureAwait(false), false);
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
        }
    }

    private static async Task<bool> LeaveClosedAsync(GuestConsole guest)
    {
        await guest.CompleteInputAsync().ConfigureAwait(false);
        return false;
    }

    /// <summary>Whether the user typed the keys that leave.</summary>
    private static async Task<bool> SendAsync(Stream typed, bool terminal, GuestConsole guest, CancellationToken cancellation)
    {
        var escape = new EscapeSequence();
        var buffer = new byte[InputBytes];
        var forGuest = new byte[InputBytes + 1];
        try
        {
            while (true)
            {
                var count = await typed.ReadAsync(buffer, cancellation).AsTask().WaitAsync(cancellation).ConfigureAwait(false);
                if (count == 0)
                {
                    await guest.CompleteInputAsync().ConfigureAwait(false);
                    return false;
                }

                var leave = false;
                ReadOnlyMemory<byte> send = buffer.AsMemory(0, count);
                if (terminal)
                {
                    leave = escape.Filter(send.Span, forGuest, out var length);
                    send = forGuest.AsMemory(0, length);
                }

                if (!send.IsEmpty && !await guest.WriteAsync(send, cancellation).ConfigureAwait(false))
                    return false;
                if (leave)
                    return true;
            }
        }
        catch (OperationCanceledException)
        {
            return false;
        }
        catch (IOException)
        {
            // Standard input cannot be read any more, as a terminal that was hung up: the same as its end.
            await guest.CompleteInputAsync().ConfigureAwait(false);
            return false;
        }
    }
}
