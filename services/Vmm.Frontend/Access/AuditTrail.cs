using Grpc.Core;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend.Access;

/// <summary>Writes the audit log: entries that come together are written together. Thread-safe.</summary>
public sealed class AuditTrail(IAccessRegistry registry, TimeProvider time)
{
    private const int MaxBatch = 512;
    private const double MaxStrangers = 100;
    private const double StrangersPerSecond = 10;

    private readonly Lock _lock = new();
    private readonly Queue<(AuditEntry Entry, TaskCompletionSource Done)> _waiting = new();
    private bool _writing;
    private double _strangers = MaxStrangers;
    private DateTimeOffset _refilled = time.GetUtcNow();
    private long _suppressed;

    /// <summary>Adds an entry, which lasts when the task completes.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: it does not.</exception>
    public Task AppendAsync(AuditEntry entry)
    {
        ArgumentNullException.ThrowIfNull(entry);
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            (entry.SuppressedCount, _suppressed) = (_suppressed, 0);
            _waiting.Enqueue((entry, done));
            if (!_writing)
            {
                _writing = true;
                _ = Task.Run(WriteAsync);
            }
        }

        return done.Task;
    }

    /// <summary>
    /// Whether a call of somebody who has no token gets an entry: only so many a second do, because they cost him nothing. The next entry says how
    /// many did not.
    /// </summary>
    public bool HasRoomForStranger()
    {
        lock (_lock)
        {
            DateTimeOffset now = time.GetUtcNow();
            _strangers = Math.Min(MaxStrangers, _strangers + Math.Max(0, (now - _refilled).TotalSeconds) * StrangersPerSecond);
            _refilled = now;
            if (_strangers < 1)
            {
                _suppressed++;
                return false;
            }

            _strangers--;
            return true;
        }
    }

    private async Task WriteAsync()
    {
        while (true)
        {
            var batch = new List<(AuditEntry Entry, TaskCompletionSource Done)>();
            lock (_lock)
            {
                while (batch.Count < MaxBatch && _waiting.TryDequeue(out var next))
                    batch.Add(next);
                if (batch.Count == 0)
                {
                    _writing = false;
                    return;
                }
            }

            try
            {
                await registry.AppendAuditAsync([.. batch.Select(item => item.Entry)], CancellationToken.None);
                batch.ForEach(static item => item.Done.SetResult());
            }
            catch (Exception exception)
            {
                // Nothing is swallowed: whoever waits for the entry gets it, whatever it is.
                batch.ForEach(item => item.Done.SetException(exception));
            }
        }
    }
}
