namespace Vmm.Registry.InMemory;

/// <content>Streams, counted over all front ends.</content>
public sealed partial class InMemoryRegistry
{
    private readonly Dictionary<string, StreamPlace> _streams = new(StringComparer.Ordinal);
    private readonly Dictionary<string, DateTimeOffset> _streamLeases = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public Task AdmitStreamAsync(StreamPlace place, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(place);
        lock (_lock)
        {
            if (FindProject(place.Project)?.Quota is { HasStreams: true } quota)
                Quotas.RequireRoomForStream(
                    place.Project, quota, _streams.Values.Count(other => other.Project == place.Project && other.Id != place.Id && HoldsStreams(other.Holder)));
            _streamLeases.TryAdd(place.Holder, LeaseFromNow());
            _streams[place.Id] = place;
        }

        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task LeaveStreamsAsync(IReadOnlyList<StreamPlace> places, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(places);
        lock (_lock)
            foreach (StreamPlace place in places)
                _streams.Remove(place.Id);
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task RenewStreamsAsync(string holder, IReadOnlyList<StreamPlace> places, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(places);
        lock (_lock)
        {
            _streamLeases[holder] = LeaseFromNow();
            foreach (StreamPlace place in places)
                _streams[place.Id] = place;
        }

        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task EndStreamsAsync(string holder, CancellationToken cancellation)
    {
        lock (_lock)
            ForgetStreams(holder);
        return Task.CompletedTask;
    }

    private bool HoldsStreams(string holder) => _streamLeases.TryGetValue(holder, out DateTimeOffset until) && until >= time.GetUtcNow();

    private void PruneStreams()
    {
        foreach (string holder in _streamLeases.Keys.Where(holder => !HoldsStreams(holder)).ToList())
            ForgetStreams(holder);
    }

    private void ForgetStreams(string holder)
    {
        _streamLeases.Remove(holder);
        foreach (StreamPlace place in _streams.Values.Where(place => place.Holder == holder).ToList())
            _streams.Remove(place.Id);
    }
}
