using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Watching;

/// <summary>
/// The VMs of one project as everybody sees them, and the numbered changes that led here. Messages that are handed in or out
/// are never changed afterwards. Thread-safe.
/// </summary>
internal sealed class ProjectHistory(string epoch, int capacity)
{
    private readonly Lock _lock = new();
    private readonly SortedDictionary<string, Vm> _present = new(StringComparer.Ordinal);
    private readonly Queue<VmChange> _changes = new();
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ulong _sequence;

    /// <summary>The VM of that name, or null.</summary>
    public Vm? Find(string name)
    {
        lock (_lock)
            return _present.GetValueOrDefault(name);
    }

    /// <summary>Every VM, ordered by name.</summary>
    public List<Vm> List()
    {
        lock (_lock)
            return [.. _present.Values];
    }

    /// <summary>Makes the VM, in a new version or for the first time, visible.</summary>
    public void Put(Vm vm) => Change(vm.Name, vm);

    /// <summary>Makes the VM disappear.</summary>
    public void Remove(string name) => Change(name, null);

    /// <summary>Everything that is present, and the position that this stands at.</summary>
    public (List<Vm> Present, WatchPosition Position) Snapshot()
    {
        lock (_lock)
            return ([.. _present.Values], Position(_sequence));
    }

    /// <summary>The changes after a position, at least one: waits where there is none yet.</summary>
    /// <exception cref="Grpc.Core.RpcException">OUT_OF_RANGE: not all of them are kept any more, or the position is not of this worker's life.</exception>
    public async Task<List<VmChange>> AfterAsync(WatchPosition position, CancellationToken cancellation)
    {
        while (true)
        {
            Task changed;
            lock (_lock)
            {
                if (position.Epoch != epoch || position.Sequence > _sequence || _sequence - position.Sequence > (ulong)_changes.Count)
                    throw ApiError.OutOfRange("RESUME_TOKEN_EXPIRED", "The changes after this resume token are not all kept any more; watch without a token.");
                if (position.Sequence < _sequence)
                    return [.. _changes.Skip(_changes.Count - (int)(_sequence - position.Sequence))];
                changed = _changed.Task;
            }

            await changed.WaitAsync(cancellation);
        }
    }

    private void Change(string name, Vm? after)
    {
        TaskCompletionSource wake;
        lock (_lock)
        {
            Vm? before = _present.GetValueOrDefault(name);
            if (after is null)
                _present.Remove(name);
            else
                _present[name] = after;
            _changes.Enqueue(new VmChange { Position = Position(++_sequence), Before = before, After = after });
            if (_changes.Count > capacity)
                _changes.Dequeue();
            wake = _changed;
            _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }

        wake.SetResult();
    }

    private WatchPosition Position(ulong sequence) => new() { Epoch = epoch, Sequence = sequence };
}
