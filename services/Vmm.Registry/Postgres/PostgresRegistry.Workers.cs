using System.Collections.Concurrent;
using Google.Protobuf.WellKnownTypes;
using Npgsql;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>Workers and their leases.</content>
public sealed partial class PostgresRegistry
{
    private const string WorkerColumns = """
        name, address, version, incarnation, labels, engines, state, capacity_vms, capacity_vcpus, capacity_memory_mib,
        reserved_vms, reserved_vcpus, reserved_memory_mib, running_vms, register_time, lease_until, lost OR lease_until < clock_timestamp()
        """;

    private readonly ConcurrentDictionary<string, Offer> _offers = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public Task<WorkerSession> RegisterWorkerAsync(WorkerRegistration registration, WorkerInventory inventory, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(registration);
        ArgumentNullException.ThrowIfNull(inventory);
        return TransactAsync(cancellation, async sql =>
        {
            var before = await sql.QueryAsync(
                "SELECT directory, lost OR lease_until < clock_timestamp() FROM workers WHERE name = $1 FOR UPDATE",
                row => (Directory: row.GetString(0), IsLost: row.GetBoolean(1)),
                registration.Name);
            if (before is [var other] && other.Directory != registration.Directory)
            {
                if (!other.IsLost)
                    throw ApiError.AlreadyExists(registration.Name);
                await LoseWorkerAsync(sql, registration.Name);
                if (await sql.ScalarAsync<bool>("SELECT EXISTS (SELECT FROM vms WHERE worker = $1)", registration.Name))
                    throw Refusals.WorkerHasVms(registration.Name);
            }

            long incarnation = await sql.ScalarAsync<long>(
                """
                INSERT INTO workers (name, directory, address, version, incarnation, labels, engines, state, capacity_vms, capacity_vcpus, capacity_memory_mib, snapshot_store, register_time, lease_until)
                VALUES ($1, $2, $3, $4, nextval('incarnations'), $5, $6, $7, $8, $9, $10, $11, clock_timestamp(), clock_timestamp() + $12)
                ON CONFLICT (name) DO UPDATE SET
                    directory = excluded.directory, address = excluded.address, version = excluded.version, incarnation = excluded.incarnation,
                    labels = excluded.labels, engines = excluded.engines, capacity_vms = excluded.capacity_vms, capacity_vcpus = excluded.capacity_vcpus,
                    capacity_memory_mib = excluded.capacity_memory_mib, snapshot_store = excluded.snapshot_store, register_time = excluded.register_time, lease_until = excluded.lease_until,
                    running_vms = 0, lost = false
                RETURNING incarnation
                """,
                registration.Name,
                registration.Directory,
                registration.Address,
                registration.Version,
                ToJson(registration.Labels),
                registration.Engines.Select(engine => (int)engine).ToArray(),
                (int)WorkerState.Ready,
                registration.Capacity.Vms,
                registration.Capacity.Vcpus,
                registration.Capacity.MemoryMib,
                registration.HasSnapshotStore,
                _options.LeaseDuration);
            await EndMovesAsync(sql, registration.Name);
            await NoteAsync(sql, registration.Name, incarnation, "REGISTERED");
            HashSet<string> deleted = await DeletedSnapshotsAsync(sql, registration.Name, inventory);
            List<string> drop = await ReconcileAsync(sql, registration.Name, inventory with { Snapshots = [.. inventory.Snapshots.Where(snapshot => !deleted.Contains(snapshot.Uid))] });
            return new WorkerSession(
                new WorkerLease(registration.Name, incarnation, _options.LeaseDuration),
                drop,
                [.. inventory.Snapshots.Where(snapshot => deleted.Contains(snapshot.Uid)).Select(snapshot => snapshot.Name)],
                await InstructionsAsync(sql, registration.Name, await StateAsync(sql, registration.Name)));
        });
    }

    /// <inheritdoc/>
    public Task<WorkerInstructions> RenewLeaseAsync(WorkerLease lease, int runningVms, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        return TransactAsync(cancellation, async sql =>
        {
            int state = await sql.ScalarAsync<int>(
                """
                UPDATE workers SET lease_until = clock_timestamp() + $3, running_vms = $4
                WHERE name = $1 AND incarnation = $2 AND NOT lost AND lease_until >= clock_timestamp()
                RETURNING state
                """,
                lease.Worker,
                lease.Incarnation,
                _options.LeaseDuration,
                runningVms);
            if (state == 0)
                throw new LeaseLostException(lease.Worker);
            return await InstructionsAsync(sql, lease.Worker, (WorkerState)state);
        });
    }

    /// <inheritdoc/>
    public Task EndLeaseAsync(WorkerLease lease, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        return TransactAsync(cancellation, async sql =>
        {
            if (await sql.ScalarAsync<string>("SELECT name FROM workers WHERE name = $1 AND incarnation = $2 AND NOT lost FOR UPDATE", lease.Worker, lease.Incarnation) is not null)
                await LoseWorkerAsync(sql, lease.Worker);
            return 0;
        });
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<V1.Worker>> ListWorkersAsync(CancellationToken cancellation) => ReadAsync<IReadOnlyList<V1.Worker>>(
        cancellation, async sql => await sql.QueryAsync($"SELECT {WorkerColumns} FROM workers ORDER BY name COLLATE \"C\"", ReadWorker));

    /// <inheritdoc/>
    public Task<V1.Worker> SetWorkerStateAsync(string worker, WorkerState state, CancellationToken cancellation) => TransactAsync(cancellation, async sql =>
    {
        List<V1.Worker> changed = await sql.QueryAsync($"UPDATE workers SET state = $2 WHERE name = $1 RETURNING {WorkerColumns}", ReadWorker, worker, (int)state);
        if (changed.Count == 0)
            throw ApiError.NotFound(worker);
        await NoteAsync(sql, worker, changed[0].Incarnation, state.ToString().ToUpperInvariant());
        return changed[0];
    });

    /// <inheritdoc/>
    public Task<FleetCensus> CountAsync(CancellationToken cancellation) => ReadAsync(cancellation, async sql =>
    {
        // VMs of workers are counted where they change.
        var vms = await sql.QueryAsync(
            """
            SELECT state, sum(vms)::bigint, sum(unplaced)::bigint FROM (
                SELECT state, vms, 0 AS unplaced FROM vm_counts
                UNION ALL
                SELECT coalesce(state, 0), 1, 1 FROM vms WHERE worker IS NULL AND vm IS NOT NULL) AS counts
            GROUP BY 1 HAVING sum(vms) > 0
            """,
            row => (State: (VmState)row.GetInt32(0), Count: row.GetInt64(1), Unplaced: row.GetInt64(2)));
        var workers = await sql.QueryAsync(
            $"""
            SELECT CASE WHEN lost OR lease_until < clock_timestamp() THEN {(int)WorkerState.Lost} ELSE state END, count(*), min(lease_until) - clock_timestamp(),
                sum(reserved_vms)::float8, sum(capacity_vms)::float8, sum(reserved_vcpus)::float8, sum(capacity_vcpus)::float8,
                sum(reserved_memory_mib)::float8, sum(capacity_memory_mib)::float8
            FROM workers GROUP BY 1
            """,
            row => (State: (WorkerState)row.GetInt32(0), Census: new WorkerCensus(row.GetInt64(1), row.GetTimeSpan(2), ReadUsage(row, 3), ReadUsage(row, 5), ReadUsage(row, 7))));
        return new FleetCensus(vms.ToDictionary(row => row.State, row => row.Count), vms.Sum(row => row.Unplaced), workers.ToDictionary(row => row.State, row => row.Census));
    });

    private static Usage ReadUsage(NpgsqlDataReader row, int column) => new(row.GetDouble(column), row.GetDouble(column + 1));

    /// <summary>Acts on the end of a lease; the worker's row is locked against reports and renewals.</summary>
    private async Task LoseWorkerAsync(Transaction sql, string worker)
    {
        var until = await sql.QueryAsync(
            "UPDATE workers SET lost = true, lease_until = least(lease_until, clock_timestamp()), running_vms = 0 WHERE name = $1 RETURNING incarnation, clock_timestamp()",
            row => (Incarnation: row.GetInt64(0), Now: new DateTimeOffset(row.GetDateTime(1))),
            worker);
        await EndMovesAsync(sql, worker);
        // Nobody was told that these exist.
        await sql.ExecuteAsync("DELETE FROM vms WHERE worker = $1 AND vm IS NULL", worker);
        var rows = await sql.QueryAsync("SELECT vm, moves, moving FROM vms WHERE worker = $1 ORDER BY name FOR UPDATE", row => (Vm: ReadVm(row, 0)!, Moves: row.GetBoolean(1), Moving: row.GetBoolean(2)), worker);
        var changes = rows.Select(row => new VmChange(row.Vm.Name, row.Vm, VmTransitions.Interrupted(row.Vm, until[0].Now, Refusals.WorkerLost(worker)))).ToList();
        Write(sql, changes);
        await UnplaceAsync(sql, [.. rows.Where(row => row.Moves).Select(row => row.Vm.Name)]);
        await NoteAsync(sql, worker, until[0].Incarnation, "LOST");
    }

    private static Task<int> UnplaceAsync(Transaction sql, string[] vms) =>
        sql.ExecuteAsync("UPDATE vms SET worker = NULL, moving = true, generation = generation + 1 WHERE name = ANY ($1)", [vms]);

    private static async Task<WorkerState> StateAsync(Transaction sql, string worker) =>
        (WorkerState)await sql.ScalarAsync<int>("SELECT state FROM workers WHERE name = $1", worker);

    private static async Task<WorkerInstructions> InstructionsAsync(Transaction sql, string worker, WorkerState state)
    {
        var rows = await sql.QueryAsync(
            """
            SELECT name, vm FROM vms WHERE worker = $1 AND moving
            UNION ALL SELECT uid, NULL FROM deleted_snapshots WHERE delete_time >= clock_timestamp() - $2 ORDER BY 1
            """,
            row => (Name: row.GetString(0), Vm: ReadVm(row, 1)),
            worker,
            TellOfDeletions);
        return new WorkerInstructions(state, [.. rows.Select(row => row.Vm).OfType<Vm>()], [.. rows.Where(row => row.Vm is null).Select(row => row.Name)]);
    }

    private static Task NoteAsync(Transaction sql, string worker, long incarnation, string what) =>
        sql.ExecuteAsync("INSERT INTO worker_events (worker, incarnation, event) VALUES ($1, $2, $3)", worker, incarnation, what);

    /// <summary>
    /// Every worker as it is now. What one says of itself when it registers is read once for each registration: of ten thousand workers
    /// that is most of what there is to read.
    /// </summary>
    private async Task<List<WorkerView>> FleetAsync(Transaction sql)
    {
        var rows = await sql.QueryAsync(
            "SELECT name, incarnation, CASE WHEN lost OR lease_until < statement_timestamp() THEN $1 ELSE state END, reserved_vms, reserved_vcpus, reserved_memory_mib FROM workers",
            row => (Name: row.GetString(0), Incarnation: row.GetInt64(1), State: (WorkerState)row.GetInt32(2), Reserved: new Resources(row.GetInt32(3), row.GetInt64(4), row.GetInt64(5))),
            (int)WorkerState.Lost);
        string[] strangers = [.. rows.Where(row => !_offers.TryGetValue(row.Name, out Offer? known) || known.Incarnation != row.Incarnation).Select(row => row.Name)];
        if (strangers.Length > 0)
            foreach ((V1.Worker worker, bool? hasStore) in await sql.QueryAsync(
                $"SELECT {WorkerColumns}, snapshot_store FROM workers WHERE name = ANY ($1)", row => (ReadWorker(row), row.IsDBNull(17) ? (bool?)null : row.GetBoolean(17)), [strangers]))
                _offers[worker.Name] = new Offer(worker.Incarnation, worker.Labels, new Resources(worker.Capacity.Vms, worker.Capacity.Vcpus, worker.Capacity.MemoryMib), worker.Engines, hasStore);
        return
        [
            .. rows.Select(row => (Row: row, Offer: _offers[row.Name])).Select(worker => new WorkerView
            {
                Name = worker.Row.Name,
                State = worker.Row.State,
                Labels = worker.Offer.Labels,
                Capacity = worker.Offer.Capacity,
                Reserved = worker.Row.Reserved,
                Engines = worker.Offer.Engines,
                HasSnapshotStore = worker.Offer.HasSnapshotStore,
            }),
        ];
    }

    private static V1.Worker ReadWorker(NpgsqlDataReader row)
    {
        var worker = new V1.Worker
        {
            Name = row.GetString(0),
            Address = row.GetString(1),
            Version = row.GetString(2),
            Incarnation = row.GetInt64(3),
            Engines = { row.GetFieldValue<int[]>(5).Select(engine => (ExecutionEngine)engine) },
            State = row.GetBoolean(16) ? WorkerState.Lost : (WorkerState)row.GetInt32(6),
            Capacity = new WorkerResources { Vms = row.GetInt32(7), Vcpus = row.GetInt32(8), MemoryMib = row.GetInt64(9) },
            Reserved = new WorkerResources { Vms = row.GetInt32(10), Vcpus = (int)Math.Min(int.MaxValue, row.GetInt64(11)), MemoryMib = row.GetInt64(12) },
            RunningVms = row.GetInt32(13),
            RegisterTime = Timestamp.FromDateTime(row.GetDateTime(14)),
            LeaseExpireTime = Timestamp.FromDateTime(row.GetDateTime(15)),
        };
        foreach ((string key, string value) in FromJson(row.GetString(4)))
            worker.Labels[key] = value;
        return worker;
    }

    /// <summary>What a worker said when it registered, which stays until it does so again.</summary>
    private sealed record Offer(long Incarnation, IReadOnlyDictionary<string, string> Labels, Resources Capacity, IReadOnlyList<ExecutionEngine> Engines, bool? HasSnapshotStore);
}
