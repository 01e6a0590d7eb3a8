using System.Text;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Sessions;

/// <summary>Talks to a guest through its console: sends lines, waits for text.</summary>
internal sealed class ConsoleDialogue(GuestConsole guest, Stream output, Action<string> notice)
{
    private readonly Lock _lock = new();
    private readonly TerminalQueryFilter _queries = new();
    private readonly StringBuilder _unread = new();
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private bool _ended;

    /// <summary>Passes on the guest's output to its end, and lets <see cref="WaitForAsync"/> see it. Called once, and not awaited before the end.</summary>
    public async Task<VmEnd?> ReadAsync(CancellationToken cancellation)
    {
        try
        {
            return await guest.CopyAsync(
                async bytes =>
                {
                    await output.WriteAsync(_queries.Remove(bytes.Span), cancellation).ConfigureAwait(false);
                    await output.FlushAsync(cancellation).ConfigureAwait(false);
                    Add(Encoding.Latin1.GetString(bytes.Span));
                },
                notice,
                cancellation).ConfigureAwait(false);
        }
        finally
        {
            lock (_lock)
            {
                _ended = true;
                _changed.TrySetResult();
            }
        }
    }

    /// <summary>Waits until the guest has printed the text after what was last waited for. False where the output ended without.</summary>
    public async Task<bool> WaitForAsync(string text, CancellationToken cancellation)
    {
        while (true)
        {
            Task changed;
            lock (_lock)
            {
                var all = _unread.ToString();
                var found = all.IndexOf(text, StringComparison.Ordinal);
                if (found >= 0)
                {
                    _unread.Remove(0, found + text.Length);
                    return true;
                }

                if (_ended)
                    return false;
                // What cannot be part of the text any more need not be searched again.
                if (_unread.Length > text.Length)
                    _unread.Remove(0, _unread.Length - text.Length);
                changed = _changed.Task;
            }

            await changed.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Types.</summary>
    public async Task SendAsync(string text, CancellationToken cancellation) =>
        await guest.WriteAsync(Encoding.UTF8.GetBytes(text), cancellation).ConfigureAwait(false);

    private void Add(string text)
    {
        lock (_lock)
        {
            _unread.Append(text);
            _changed.TrySetResult();
            _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }
}
