using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Npgsql;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>Where things are, and where they are to be.</content>
public sealed partial class PostgresRegistry
{
    private static readonly TimeSpan TellOfDeletions = TimeSpan.FromHours(1);
    private const int EventsPerRead = 256;

    // VMs that are made, with what is the matter with their workers.
    private static readonly string ConditionedVms = $"""
        SELECT v.vm, CASE WHEN v.moving OR v.worker IS NULL THEN {(int)WorkerCondition.Replacing} WHEN w.lost OR w.lease_until < clock_timestamp() THEN {(int)WorkerCondition.Lost} ELSE 0 END
        FROM vms v LEFT JOIN workers w ON w.name = v.worker WHERE v.vm IS NOT NULL
        """;

    private const int PlacedAgainTogether = 64;

    /// <inheritdoc/>
    public Task AbandonVmAsync(string name, long generation, CancellationToken cancellation) => TransactAsync(
        cancellation, sql => sql.ExecuteAsync("DELETE FROM vms WHERE name = $1 AND generation = $2 AND vm IS NULL", name, generation));

    /// <inheritdoc/>
    public Task<Located> LocateVmAsync(string name, RequestKey? request, CancellationToken cancellation) => LocateAsync(
        "SELECT v.generation, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp(), NULL::bytea FROM vms v LEFT JOIN workers w ON w.name = v.worker AND NOT v.moving WHERE v.name = $1 AND v.vm IS NOT NULL",
        name,
        request,
        cancellation);

    /// <inheritdoc/>
    public Task<Located> LocateSnapshotAsync(string name, RequestKey? request, CancellationToken cancellation) => LocateAsync(
        "SELECT 0::bigint, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp(), s.snapshot FROM snapshots s JOIN workers w ON w.name = s.worker WHERE s.name = $1",
        name,
        request,
        cancellation);

    /// <inheritdoc/>
    public Task DeleteLostSnapshotAsync(string name, string etag, RequestKey? request, CancellationToken cancellation) => OnceAsync(request, Empty.Parser, cancellation, async sql =>
    {
        // The lock on the worker holds up its return until the snapshot is gone.
        var there = await sql.QueryAsync(
            """
            SELECT s.snapshot, w.name, w.lost OR w.lease_until < clock_timestamp() FROM snapshots s JOIN workers w ON w.name = s.worker WHERE s.name = $1
            FOR UPDATE OF s FOR SHARE OF w
            """,
            row => (Snapshot: Snapshot.Parser.ParseFrom(row.GetFieldValue<byte[]>(0)), Worker: row.GetString(1), IsLost: row.GetBoolean(2)),
            name);
        if (there is not [var found])
            throw ApiError.NotFound(name);
        Refusals.RequireEtag(found.Snapshot, etag);
        if (!found.IsLost)
            throw Refusals.WorkerReturned(found.Worker);
        sql.Defer("DELETE FROM snapshots WHERE name = $1", name);
        sql.Defer("INSERT INTO deleted_snapshots (uid, worker) VALUES ($1, $2) ON CONFLICT (uid) DO NOTHING", found.Snapshot.Uid, found.Worker);
        return new Empty();
    });

    /// <summary>Uids of a worker's snapshots that were deleted while it was lost; those that it has no more are forgotten.</summary>
    private static async Task<HashSet<string>> DeletedSnapshotsAsync(Transaction sql, string worker, WorkerInventory inventory)
    {
        string[] present = [.. inventory.Snapshots.Select(snapshot => snapshot.Uid)];
        await sql.ExecuteAsync(
            "DELETE FROM deleted_snapshots WHERE worker = $1 AND NOT uid = ANY ($2) AND delete_time < clock_timestamp() - $3", worker, present, TellOfDeletions);
        return [.. await sql.QueryAsync("SELECT uid FROM deleted_snapshots WHERE uid = ANY ($1)", row => row.GetString(0), [present])];
    }

    private static Vm ReadConditionedVm(NpgsqlDataReader row)
    {
        Vm vm = ReadVm(row, 0)!;
        vm.Status.WorkerCondition = (WorkerCondition)row.GetInt32(1);
        return vm;
    }

    /// <summary>Where something is and what is known of a request, in one round trip: every call begins with it.</summary>
    private Task<Located> LocateAsync(string place, string name, RequestKey? request, CancellationToken cancellation) => ReadAsync(cancellation, async sql =>
    {
        var rows = await sql.QueryAsync(
            $"""
            SELECT there.*, r.fingerprint, r.response
            FROM (SELECT 1) one
            LEFT JOIN ({place}) there (generation, worker, address, incarnation, lost, snapshot) ON true
            LEFT JOIN requests r ON r.project = $2 AND r.request_id = $3 AND r.complete_time >= clock_timestamp() - $4
            """,
            row => (
                Located: row.IsDBNull(0) ? null : ReadLocated(row, null) with { Snapshot = row.IsDBNull(5) ? null : Snapshot.Parser.ParseFrom(row.GetFieldValue<byte[]>(5)) },
                Fingerprint: row.IsDBNull(6) ? null : ByteString.CopyFrom(row.GetFieldValue<byte[]>(6)),
                Answer: row.IsDBNull(7) ? null : row.GetFieldValue<byte[]>(7)),
            name,
            request?.Project ?? "",
            request?.Id ?? "",
            _options.RememberRequests);
        (Located? located, ByteString? fingerprint, byte[]? answer) = rows.Single();
        if (fingerprint is not null)
            Refusals.RequireSame(request!, fingerprint);
        return located is not null ? located with { Answer = answer } : answer is not null ? new Located(null, 0, answer) : throw ApiError.NotFound(name);
    });

    /// <inheritdoc/>
    public Task<(IReadOnlyList<WorkerAddress> Holders, byte[]? Answer)> LocateImageAsync(string name, RequestKey? request, CancellationToken cancellation) =>
        ReadAsync<(IReadOnlyList<WorkerAddress>, byte[]?)>(cancellation, async sql =>
        {
            byte[]? answer = await AnswerAsync(sql, request);
            return (await sql.QueryAsync(
                """
                SELECT w.name, w.address, w.incarnation FROM images i JOIN workers w ON w.name = i.worker WHERE i.name = $1
                ORDER BY w.lost OR w.lease_until < clock_timestamp(), w.name COLLATE "C"
                """,
                row => new WorkerAddress(row.GetString(0), row.GetString(1), row.GetInt64(2)),
                name), answer);
        });

    /// <inheritdoc/>
    public Task ClaimRequestAsync(RequestKey request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        return TransactAsync(cancellation, async sql =>
        {
            // Whoever comes at the same time waits for the row, and then sees whose it is.
            await sql.ExecuteAsync(
                """
                INSERT INTO requests (project, request_id, fingerprint, response) VALUES ($1, $2, $3, '') ON CONFLICT (project, request_id) DO UPDATE
                SET fingerprint = excluded.fingerprint, response = excluded.response, complete_time = excluded.complete_time WHERE requests.complete_time < clock_timestamp() - $4
                """,
                request.Project,
                request.Id,
                request.Fingerprint.ToByteArray(),
                _options.RememberRequests);
            return await AnswerAsync(sql, request);
        });
    }

    /// <inheritdoc/>
    public Task<Vm> FindVmAsync(string name, CancellationToken cancellation) => ReadAsync(
        cancellation, async sql => (await sql.QueryAsync($"{ConditionedVms} AND v.name = $1", ReadConditionedVm, name)).SingleOrDefault() ?? throw ApiError.NotFound(name));

    /// <inheritdoc/>
    public Task<IReadOnlyList<Vm>> ListVmsAsync(string project, CancellationToken cancellation) => ReadAsync<IReadOnlyList<Vm>>(
        cancellation, async sql => await sql.QueryAsync($"{ConditionedVms} AND v.project = $1 ORDER BY v.name COLLATE \"C\"", ReadConditionedVm, project));

    /// <inheritdoc/>
    public Task<IReadOnlyList<Image>> ListImagesAsync(string project, CancellationToken cancellation) => ReadAsync<IReadOnlyList<Image>>(
        cancellation,
        async sql => await sql.QueryAsync(
            "SELECT DISTINCT ON (name) image FROM images WHERE project = $1 ORDER BY name, worker", row => Image.Parser.ParseFrom(row.GetFieldValue<byte[]>(0)), project));

    /// <inheritdoc/>
    public Task<IReadOnlyList<Snapshot>> ListSnapshotsAsync(string project, CancellationToken cancellation) => ReadAsync<IReadOnlyList<Snapshot>>(
        cancellation,
        async sql => await sql.QueryAsync(
            "SELECT snapshot FROM snapshots WHERE project = $1 ORDER BY name COLLATE \"C\"", row => Snapshot.Parser.ParseFrom(row.GetFieldValue<byte[]>(0)), project));

    /// <inheritdoc/>
    public Task<(IReadOnlyList<Vm> Vms, EventPosition Position)> SnapshotProjectAsync(string project, CancellationToken cancellation) => ReadAsync<(IReadOnlyList<Vm>, EventPosition)>(
        cancellation,
        async sql =>
        {
            // One statement sees one state of the database: the position is that of the VMs.
            var rows = await sql.QueryAsync(
                """
                SELECT coalesce((SELECT sequence FROM projects WHERE name = $1), 0), v.vm
                FROM (SELECT 1) one LEFT JOIN vms v ON v.project = $1 AND v.vm IS NOT NULL ORDER BY v.name COLLATE "C"
                """,
                row => (Sequence: row.GetInt64(0), Vm: ReadVm(row, 1)),
                project);
            return ([.. rows.Select(row => row.Vm).OfType<Vm>()], new EventPosition(_epoch, rows[0].Sequence));
        });

    /// <inheritdoc/>
    public async Task<IReadOnlyList<VmEventRecord>> EventsAfterAsync(string project, EventPosition position, CancellationToken cancellation)
    {
        if (position.Epoch != _epoch)
            throw Refusals.TokenExpired();
        TimeSpan wait = FirstPoll;
        while (true)
        {
            (long reached, List<VmEventRecord> events) = await ReadAsync(cancellation, async sql => (
                // Read first: what comes in between is among the events, and not taken for a gap.
                await sql.ScalarAsync<long>("SELECT sequence FROM projects WHERE name = $1", project),
                await sql.QueryAsync(
                    "SELECT sequence, before, after FROM vm_events WHERE project = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
                    row => new VmEventRecord(new EventPosition(_epoch, row.GetInt64(0)), ReadVm(row, 1), ReadVm(row, 2)),
                    project,
                    position.Sequence,
                    EventsPerRead)));
            if (position.Sequence > reached && events.Count == 0 || reached - position.Sequence > _options.MaxEvents || events.Count > 0 && events[0].Position.Sequence != position.Sequence + 1)
                throw Refusals.TokenExpired();
            if (events.Count > 0)
                return events;
            await Task.Delay(wait, _time, cancellation);
            wait = wait * 2 < LongestPoll ? wait * 2 : LongestPoll;
        }
    }

    /// <inheritdoc/>
    public async Task<FailoverOutcome> FailOverAsync(CancellationToken cancellation)
    {
        int lost = 0, placed = 0;
        while (await TransactAsync(cancellation, async sql =>
        {
            // Whoever locks the row acts on it; another front end skips it.
            string? worker = await sql.ScalarAsync<string>("SELECT name FROM workers WHERE NOT lost AND lease_until < clock_timestamp() LIMIT 1 FOR UPDATE SKIP LOCKED");
            if (worker is not null)
                await LoseWorkerAsync(sql, worker);
            return worker is not null;
        }))
            lost++;

        var given = new Dictionary<string, WorkerAddress>(StringComparer.Ordinal);
        string after = "";
        while (await TransactAsync(cancellation, sql => PlaceAgainAsync(sql, after)) is { } step)
        {
            after = step.LastVm;
            foreach (WorkerAddress worker in step.Workers)
                given[worker.Name] = worker;
            placed += step.Workers.Count;
        }

        return new FailoverOutcome([.. given.Values.OrderBy(worker => worker.Name, StringComparer.Ordinal)], placed, lost);
    }

    /// <inheritdoc/>
    public async Task PruneAsync(CancellationToken cancellation)
    {
        await TransactAsync(cancellation, sql => sql.ExecuteAsync(
            "DELETE FROM vm_events e USING projects p WHERE p.name = e.project AND e.sequence <= p.sequence - $1", (long)_options.MaxEvents));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync(
            "DELETE FROM requests WHERE complete_time < clock_timestamp() - $1 OR complete_time < (SELECT complete_time FROM requests ORDER BY complete_time DESC OFFSET $2 LIMIT 1)",
            _options.RememberRequests,
            _options.MaxRequests));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM image_uploads WHERE begin_time < clock_timestamp() - $1", UploadPatience));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync(
            "WITH ended AS (DELETE FROM stream_holders WHERE lease_until < clock_timestamp() RETURNING name) DELETE FROM streams WHERE holder IN (SELECT name FROM ended)"));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM audit_entries WHERE time < clock_timestamp() - $1", _options.KeepAudit));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM vms WHERE vm IS NULL AND create_time < clock_timestamp() - $1", _options.AbandonAfter));
    }

    /// <summary>
    /// Places the next VMs that have no worker, as far as there is room: together, but for one that has to see where others are. Null where
    /// there is none that is not in others' hands.
    /// </summary>
    /// <returns>The last that was looked at, and the workers of those that were placed.</returns>
    private async Task<(string LastVm, IReadOnlyList<WorkerAddress> Workers)?> PlaceAgainAsync(Transaction sql, string after)
    {
        List<(string Name, VmSpec Spec)> next = await sql.QueryAsync(
            "SELECT name, spec FROM vms WHERE worker IS NULL AND name > $1 ORDER BY name LIMIT $2 FOR UPDATE SKIP LOCKED",
            row => (Name: row.GetString(0), Spec: VmSpec.Parser.ParseFrom(row.GetFieldValue<byte[]>(1))),
            after,
            PlacedAgainTogether);
        if (next.Count == 0)
            return null;
        List<(string Name, VmSpec Spec)> vms = IsRelative(next[0].Spec) ? [next[0]] : [.. next.TakeWhile(vm => !IsRelative(vm.Spec))];
        ILookup<string, string> holders = await HoldersAsync(sql, [.. vms.SelectMany(vm => SpecImages.Of(vm.Spec)).Distinct(StringComparer.Ordinal)]);
        List<WorkerView> fleet = await FleetAsync(sql);
        var chosen = new List<(string Vm, string Worker, Resources Needs)>();
        foreach ((string name, VmSpec spec) in vms)
        {
            PlacementRequest request = IsRelative(spec) ? await RequestForAsync(sql, name, spec, null) : RequestFor(spec, null, holders);
            if (Scheduler.Choose(fleet, request) is not { } worker)
                continue;
            worker.Reserved += request.Needs;
            chosen.Add((name, worker.Name, request.Needs));
        }

        Dictionary<string, (WorkerAddress Address, Resources Free)> locked = await LockAsync(sql, [.. chosen.Select(choice => choice.Worker).Distinct(StringComparer.Ordinal)]);
        var placed = new List<(string Vm, WorkerAddress Worker)>();
        foreach ((string vm, string name, Resources needs) in chosen)
        {
            // What was free when it was read may be taken by now; then the next look finds it another place.
            if (!locked.TryGetValue(name, out var worker) || !needs.FitsInto(worker.Free))
                continue;
            locked[name] = (worker.Address, worker.Free - needs);
            placed.Add((vm, worker.Address));
        }

        await sql.ExecuteAsync(
            "UPDATE vms SET worker = placed.worker FROM unnest($1, $2) AS placed (name, worker) WHERE vms.name = placed.name",
            placed.Select(each => each.Vm).ToArray(),
            placed.Select(each => each.Worker.Name).ToArray());
        return (vms[^1].Name, [.. placed.Select(each => each.Worker)]);
    }

    private static async Task<PlacementRequest> RequestForAsync(Transaction sql, string name, VmSpec spec, string? near)
    {
        string[] images = [.. SpecImages.Of(spec)];
        PlacementRequest request = RequestFor(spec, near, await HoldersAsync(sql, images));
        if (!IsRelative(spec))
            return request;
        // Two that want to be apart must not be placed at once.
        await sql.ExecuteAsync("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", ProjectOf(name));
        PlacementSpec placement = spec.Placement;
        return request with
        {
            With = placement.WithVmLabels.Count > 0 ? await WorkersWithAsync(placement.WithVmLabels) : null,
            ApartFrom = placement.ApartFromVmLabels.Count > 0 ? await WorkersWithAsync(placement.ApartFromVmLabels) : null,
        };

        async Task<IReadOnlySet<string>> WorkersWithAsync(IEnumerable<KeyValuePair<string, string>> labels) => (await sql.QueryAsync(
            "SELECT DISTINCT worker FROM vms WHERE project = $1 AND name <> $2 AND worker IS NOT NULL AND labels @> $3",
            row => row.GetString(0),
            ProjectOf(name),
            name,
            ToJson(labels))).ToHashSet(StringComparer.Ordinal);
    }

    /// <summary>What is asked of a placement, as far as other VMs do not matter.</summary>
    private static PlacementRequest RequestFor(VmSpec spec, string? near, ILookup<string, string> holders) => new()
    {
        Needs = Resources.Of(spec),
        Engine = SpecEngine.Of(spec),
        HasCheckpoints = spec.RestartPolicy == RestartPolicy.FromLastCheckpoint,
        Spec = spec.Placement,
        Near = near,
        Images = SpecImages.Of(spec) is { Count: > 0 } images
            ? images.SelectMany(image => holders[image]).GroupBy(worker => worker, StringComparer.Ordinal).ToDictionary(group => group.Key, group => group.Count(), StringComparer.Ordinal)
            : null,
    };

    /// <summary>The workers that have images, by image.</summary>
    private static async Task<ILookup<string, string>> HoldersAsync(Transaction sql, string[] images) => (await sql.QueryAsync(
        "SELECT name, worker FROM images WHERE name = ANY ($1)", row => (Name: row.GetString(0), Worker: row.GetString(1)), [images]))
        .ToLookup(row => row.Name, row => row.Worker, StringComparer.Ordinal);

    /// <summary>Whether it matters where other VMs are.</summary>
    private static bool IsRelative(VmSpec spec) => spec.Placement is { WithVmLabels.Count: > 0 } or { ApartFromVmLabels.Count: > 0 };

    private async Task<byte[]?> AnswerAsync(Transaction sql, RequestKey? request)
    {
        if (request is null)
            return null;
        var rows = await sql.QueryAsync(
            "SELECT fingerprint, response FROM requests WHERE project = $1 AND request_id = $2 AND complete_time >= clock_timestamp() - $3",
            row => (Fingerprint: ByteString.CopyFrom(row.GetFieldValue<byte[]>(0)), Response: row.GetFieldValue<byte[]>(1)),
            request.Project,
            request.Id,
            _options.RememberRequests);
        if (rows is not [var done])
            return null;
        Refusals.RequireSame(request, done.Fingerprint);
        return done.Response;
    }

    private static Located ReadLocated(NpgsqlDataReader row, byte[]? answer) => row.IsDBNull(1)
        ? new Located(null, row.GetInt64(0), answer)
        : new Located(new WorkerAddress(row.GetString(1), row.GetString(2), row.GetInt64(3)), row.GetInt64(0), answer, row.GetBoolean(4));
}
