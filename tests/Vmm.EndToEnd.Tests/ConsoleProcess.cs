using System.Collections.Immutable;
using System.Diagnostics;
using System.Security.Cryptography;
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

    /// <summary>The process's identifier.</summary>
    public int Id => _process.Id;

    /// <summary>Everything printed so far.</summary>
    public string Output
    {
        get
        {
            lock (_output)
                return _output.ToString();
        }
    }

    /// <summary>Everything written to standard error so far.</summary>
    public string Errors
    {
        get
        {
            lock (_error)
                return _error.ToString();
        }
    }

    public static ConsoleProcess Start(string program, params string[] arguments) => Start(program, ImmutableDictionary<string, string>.Empty, arguments);

    /// <summary>
    /// The vmmctl that was built with the tests. What it runs has the compiler where VMM_TEST_TRANSLATION is set, unless the arguments name an
    /// engine.
    /// </summary>
    /// <param name="environment">The variables that say which server it asks; of the tests' own it has none. Empty for one in its own process.</param>
    /// <param name="arguments">Its arguments.</param>
    public static ConsoleProcess Vmmctl(IReadOnlyDictionary<string, string> environment, params string[] arguments) => Start(
        Path.Combine(AppContext.BaseDirectory, "vmmctl"),
        environment,
        TestTranslation.Default != null && arguments[0] == "run" && !arguments.Contains("--engine") ? [.. arguments, "--engine", "auto"] : arguments);

    /// <summary>Likewise, with a server of its own.</summary>
    public static ConsoleProcess Vmmctl(params string[] arguments) => Vmmctl(ImmutableDictionary<string, string>.Empty, arguments);

    private static ConsoleProcess Start(string program, IReadOnlyDictionary<string, string> environment, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.Latin1,
        };
        foreach (string name in (string[])["VMM_SERVER", "VMM_PROJECT", "VMM_CA", "VMM_CERT", "VMM_KEY", "VMM_TOKEN", "VMM_TOKEN_FILE"])
            start.Environment.Remove(name);
        foreach ((string name, string value) in environment)
            start.Environment[name] = value;
        return new ConsoleProcess(Process.Start(start)!);
    }

    /// <summary>Types a line.</summary>
    public Task SendLineAsync(string line) => SendAsync(line + "\n");

    /// <summary>Types without a line's end.</summary>
    public async Task SendAsync(string text)
    {
        await _process.StandardInput.WriteAsync(text);
        await _process.StandardInput.FlushAsync();
    }

    /// <summary>Has the guest's shell, which waits at its prompt, do a command, and returns what that printed.</summary>
    public async Task<string> AskAsync(string command, TimeSpan patience)
    {
        await SendLineAsync(command);
        await WaitForAsync("\n", patience); // the echo of what was typed
        return (await WaitForAsync(Initramfs.Prompt, patience)).Trim();
    }

    /// <summary>Comes to the prompt of a shell whose console has earlier output, or that waits since before the console was opened.</summary>
    public async Task FindPromptAsync(TimeSpan patience)
    {
        string mark = RandomNumberGenerator.GetHexString(8, lowercase: true);
        // What is typed is echoed, but not with the mark in one piece.
        await SendLineAsync($"echo {mark[..4]}''{mark[4..]}");
        await WaitForAsync(mark, patience);
        await WaitForAsync(Initramfs.Prompt, patience);
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
                    throw new InvalidOperationException($"The guest ended before it printed '{text}':\n{Tail(all)}\n{Errors}");
                changed = _changed.Task;
            }

            var left = patience - deadline.Elapsed;
            if (left <= TimeSpan.Zero || await Task.WhenAny(changed, Task.Delay(left)) != changed)
                throw new TimeoutException($"The guest did not print '{text}' in {patience}:\n{Tail(Output)}\n{Errors}");
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
            throw new TimeoutException($"The guest did not end in {patience}:\n{Tail(Output)}\n{Errors}");
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
