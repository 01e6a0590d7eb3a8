using System.Runtime.InteropServices;

namespace Vmm.Cli.Terminal;

/// <summary>
/// A standard descriptor of the process as it is. The console streams of .NET read a terminal in lines and keep quiet about a
/// reader that has gone; its file streams write files at offsets of their own, so that two programs that share an output
/// overwrite each other.
/// </summary>
internal sealed class DescriptorStream : Stream
{
    private const int GetDescriptorFlags = 1; // F_GETFD
    private const int CloseOnExec = 1; // FD_CLOEXEC
    private const int Interrupted = 4; // EINTR
    private const int WouldBlockLinux = 11; // EAGAIN
    private const int WouldBlockBsd = 35;
    private const int BrokenPipe = 32; // EPIPE
    private const short PollIn = 1;
    private const short PollOut = 4;
    private const short PollError = 8; // POLLERR: of a pipe, the last reader has gone
    private const short PollHangUp = 16; // POLLHUP: of a socket or terminal, the other side has

    private readonly int _descriptor;

    private DescriptorStream(int descriptor, bool reads)
    {
        _descriptor = descriptor;
        CanRead = reads;
    }

    /// <inheritdoc/>
    public override bool CanRead { get; }

    /// <inheritdoc/>
    public override bool CanWrite => !CanRead;

    /// <inheritdoc/>
    public override bool CanSeek => false;

    /// <inheritdoc/>
    public override long Length => throw new NotSupportedException();

    /// <inheritdoc/>
    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    /// <summary>Standard input, or null where the process was started without.</summary>
    public static Stream? StandardInput() =>
        OperatingSystem.IsWindows() ? Console.OpenStandardInput() : IsInherited(0) ? new DescriptorStream(0, reads: true) : null;

    /// <summary>Standard output, or a stream that drops everything where the process was started without.</summary>
    public static Stream StandardOutput() =>
        OperatingSystem.IsWindows() ? Console.OpenStandardOutput() : IsInherited(1) ? new DescriptorStream(1, reads: false) : Null;

    /// <summary>Completes when whoever reads what is written here has gone away; of a file, never.</summary>
    public Task ReaderGoneAsync()
    {
        var gone = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        // Like a read, it cannot be called off; its thread does not keep the process alive.
        var watcher = new Thread(Watch) { IsBackground = true, Name = "reader of standard output" };
        watcher.Start();
        return gone.Task;

        void Watch()
        {
            var wait = new PollDescriptor { Descriptor = _descriptor };
            int count;
            do
                count = poll(ref wait, 1, -1);
            while (count < 0 && Marshal.GetLastPInvokeError() == Interrupted);
            if (count > 0 && (wait.Returned & (PollError | PollHangUp)) != 0)
                gone.SetResult();
        }
    }

    /// <inheritdoc/>
    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    /// <inheritdoc/>
    public override int Read(Span<byte> buffer)
    {
        if (buffer.IsEmpty)
            return 0;
        while (true)
        {
            var count = read(_descriptor, ref MemoryMarshal.GetReference(buffer), buffer.Length);
            if (count >= 0)
                return (int)count;
            WaitOrThrow(PollIn);
        }
    }

    /// <inheritdoc/>
    public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        // A read of a terminal or pipe cannot be called off: it has a thread of its own, which does not keep the process alive.
        new(Task.Factory.StartNew(
            () => Read(buffer.Span), cancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default));

    /// <inheritdoc/>
    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    /// <inheritdoc/>
    public override void Write(ReadOnlySpan<byte> buffer)
    {
        while (!buffer.IsEmpty)
        {
            var count = write(_descriptor, ref MemoryMarshal.GetReference(buffer), buffer.Length);
            if (count >= 0)
                buffer = buffer[(int)count..];
            else
                WaitOrThrow(PollOut);
        }
    }

    /// <inheritdoc/>
    public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        Write(buffer.Span);
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public override void Flush()
    {
    }

    /// <inheritdoc/>
    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    /// <inheritdoc/>
    public override void SetLength(long value) => throw new NotSupportedException();

    /// <summary>
    /// A descriptor that was closed at the start may have been given to a file of the runtime since: those are closed on exec,
    /// what a parent passed on is not.
    /// </summary>
    private static bool IsInherited(int descriptor)
    {
        var flags = fcntl(descriptor, GetDescriptorFlags);
        return flags >= 0 && (flags & CloseOnExec) == 0;
    }

    private void WaitOrThrow(short events)
    {
        var error = Marshal.GetLastPInvokeError();
        switch (error)
        {
            case Interrupted:
                return;
            case WouldBlockLinux or WouldBlockBsd:
                var wait = new PollDescriptor { Descriptor = _descriptor, Events = events };
                _ = poll(ref wait, 1, -1);
                return;
            case BrokenPipe:
                throw new BrokenPipeException();
            default:
                throw new IOException($"{(CanRead ? "Standard input" : "Standard output")}: {Marshal.GetPInvokeErrorMessage(error)}");
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct PollDescriptor
    {
        public int Descriptor;
        public short Events;
        public short Returned;
    }

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int fcntl(int descriptor, int command);

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern nint read(int descriptor, ref byte buffer, nint count);

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern nint write(int descriptor, ref byte buffer, nint count);

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int poll(ref PollDescriptor descriptors, nuint count, int timeout);
}
