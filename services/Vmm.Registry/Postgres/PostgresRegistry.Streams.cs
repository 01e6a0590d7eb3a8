using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>Streams, counted over all front ends.</content>
public sealed partial class PostgresRegistry
{
    private const string InsertHolder = "INSERT INTO stream_holders (name, lease_until) VALUES ($1, clock_timestamp() + $2)";

    /// <inheritdoc/>
    public Task AdmitStreamAsync(StreamPlace place, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(place);
        return TransactAsync(cancellation, async sql =>
        {
            // A project without a limit is not locked, nor is what it has counted.
            if (await FindProjectAsync(sql, place.Project, "") is { Quota.HasStreams: true }
                && (await FindProjectAsync(sql, place.Project, "FOR NO KEY UPDATE"))?.Quota is { } quota)
                Quotas.RequireRoomForStream(place.Project, quota, await sql.ScalarAsync<long>(
                    "SELECT count(*) FROM streams s JOIN stream_holders h ON h.name = s.holder WHERE s.project = $1 AND s.id <> $2 AND h.lease_until >= clock_timestamp()",
                    place.Project,
                    place.Id));
            sql.Defer($"{InsertHolder} ON CONFLICT (name) DO NOTHING", place.Holder, _options.LeaseDuration);
            Write(sql, [place]);
            return true;
        });
    }

    /// <inheritdoc/>
    public Task LeaveStreamsAsync(IReadOnlyList<StreamPlace> places, CancellationToken cancellation) =>
        TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM streams WHERE id = ANY ($1)", [places.Select(place => place.Id).ToArray()]));

    /// <inheritdoc/>
    public Task RenewStreamsAsync(string holder, IReadOnlyList<StreamPlace> places, CancellationToken cancellation) => TransactAsync(cancellation, sql =>
    {
        sql.Defer($"{InsertHolder} ON CONFLICT (name) DO UPDATE SET lease_until = excluded.lease_until", holder, _options.LeaseDuration);
        Write(sql, places);
        return Task.FromResult(true);
    });

    /// <inheritdoc/>
    public Task EndStreamsAsync(string holder, CancellationToken cancellation) => TransactAsync(cancellation, sql =>
    {
        sql.Defer("DELETE FROM streams WHERE holder = $1", holder);
        sql.Defer("DELETE FROM stream_holders WHERE name = $1", holder);
        return Task.FromResult(true);
    });

    private static void Write(Transaction sql, IReadOnlyList<StreamPlace> places)
    {
        if (places.Count > 0)
            sql.Defer(
                "INSERT INTO streams (id, holder, project) SELECT * FROM unnest($1, $2, $3) ON CONFLICT (id) DO NOTHING",
                places.Select(place => place.Id).ToArray(),
                places.Select(place => place.Holder).ToArray(),
                places.Select(place => place.Project).ToArray());
    }
}
