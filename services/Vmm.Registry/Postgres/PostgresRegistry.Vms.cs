using Google.Protobuf;
using Npgsql;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>Where things are, and where they are to be.</content>
public sealed partial class PostgresRegistry
{
    private const int EventsPerRead = 256;

    /// <inheritdoc/>
    public async Task<Located> PlaceVmAsync(NewVm vm, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(vm);
        // Another placement may take the last room of the chosen worker, or the name, between the look and the lock.
        for (int attempt = 1; attempt < MaxAttempts; attempt++)
            if (await TransactAsync(cancellation, sql => TryPlaceAsync(sql, vm)) is { } placed)
                return placed;
        throw ApiError.Unavailable("PLACEMENT_CONTENDED", "Workers fill up faster than this VM can be placed.");
    }

    /// <inheritdoc/>
    public Task AbandonVmAsync(string name, long generation, CancellationToken cancellation) => TransactAsync(
        cancellation, sql => sql.ExecuteAsync("DELETE FROM vms WHERE name = $1 AND generation = $2 AND vm IS NULL", name, generation));

    /// <inheritdoc/>
    public Task<Located> LocateVmAsync(string name, RequestKey? request, CancellationToken cancellation) => ReadAsync(cancellation, async sql =>
    {
        byte[]? answer = await AnswerAsync(sql, request);
        List<Located> rows = await sql.QueryAsync(
            """
            SELECT v.generation, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp()
            FROM vms v LEFT JOIN workers w ON w.name = v.worker WHERE v.name = $1 AND v.vm IS NOT NULL
            """,
            row => ReadLocated(row, answer),
            name);
        return rows is [var located] ? located : answer is not null ? new Located(null, 0, answer) : throw ApiError.NotFound(name);
    });

    /// <inheritdoc/>
    public Task<Located> LocateSnapshotAsync(string name, RequestKey? request, CancellationToken cancellation) => ReadAsync(cancellation, async sql =>
    {
        byte[]? answer = await AnswerAsync(sql, request);
        List<Located> rows = await sql.QueryAsync(
            """
            SELECT 0::bigint, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp(), s.snapshot
            FROM snapshots s JOIN workers w ON w.name = s.worker WHERE s.name = $1
            """,
            row => ReadLocated(row, answer) with { Snapshot = Snapshot.Parser.ParseFrom(row.GetFieldValue<byte[]>(5)) },
            name);
        return rows is [var located] ? located : answer is not null ? new Located(null, 0, answer) : throw ApiError.NotFound(name);
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
    public Task<IReadOnlyList<Vm>> ListVmsAsync(string project, CancellationToken cancellation) => ReadAsync<IReadOnlyList<Vm>>(
        cancellation, async sql => await sql.QueryAsync("SELECT vm FROM vms WHERE project = $1 AND vm IS NOT NULL ORDER BY name COLLATE \"C\"", row => ReadVm(row, 0)!, project));

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
    public async Task<IReadOnlyList<WorkerAddress>> FailOverAsync(CancellationToken cancellation)
    {
        while (await TransactAsync(cancellation, async sql =>
        {
            // Whoever locks the row acts on it; another front end skips it.
            string? worker = await sql.ScalarAsync<string>("SELECT name FROM workers WHERE NOT lost AND lease_until < clock_timestamp() LIMIT 1 FOR UPDATE SKIP LOCKED");
            if (worker is not null)
                await LoseWorkerAsync(sql, worker);
            return worker is not null;
        }))
        {
        }

        var given = new Dictionary<string, WorkerAddress>(StringComparer.Ordinal);
        string after = "";
        while (await TransactAsync(cancellation, sql => TryPlaceAgainAsync(sql, after)) is { } step)
        {
            after = step.Vm;
            if (step.Worker is not null)
                given[step.Worker.Name] = step.Worker;
        }

        return [.. given.Values.OrderBy(worker => worker.Name, StringComparer.Ordinal)];
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
        await TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM audit_entries WHERE time < clock_timestamp() - $1", _options.KeepAudit));
        await TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM vms WHERE vm IS NULL AND create_time < clock_timestamp() - $1", _options.AbandonAfter));
    }

    private async Task<Located?> TryPlaceAsync(Transaction sql, NewVm vm)
    {
        if (await AnswerAsync(sql, vm.Request) is { } answer)
            return new Located(null, 0, answer);
        var present = await sql.QueryAsync(
            """
            SELECT v.generation, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp(), v.request_id, v.fingerprint
            FROM vms v LEFT JOIN workers w ON w.name = v.worker WHERE v.name = $1
            """,
            row => (
                Located: ReadLocated(row, null),
                Request: row.IsDBNull(5) ? null : new RequestKey(ProjectOf(vm.Name), row.GetString(5), ByteString.CopyFrom(row.GetFieldValue<byte[]>(6)))),
            vm.Name);
        if (present is [var existing])
        {
            Refusals.RequireRepetition(vm, existing.Request);
            return existing.Located;
        }

        string project = ProjectOf(vm.Name);
        Project quota = await RequireProjectAsync(sql, project);
        string? near = vm.Snapshot is null ? null : await sql.ScalarAsync<string>("SELECT worker FROM snapshots WHERE name = $1", vm.Snapshot) ?? throw ApiError.NotFound(vm.Snapshot);
        PlacementRequest request = await RequestForAsync(sql, vm.Name, vm.Spec, near);
        List<WorkerView> fleet = await FleetAsync(sql);
        WorkerView chosen = Scheduler.Choose(fleet, request) ?? throw Refusals.NoWorker(fleet, request);
        if (await LockForAsync(sql, chosen.Name, request.Needs) is not { } worker)
            return null;
        await RequireRoomAsync(sql, project, quota, request.Needs);
        // The project's key is locked, so that it is not deleted meanwhile.
        int inserted = await sql.ExecuteAsync(
            """
            INSERT INTO vms (name, project, generation, worker, vcpus, memory_mib, labels, spec, moves, request_id, fingerprint)
            SELECT $1, present.name, 1, $3, $4, $5, $6, $7, $8, $9::text, $10::bytea
            FROM (SELECT name FROM projects WHERE name = $2 AND record IS NOT NULL FOR KEY SHARE) present
            ON CONFLICT (name) DO NOTHING
            """,
            vm.Name,
            project,
            worker.Name,
            (int)request.Needs.Vcpus,
            request.Needs.MemoryMib,
            ToJson(vm.Labels),
            vm.Spec.ToByteArray(),
            VmTransitions.Moves(vm.Spec),
            vm.Request?.Id,
            vm.Request?.Fingerprint.ToByteArray());
        return inserted == 1 ? new Located(worker, 1, null) : null;
    }

    /// <summary>Places the next VM that has no worker; null where there is none that is not in others' hands.</summary>
    private async Task<(string Vm, WorkerAddress? Worker)?> TryPlaceAgainAsync(Transaction sql, string after)
    {
        var rows = await sql.QueryAsync(
            "SELECT name, spec FROM vms WHERE worker IS NULL AND name > $1 ORDER BY name LIMIT 1 FOR UPDATE SKIP LOCKED",
            row => (Name: row.GetString(0), Spec: VmSpec.Parser.ParseFrom(row.GetFieldValue<byte[]>(1))),
            after);
        if (rows is not [var vm])
            return null;
        PlacementRequest request = await RequestForAsync(sql, vm.Name, vm.Spec, null);
        if (Scheduler.Choose(await FleetAsync(sql), request) is not { } chosen || await LockForAsync(sql, chosen.Name, request.Needs) is not { } worker)
            return (vm.Name, null);
        await sql.ExecuteAsync("UPDATE vms SET worker = $2 WHERE name = $1", vm.Name, worker.Name);
        return (vm.Name, worker);
    }

    /// <summary>Locks a worker that was chosen, if it still has room and takes VMs.</summary>
    private static async Task<WorkerAddress?> LockForAsync(Transaction sql, string worker, Resources needs) => (await sql.QueryAsync(
        """
        SELECT name, address, incarnation FROM workers
        WHERE name = $1 AND state = $2 AND NOT lost AND lease_until >= clock_timestamp()
            AND capacity_vms - reserved_vms >= $3 AND capacity_vcpus - reserved_vcpus >= $4 AND capacity_memory_mib - reserved_memory_mib >= $5
        FOR NO KEY UPDATE
        """,
        row => new WorkerAddress(row.GetString(0), row.GetString(1), row.GetInt64(2)),
        worker,
        (int)WorkerState.Ready,
        needs.Vms,
        needs.Vcpus,
        needs.MemoryMib)).SingleOrDefault();

    private static async Task<PlacementRequest> RequestForAsync(Transaction sql, string name, VmSpec spec, string? near)
    {
        PlacementSpec? placement = spec.Placement;
        // Two that want to be apart must not be placed at once.
        if (placement is { WithVmLabels.Count: > 0 } or { ApartFromVmLabels.Count: > 0 })
            await sql.ExecuteAsync("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", ProjectOf(name));
        IReadOnlyList<string> images = SpecImages.Of(spec);
        return new PlacementRequest
        {
            Needs = Resources.Of(spec),
            Engine = spec.Engine == ExecutionEngine.Unspecified ? ExecutionEngine.Interpreter : spec.Engine,
            Spec = placement,
            Near = near,
            With = placement is { WithVmLabels.Count: > 0 } ? await WorkersWithAsync(placement.WithVmLabels) : null,
            ApartFrom = placement is { ApartFromVmLabels.Count: > 0 } ? await WorkersWithAsync(placement.ApartFromVmLabels) : null,
            Images = images.Count == 0 ? null : (await sql.QueryAsync(
                "SELECT worker, count(*)::integer FROM images WHERE name = ANY ($1) GROUP BY worker", row => (Worker: row.GetString(0), Count: row.GetInt32(1)), [images.ToArray()]))
                .ToDictionary(row => row.Worker, row => row.Count, StringComparer.Ordinal),
        };

        async Task<IReadOnlySet<string>> WorkersWithAsync(IEnumerable<KeyValuePair<string, string>> labels) => (await sql.QueryAsync(
            "SELECT DISTINCT worker FROM vms WHERE project = $1 AND name <> $2 AND worker IS NOT NULL AND labels @> $3",
            row => row.GetString(0),
            ProjectOf(name),
            name,
            ToJson(labels))).ToHashSet(StringComparer.Ordinal);
    }

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
