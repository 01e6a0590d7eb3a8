using Google.Protobuf;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Worker.V1;

namespace Vmm.Worker.Consoles;

/// <content>Its way to another worker, together with the VM.</content>
internal sealed partial class ConsoleHub
{
    /// <summary>How long the place of a writer is kept for the stream that had it before the VM came here.</summary>
    private static readonly TimeSpan WriterPatience = TimeSpan.FromSeconds(30);

    private WriterSession? _session;
    private bool _moved;

    /// <summary>The guest takes no more input from here on, until <see cref="RunBegan"/>: what it has taken by now is what it has taken.</summary>
    public void LetMachineGo()
    {
        lock (_inputLock)
        {
            if (_machine is not null)
                _machine.ConsoleInputDrained -= WakeInput;
            _machine = null;
        }
    }

    /// <summary>All of it, for another worker. The guest stands, and takes no input.</summary>
    public ConsoleState Save()
    {
        lock (_lock)
        {
            byte[] kept = new byte[_kept];
            for (int i = 0; i < kept.Length; i++)
                kept[i] = _ring[(_end - (ulong)(kept.Length - i)) % (ulong)_ring.Length];
            return new ConsoleState
            {
                End = _end,
                Kept = UnsafeByteOperations.UnsafeWrap(kept),
                RunsEnded = _runsEnded,
                Ends = { _ends.Select(end => new ConsoleRunEnd { Run = end.Run, Offset = end.Offset, End = end.End }) },
                Writer = _session?.Id ?? "",
                InputBytes = _session?.InputBytes ?? 0,
            };
        }
    }

    /// <summary>Goes on as the console of another worker. Before anybody has seen this one.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: it contradicts itself.</exception>
    public void Load(ConsoleState state)
    {
        ulong before = state.End - (ulong)state.Kept.Length;
        if (state.End < (ulong)state.Kept.Length || state.RunsEnded < 0 || state.InputBytes < 0 || state.Ends.Count > MaxRunEnds
            || state.Ends.Any(end => end.Run < 0 || end.Run >= state.RunsEnded || end.Offset > state.End || end.End is null)
            || state.Ends.Zip(state.Ends.Skip(1)).Any(pair => pair.First.Run >= pair.Second.Run || pair.First.Offset > pair.Second.Offset))
            throw ApiError.InvalidField("state.console", "contradicts itself.");
        lock (_lock)
        {
            _end = before;
            _runsEnded = state.RunsEnded;
            foreach (ConsoleRunEnd end in state.Ends)
                _ends.Enqueue(new RunEnd(end.Run, end.Offset, end.End));
            if (state.Writer.Length > 0)
                _session = new WriterSession(state.Writer) { InputBytes = state.InputBytes, KeptUntil = time.GetUtcNow() + WriterPatience };
        }

        if (!state.Kept.IsEmpty)
            Write(state.Kept.Span);
    }

    /// <summary>The VM is another worker's from here on: readers and writers hear that, and attach there.</summary>
    public void Move()
    {
        TaskCompletionSource? wake;
        lock (_lock)
        {
            _moved = true;
            wake = _readable;
            _readable = null;
        }

        wake?.SetResult();
        WakeInput();
    }

    /// <summary>Whether a stream can become the writer without taking anybody's place.</summary>
    private bool IsFreeFor(string session) =>
        _session is null || _session.Id == session || (_writer is null && time.GetUtcNow() >= _session.KeptUntil);

    private void BecomeWriter(ConsoleReader reader)
    {
        _writer = reader;
        if (_session?.Id != reader.Session)
            _session = new WriterSession(reader.Session);
    }

    private void RequireHere()
    {
        if (_moved)
            throw ApiError.Unavailable("VM_MOVED", $"{vm} has moved to another worker.");
    }

    /// <summary>The writing end of one client's stream, over all workers that it is attached to.</summary>
    private sealed class WriterSession(string id)
    {
        public string Id { get; } = id;

        /// <summary>Bytes that the guest has taken of it.</summary>
        public long InputBytes { get; set; }

        /// <summary>Until when its place is kept while it is not attached.</summary>
        public DateTimeOffset KeptUntil { get; init; }
    }
}
