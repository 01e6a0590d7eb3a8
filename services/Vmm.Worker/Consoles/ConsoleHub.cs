using Google.Protobuf;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Consoles;

/// <summary>
/// The console of one VM: what the guest wrote, kept in a ring that every reader reads at its own pace, and the one writer.
/// </summary>
/// <remarks>
/// The machine's thread only copies into the ring and wakes readers. A reader is a position in the output: one that falls
/// behind by more than the ring holds finds its bytes gone, skips them, and says how many. So readers cost nothing but their
/// position, and cannot hold up the guest or each other. Positions count from the hub's creation over all runs.
/// </remarks>
internal sealed partial class ConsoleHub(string vm, int capacity, TimeProvider time)
{
    private const int FirstRingBytes = 4096;
    private const int MaxReadBytes = 32 << 10;
    private const int MaxRunEnds = 64;

    private readonly Lock _lock = new();
    private readonly Lock _inputLock = new();
    private readonly Queue<RunEnd> _ends = new();
    private byte[] _ring = [];
    private ulong _end;
    private int _kept;
    private long _runsEnded;
    private bool _deleted;
    private TaskCompletionSource? _readable;
    private IMachine? _machine;
    private TaskCompletionSource _inputPossible = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ConsoleReader? _writer;

    /// <summary>Takes output. Called on the machine's thread: copies, and does not wait for anybody.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        TaskCompletionSource? wake;
        lock (_lock)
        {
            _end += (ulong)bytes.Length;
            if (bytes.Length > capacity)
                bytes = bytes[^capacity..];
            GrowFor(bytes.Length);
            int at = (int)((_end - (ulong)bytes.Length) % (ulong)_ring.Length);
            int first = Math.Min(bytes.Length, _ring.Length - at);
            bytes[..first].CopyTo(_ring.AsSpan(at));
            bytes[first..].CopyTo(_ring);
            _kept = Math.Min(_ring.Length, _kept + bytes.Length);
            wake = _readable;
            _readable = null;
        }

        wake?.SetResult();
    }

    /// <summary>A machine takes input from now on.</summary>
    public void RunBegan(IMachine machine)
    {
        lock (_inputLock)
        {
            _machine = machine;
            machine.ConsoleInputDrained += WakeInput;
        }

        WakeInput();
    }

    /// <summary>The machine takes no more input and has written all that it will write. It may be disposed when this returns.</summary>
    public void RunEnded(VmEnd end)
    {
        LetMachineGo();
        TaskCompletionSource? wake;
        lock (_lock)
        {
            _ends.Enqueue(new RunEnd(_runsEnded++, _end, end));
            if (_ends.Count > MaxRunEnds)
                _ends.Dequeue();
            wake = _readable;
            _readable = null;
        }

        wake?.SetResult();
    }

    /// <summary>The VM is gone: readers end.</summary>
    public void Close()
    {
        TaskCompletionSource? wake;
        lock (_lock)
        {
            _deleted = true;
            wake = _readable;
            _readable = null;
        }

        wake?.SetResult();
        WakeInput();
    }

    /// <summary>Adds a reader, as the writer too where it asks for that.</summary>
    /// <exception cref="Grpc.Core.RpcException">FAILED_PRECONDITION: there is a writer. OUT_OF_RANGE: that output does not exist yet.
    /// UNAVAILABLE: the VM has moved.</exception>
    public ConsoleReader Attach(HostConsoleAttach request)
    {
        ConsoleAttach attach = request.Attach;
        TaskCompletionSource? wake = null;
        ConsoleReader reader;
        lock (_lock)
        {
            RequireHere();
            ulong oldest = _end - (ulong)_kept;
            ulong position = oldest;
            if (attach.HasResumeOffset)
            {
                position = attach.ResumeOffset;
                if (position > _end)
                    throw ApiError.OutOfRange("CONSOLE_OFFSET_AHEAD", $"The console has written {_end} bytes, not {position}: the server was restarted, or this is another VM.");
            }
            else if (attach.HasScrollbackBytes)
            {
                position = _end - (ulong)Math.Min(_kept, attach.ScrollbackBytes);
            }

            bool isWriter = attach.Write && (!request.Resume || IsFreeFor(request.Session));
            if (isWriter && !IsFreeFor(request.Session))
            {
                if (!attach.TakeOver)
                    throw ApiError.FailedPrecondition("CONSOLE_BUSY", "CONSOLE", vm, "The console has a writer already; attach to read only, or take over.");
                if (_writer is not null)
                    _writer.HasLostWriter = true;
                wake = _readable;
                _readable = null;
            }

            reader = new ConsoleReader(this, request.Session, position, request.Resume ? request.NextRun : _runsEnded, attach.Until) { IsWriter = isWriter };
            if (isWriter)
                BecomeWriter(reader);
        }

        wake?.SetResult();
        return reader;
    }

    /// <summary>Removes a reader; its place as the writer is free again.</summary>
    public void Detach(ConsoleReader reader)
    {
        lock (_lock)
            if (ReferenceEquals(_writer, reader))
                (_writer, _session) = (null, null);
        WakeInput();
    }

    /// <summary>Gives input to the guest, as fast as it takes it; waits while the VM does not run. What it has taken before is passed over.</summary>
    /// <exception cref="Grpc.Core.RpcException">FAILED_PRECONDITION: the session is not the writer. UNAVAILABLE: the VM has moved.</exception>
    public async Task WriteInputAsync(string session, long position, ReadOnlyMemory<byte> input, CancellationToken cancellation)
    {
        while (true)
        {
            WriterSession writer;
            lock (_lock)
            {
                RequireHere();
                if (_deleted)
                    throw ApiError.NotFound(vm);
                writer = _session?.Id == session
                    ? _session
                    : throw ApiError.FailedPrecondition("CONSOLE_NOT_WRITER", "CONSOLE", vm, "Only the console's writer may send input; attach with write set.");
            }

            Task possible;
            lock (_inputLock)
            {
                // Taken before the attempt, so that a drain in between is not missed.
                if (_inputPossible.Task.IsCompleted)
                    _inputPossible = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                possible = _inputPossible.Task;
                long done = writer.InputBytes - position;
                if (done < 0)
                    throw ApiError.OutOfRange("CONSOLE_INPUT_AHEAD", $"The guest has taken {writer.InputBytes} bytes of this input, and not {position}.");
                ReadOnlyMemory<byte> left = input[(int)Math.Min(done, input.Length)..];
                if (!left.IsEmpty && _machine is not null)
                {
                    int taken = _machine.WriteConsole(left.Span);
                    writer.InputBytes += taken;
                    left = left[taken..];
                }

                if (left.IsEmpty)
                    return;
            }

            await possible.WaitAsync(cancellation);
        }
    }

    /// <summary>What comes next for a reader, or null at its stream's end; waits where there is nothing yet.</summary>
    internal async Task<ConsoleResponse?> ReadAsync(ConsoleReader reader, CancellationToken cancellation)
    {
        while (true)
        {
            Task readable;
            lock (_lock)
            {
                RequireHere();
                if (reader.HasLostWriter)
                {
                    reader.HasLostWriter = false;
                    return new ConsoleResponse { WriterLost = new ConsoleWriterLost() };
                }

                RunEnd? end = NextEnd(reader.NextRun);
                ulong until = end?.Offset ?? _end;
                ulong oldest = _end - (ulong)_kept;
                if (reader.Position < oldest && reader.Position < until)
                {
                    ulong lost = Math.Min(oldest, until) - reader.Position;
                    reader.Position += lost;
                    return new ConsoleResponse { Dropped = new ConsoleDropped { Bytes = lost } };
                }

                if (reader.Position < until)
                    return Take(reader, (int)Math.Min(MaxReadBytes, until - reader.Position));
                if (reader.Finished)
                    return null;
                if (end is not null)
                {
                    reader.NextRun = end.Run + 1;
                    reader.Finished = reader.Until is ConsoleAttach.Types.Until.RunEnd or ConsoleAttach.Types.Until.Unspecified;
                    return new ConsoleResponse { RunEnded = end.End };
                }

                if (_deleted || reader.Until == ConsoleAttach.Types.Until.ScrollbackEnd)
                    return null;
                readable = (_readable ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
            }

            await readable.WaitAsync(cancellation);
        }
    }

    private ConsoleResponse Take(ConsoleReader reader, int count)
    {
        byte[] bytes = new byte[count];
        int at = (int)(reader.Position % (ulong)_ring.Length);
        int first = Math.Min(count, _ring.Length - at);
        _ring.AsSpan(at, first).CopyTo(bytes);
        _ring.AsSpan(0, count - first).CopyTo(bytes.AsSpan(first));
        var output = new Vmm.V1.ConsoleOutput { Data = UnsafeByteOperations.UnsafeWrap(bytes), Offset = reader.Position };
        reader.Position += (ulong)count;
        return new ConsoleResponse { Output = output };
    }

    private RunEnd? NextEnd(long run)
    {
        foreach (RunEnd end in _ends)
            if (end.Run >= run)
                return end;
        return null;
    }

    /// <summary>Makes room by doubling up to the capacity, so that a VM that says little costs little.</summary>
    private void GrowFor(int count)
    {
        if (_kept + count <= _ring.Length || _ring.Length == capacity)
            return;
        int size = Math.Max(_ring.Length, Math.Min(FirstRingBytes, capacity));
        while (size < capacity && size < _kept + count)
            size = Math.Min(capacity, size * 2);
        byte[] grown = new byte[size];
        ulong written = _end - (ulong)count;
        for (ulong position = written - (ulong)_kept; position < written; position++)
            grown[position % (ulong)size] = _ring[position % (ulong)_ring.Length];
        _ring = grown;
    }

    private void WakeInput()
    {
        // Not under the input lock: the machine may raise its event inside WriteConsole.
        Volatile.Read(ref _inputPossible).TrySetResult();
    }

    private sealed record RunEnd(long Run, ulong Offset, VmEnd End);
}

/// <summary>One attachment to a console.</summary>
internal sealed class ConsoleReader(ConsoleHub hub, string session, ulong position, long nextRun, ConsoleAttach.Types.Until until)
{
    /// <summary>The client's stream.</summary>
    public string Session { get; } = session;

    /// <summary>Whether it was attached as the writer.</summary>
    public bool IsWriter { get; init; }

    /// <summary>When the stream ends.</summary>
    public ConsoleAttach.Types.Until Until { get; } = until;

    /// <summary>Where the first byte stands that is read.</summary>
    public ulong StartOffset { get; } = position;

    internal ulong Position { get; set; } = position;

    /// <summary>The run whose end it tells next.</summary>
    public long NextRun { get; internal set; } = nextRun;

    internal bool HasLostWriter { get; set; }

    internal bool Finished { get; set; }

    /// <summary>What comes next, or null at the stream's end.</summary>
    public Task<ConsoleResponse?> ReadAsync(CancellationToken cancellation) => hub.ReadAsync(this, cancellation);
}
