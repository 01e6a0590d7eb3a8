using System.Diagnostics;
using System.Text;
using Vmm.Guests;
using Vmm.Testing;

namespace Vmm.EndToEnd.Tests;

/// <summary>A program whose standard streams are a guest's console: vmmctl, or QEMU with <c>-serial stdio</c>.</summary>
internal sealed class ConsoleProcess : IAsyncDisposable
{
    private readonly Process _process;
    private readonly StringBuilder _output = new();
    private readonly StringBuilder _error = new();
    private readonly Task _reading;
    private readonly Task _readingError;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _seen;

    private ConsoleProcess(Process process)
    {
        _process = process;
        _reading = ReadAsync();
        _readingError = ReadErrorAsync();
    }

    /// <summary>Everything printed so far.</summary>
    public string Output
    {
        get
        {
            lock (_output)
                return _output.ToString();
        }
    }

    public static ConsoleProcess Start(string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.Latin1,
        };
        start.Environment.Remove("VMM_SERVER");
        return new ConsoleProcess(Process.Start(start)!);
    }

    /// <summary>
    /// The vmmctl that was built with the tests, which starts a server of its own. What it runs has the compiler where VMM_TEST_TRANSLATION is
    /// set, unless the arguments name an engine.
    /// </summary>
    public static ConsoleProcess Vmmctl(params string[] arguments) => Start(
        Path.Combine(AppContext.BaseDirectory, "vmmctl"),
        TestTranslation.Default != null && arguments[0] == "run" && !arguments.Contains("--engine") ? [.. arguments, "--engine", "auto"] : arguments);

    /// <summary>Types a line.</summary>
    public async Task SendLineAsync(string line)
    {
        await _process.StandardInput.WriteAsync(line + "\n");
        await _process.StandardInput.FlushAsync();
    }

    /// <summary>Has the guest's shell, which waits at its prompt, do a command, and returns what that printed.</summary>
    public async Task<string> AskAsync(string command, TimeSpan patience)
    {
        await SendLineAsync(command);
        await WaitForAsync("\n", patience); // the echo of what was typed
        return (await WaitForAsync(Initramfs.Prompt, patience)).Trim();
    }

    /// <summary>Waits for text after what was last waited for, and returns what came before it.</summary>
    public async Task<string> WaitForAsync(string text, TimeSpan patience)
    {
        var deadline = Stopwatch.StartNew();
        while (true)
        {
            Task changed;
            lock (_output)
            {
                var all = _output.ToString();
                var found = all.IndexOf(text, _seen, StringComparison.Ordinal);
                if (found >= 0)
                {
                    var before = all[_seen..found];
                    _seen = found + text.Length;
                    return before;
                }

                if (_reading.IsCompleted)
                    throw new InvalidOperationException($"The guest ended before it printed '{text}':\n{Tail(all)}\n{_error}");
                changed = _changed.Task;
            }

            var left = patience - deadline.Elapsed;
            if (left <= TimeSpan.Zero || await Task.WhenAny(changed, Task.Delay(left)) != changed)
                throw new TimeoutException($"The guest did not print '{text}' in {patience}:\n{Tail(Output)}\n{_error}");
        }
    }

    /// <summary>Waits for the program's end and returns its exit code.</summary>
    public async Task<int> WaitForExitAsync(TimeSpan patience)
    {
        try
        {
            await _process.WaitForExitAsync().WaitAsync(patience);
        }
        catch (TimeoutException)
        {
            throw new TimeoutException($"The guest did not end in {patience}:\n{Tail(Output)}\n{_error}");
        }

        await Task.WhenAll(_reading, _readingError);
        return _process.ExitCode;
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
            _process.Kill(entireProcessTree: true);
        await Task.WhenAll(_reading, _readingError);
        _process.Dispose();
    }

    private async Task ReadAsync()
    {
        var buffer = new char[4096];
        int count;
        while ((count = await _process.StandardOutput.ReadAsync(buffer)) > 0)
            lock (_output)
            {
                _output.Append(buffer, 0, count);
                Signal();
            }

        // Asynchronously, so that whoever is woken sees the reading as completed.
        _ = Task.Run(async () =>
        {
            await _reading;
            lock (_output)
                Signal();
        });
    }

    private async Task ReadErrorAsync()
    {
        while (await _process.StandardError.ReadLineAsync() is { } line)
            lock (_error)
                _error.AppendLine(line);
    }

    private void Signal()
    {
        _changed.TrySetResult();
        _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    private static string Tail(string text) => text.Length <= 4000 ? text : "…" + text[^4000..];
}
