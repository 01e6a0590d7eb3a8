using System.Globalization;
using System.Security.Cryptography;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Watching;

/// <summary>The last events of one VM's APICv, numbered over all its runs. Thread-safe.</summary>
internal sealed class ApicvHistory(int capacity)
{
    private const int EpochDigits = 16;

    private readonly Lock _lock = new();
    private string _epoch = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(EpochDigits / 2));
    private readonly Queue<ApicvEvent> _events = new();
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ulong _sequence;
    private bool _closed;
    private Exception? _moved;

    /// <summary>Completes with the next event, or when there will be none.</summary>
    public Task Changed
    {
        get
        {
            lock (_lock)
                return _closed ? Task.CompletedTask : _changed.Task;
        }
    }

    /// <summary>The number of the last event.</summary>
    public ulong Position
    {
        get
        {
            lock (_lock)
                return _sequence;
        }
    }

    /// <summary>The token that stands for a position.</summary>
    public string Token(ulong position) => string.Create(CultureInfo.InvariantCulture, $"{_epoch}-{position}");

    /// <summary>The position that a token stands for.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: no token. OUT_OF_RANGE: a token of an earlier life of the server, or of another VM.</exception>
    public ulong Parse(string token)
    {
        if (token.Length <= EpochDigits || token[EpochDigits] != '-' || !token.AsSpan(0, EpochDigits).ContainsOnlyHexDigits()
            || !ulong.TryParse(token.AsSpan(EpochDigits + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ulong position))
            throw ApiError.InvalidField("resume_token", "is not a token of this watch.");
        return token.StartsWith(_epoch, StringComparison.Ordinal) ? position : throw Expired();
    }

    /// <summary>Appends an event, which gets its token here and is not changed afterwards.</summary>
    public void Add(ApicvEvent item)
    {
        TaskCompletionSource wake;
        lock (_lock)
        {
            if (_closed)
                return;
            item.ResumeToken = Token(++_sequence);
            _events.Enqueue(item);
            if (_events.Count > capacity)
                _events.Dequeue();
            wake = _changed;
            _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }

        wake.SetResult();
    }

    /// <summary>No event follows: the VM is deleted.</summary>
    public void Close()
    {
        lock (_lock)
            _closed = true;
        _changed.TrySetResult();
    }

    /// <summary>No event follows here, because the VM is another worker's.</summary>
    public void Move(Exception moved)
    {
        lock (_lock)
            (_moved, _closed) = (moved, true);
        _changed.TrySetResult();
    }

    /// <summary>All of it, for another worker.</summary>
    public ApicvHistoryState Save()
    {
        lock (_lock)
            return new ApicvHistoryState { Epoch = _epoch, Sequence = _sequence, Events = { _events } };
    }

    /// <summary>Goes on as the history of another worker. Before anybody has seen this one.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: it contradicts itself.</exception>
    public void Load(ApicvHistoryState state)
    {
        if (state.Epoch.Length != EpochDigits || !state.Epoch.AsSpan().ContainsOnlyHexDigits() || (ulong)state.Events.Count > state.Sequence)
            throw ApiError.InvalidField("state.apicv", "contradicts itself.");
        lock (_lock)
        {
            (_epoch, _sequence) = (state.Epoch, state.Sequence);
            foreach (ApicvEvent item in state.Events.Skip(state.Events.Count - capacity))
                _events.Enqueue(item);
        }
    }

    /// <summary>The events after a position; waits where there is none yet. Empty where none will follow.</summary>
    /// <exception cref="Grpc.Core.RpcException">OUT_OF_RANGE: not all of them are kept any more. UNAVAILABLE: the VM has moved.</exception>
    public async Task<List<ApicvEvent>> AfterAsync(ulong position, CancellationToken cancellation)
    {
        while (true)
        {
            Task changed;
            lock (_lock)
            {
                if (_moved is not null)
                    throw _moved;
                if (position > _sequence || _sequence - position > (ulong)_events.Count)
                    throw Expired();
                if (position < _sequence || _closed)
                    return [.. _events.Skip(_events.Count - (int)(_sequence - position))];
                changed = _changed.Task;
            }

            await changed.WaitAsync(cancellation);
        }
    }

    private static Exception Expired() =>
        ApiError.OutOfRange("RESUME_TOKEN_EXPIRED", "The events after this resume token are not all kept any more; watch without a token.");
}

internal static class HexDigits
{
    /// <summary>Whether these are small hexadecimal digits and nothing else.</summary>
    public static bool ContainsOnlyHexDigits(this ReadOnlySpan<char> text)
    {
        foreach (char c in text)
            if (!char.IsAsciiHexDigitLower(c))
                return false;
        return true;
    }
}
