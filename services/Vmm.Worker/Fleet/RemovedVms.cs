using System.Collections.Concurrent;

namespace Vmm.Worker.Fleet;

/// <summary>
/// VMs that this worker has removed, for as long as the registry may still ask it to take them: what it asks for was read before it heard of
/// the removal, and a VM that was deleted must not be made again. Thread-safe.
/// </summary>
public sealed class RemovedVms
{
    private const long UnderWay = long.MaxValue;

    private readonly ConcurrentDictionary<string, long> _removed = new(StringComparer.Ordinal);

    /// <summary>A removal begins of which the registry does not know.</summary>
    /// <param name="name">The VM.</param>
    public void Begin(string name) => _removed[name] = UnderWay;

    /// <summary>The registry knows of it, or there is nothing that it would have to know.</summary>
    /// <param name="name">The VM.</param>
    /// <param name="now">A timestamp.</param>
    public void End(string name, long now) => _removed[name] = now;

    /// <summary>Whether the registry may have asked for a VM before it heard of its removal. It asks again for one that is to come all the same.</summary>
    /// <param name="name">The VM.</param>
    /// <param name="asked">The timestamp before the registry was asked.</param>
    public bool IsOutdated(string name, long asked) => _removed.TryGetValue(name, out long removed) && removed >= asked;

    /// <summary>Forgets removals that no instructions can be older than any more.</summary>
    /// <param name="asked">A timestamp before the registry was asked for the oldest that are still to be followed.</param>
    public void Forget(long asked)
    {
        foreach (KeyValuePair<string, long> removed in _removed)
        {
            if (removed.Value < asked)
                _removed.TryRemove(removed);
        }
    }
}
