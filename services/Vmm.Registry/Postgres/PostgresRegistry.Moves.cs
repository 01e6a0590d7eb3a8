using Npgsql;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>VMs that go from one worker to another.</content>
public sealed partial class PostgresRegistry
{
    private const int MovedVmColumn = 9;
    private const string MoveColumns = """
        m.ticket, m.vm, s.name, s.address, m.source_incarnation, t.name, t.address, m.target_incarnation, m.generation, v.vm
        FROM moves m JOIN vms v ON v.name = m.vm JOIN workers s ON s.name = m.source JOIN workers t ON t.name = m.target
        """;

    /// <inheritdoc/>
    public async Task<PlannedMove> PlanMoveAsync(WorkerLease lease, string vm, string? target, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        // Another placement may take the last room of the chosen worker between the look and the lock.
        for (int attempt = 1; attempt < MaxAttempts; attempt++)
            if (await TransactAsync(cancellation, sql => TryPlanMoveAsync(sql, lease, vm, target)) is { } planned)
                return planned;
        throw ApiError.Unavailable("PLACEMENT_CONTENDED", "Workers fill up faster than this VM can be placed.");
    }

    /// <inheritdoc/>
    public Task<(PlannedMove Move, Vm Vm)?> FindMoveAsync(WorkerLease lease, string ticket, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        return TransactAsync<(PlannedMove, Vm)?>(cancellation, async sql =>
        {
            await RequireLeaseAsync(sql, lease);
            var found = await sql.QueryAsync(
                $"SELECT {MoveColumns} WHERE m.ticket = $1 AND m.target = $2 AND m.target_incarnation = $3",
                row => (ReadMove(row), ReadVm(row, MovedVmColumn)),
                ticket,
                lease.Worker,
                lease.Incarnation);
            return found is [(var move, { } vm)] ? (move, vm) : null;
        });
    }

    /// <inheritdoc/>
    public Task CommitMoveAsync(WorkerLease lease, PlannedMove move, Vm vm, RequestReport? request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        ArgumentNullException.ThrowIfNull(move);
        ArgumentNullException.ThrowIfNull(vm);
        return TransactAsync(cancellation, async sql =>
        {
            await RequireLeaseAsync(sql, lease);
            if (await sql.ScalarAsync<string>(
                    "SELECT name FROM workers WHERE name = $1 AND incarnation = $2 AND NOT lost AND lease_until >= clock_timestamp() FOR KEY SHARE", move.Target.Name, move.Target.Incarnation) is null
                || await sql.ExecuteAsync(
                    "DELETE FROM moves WHERE ticket = $1 AND vm = $2 AND source = $3 AND target = $4 AND generation = $5",
                    move.Ticket, move.Vm, lease.Worker, move.Target.Name, move.Generation) != 1)
                throw Refusals.MoveEnded(move.Vm);
            var present = await sql.QueryAsync(
                "SELECT vm FROM vms WHERE name = $1 AND worker = $2 AND generation = $3 FOR UPDATE", row => ReadVm(row, 0), move.Vm, lease.Worker, move.Generation);
            if (present is not [{ } before])
                throw Refusals.MoveEnded(move.Vm);
            await sql.ExecuteAsync("UPDATE vms SET worker = $2, generation = generation + 1 WHERE name = $1", move.Vm, move.Target.Name);
            Write(sql, [new VmChange(move.Vm, before, vm)]);
            if (request is not null)
                Remember(sql, [request], "DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, complete_time = excluded.complete_time");
            return 0;
        });
    }

    /// <inheritdoc/>
    public Task<MoveOutcome> SettleMoveAsync(PlannedMove move, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(move);
        return TransactAsync(cancellation, async sql =>
        {
            // A commit that is under way holds the row: this waits for what becomes of it.
            await sql.ExecuteAsync("DELETE FROM moves WHERE ticket = $1", move.Ticket);
            var placed = await sql.QueryAsync("SELECT worker, generation FROM vms WHERE name = $1", row => (Worker: row.IsDBNull(0) ? null : row.GetString(0), Generation: row.GetInt64(1)), move.Vm);
            return placed is [var now] ? Refusals.OutcomeOf(move, now.Worker, now.Generation) : MoveOutcome.Elsewhere;
        });
    }

    private async Task<PlannedMove?> TryPlanMoveAsync(Transaction sql, WorkerLease lease, string vm, string? target)
    {
        await RequireLeaseAsync(sql, lease);
        var present = await sql.QueryAsync(
            "SELECT spec, generation FROM vms WHERE name = $1 AND worker = $2 AND vm IS NOT NULL AND NOT moving FOR UPDATE",
            row => (Spec: VmSpec.Parser.ParseFrom(row.GetFieldValue<byte[]>(0)), Generation: row.GetInt64(1)),
            vm,
            lease.Worker);
        if (present is not [var row])
            throw ApiError.NotFound(vm);
        if (target == lease.Worker)
            throw Refusals.AlreadyThere(vm, lease.Worker);
        await sql.ExecuteAsync("DELETE FROM moves WHERE vm = $1", vm);
        PlacementRequest request = await RequestForAsync(sql, vm, row.Spec, null);
        List<WorkerView> all = await FleetAsync(sql);
        if (target is not null && all.All(worker => worker.Name != target))
            throw ApiError.NotFound(target);
        List<WorkerView> fleet = [.. all.Where(worker => target is null ? worker.Name != lease.Worker : worker.Name == target)];
        WorkerView chosen = Scheduler.Choose(fleet, request) ?? throw Refusals.NoWorker(fleet, request);
        if (!(await LockAsync(sql, [chosen.Name])).TryGetValue(chosen.Name, out var locked) || !request.Needs.FitsInto(locked.Free))
            return null;
        string ticket = Guid.NewGuid().ToString("n");
        await sql.ExecuteAsync(
            "INSERT INTO moves (ticket, vm, source, source_incarnation, target, target_incarnation, generation, vcpus, memory_mib) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            ticket,
            vm,
            lease.Worker,
            lease.Incarnation,
            locked.Address.Name,
            locked.Address.Incarnation,
            row.Generation,
            (int)request.Needs.Vcpus,
            request.Needs.MemoryMib);
        return (await sql.QueryAsync($"SELECT {MoveColumns} WHERE m.ticket = $1", ReadMove, ticket)).Single();
    }

    /// <summary>A worker's end, or its new beginning, is the end of every move from it and to it.</summary>
    private static Task<int> EndMovesAsync(Transaction sql, string worker) => sql.ExecuteAsync("DELETE FROM moves WHERE source = $1 OR target = $1", worker);

    private static PlannedMove ReadMove(NpgsqlDataReader row) => new(
        row.GetString(0),
        row.GetString(1),
        new WorkerAddress(row.GetString(2), row.GetString(3), row.GetInt64(4)),
        new WorkerAddress(row.GetString(5), row.GetString(6), row.GetInt64(7)),
        row.GetInt64(8));
}
