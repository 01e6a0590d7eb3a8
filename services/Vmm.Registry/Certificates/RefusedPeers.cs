namespace Vmm.Registry.Certificates;

/// <summary>
/// Tells of connections that were refused because of the other end's certificate: at most one every ten seconds, because strangers can make any number of them.
/// Thread-safe.
/// </summary>
public sealed class RefusedPeers(TimeProvider time)
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(10);

    private readonly Lock _lock = new();
    private long? _told;

    /// <summary>Gets who was refused and why, as a sentence.</summary>
    public Action<string>? Tell { get; set; }

    /// <summary>Somebody was refused.</summary>
    public void Note(string what)
    {
        lock (_lock)
        {
            if (_told is { } told && time.GetElapsedTime(told) < Interval)
                return;
            _told = time.GetTimestamp();
        }

        Tell?.Invoke(what);
    }
}
