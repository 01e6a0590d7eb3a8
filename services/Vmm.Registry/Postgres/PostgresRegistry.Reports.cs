using Google.Protobuf;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>What workers say.</content>
public sealed partial class PostgresRegistry
{
    /// <inheritdoc/>
    public Task<IReadOnlyList<string>> ReportAsync(WorkerLease lease, IReadOnlyList<WorkerReport> reports, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        ArgumentNullException.ThrowIfNull(reports);
        return TransactAsync<IReadOnlyList<string>>(cancellation, async sql =>
        {
            await RequireLeaseAsync(sql, lease);
            (IReadOnlyList<string> refused, List<VmChange> changes) = await ResolveAsync(sql, lease.Worker, reports);
            ApplyFiles(sql, lease.Worker, reports);
            Remember(
                sql,
                reports.OfType<RequestReport>().Where(report => report.Vm is null || !refused.Contains(report.Vm)),
                "DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, complete_time = excluded.complete_time");
            Write(sql, changes);
            return refused;
        });
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<string>> HandOverAsync(WorkerLease lease, IReadOnlyList<string> vms, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(lease);
        ArgumentNullException.ThrowIfNull(vms);
        return TransactAsync<IReadOnlyList<string>>(cancellation, async sql =>
        {
            await RequireLeaseAsync(sql, lease);
            List<Vm> present = await sql.QueryAsync(
                "SELECT vm FROM vms WHERE name = ANY ($1) AND worker = $2 AND vm IS NOT NULL ORDER BY name FOR UPDATE", row => ReadVm(row, 0)!, vms.ToArray(), lease.Worker);
            string[] given = [.. present.Where(vm => vm.Status.State == VmState.Stopped).Select(vm => vm.Name)];
            await UnplaceAsync(sql, given);
            return given;
        });
    }

    private static void Remember(Transaction sql, IEnumerable<RequestReport> reports, string onConflict)
    {
        // Of a request that is reported twice, the last one counts, and an upsert takes each row once.
        RequestReport[] done = [.. reports.GroupBy(report => (report.Request.Project, report.Request.Id)).Select(group => group.Last())];
        if (done.Length > 0)
            sql.Defer(
                $"INSERT INTO requests (project, request_id, fingerprint, response) SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT (project, request_id) {onConflict}",
                done.Select(report => report.Request.Project).ToArray(),
                done.Select(report => report.Request.Id).ToArray(),
                done.Select(report => report.Request.Fingerprint.ToByteArray()).ToArray(),
                done.Select(report => report.Response.ToByteArray()).ToArray());
    }

    // The lock on the key lets renewals pass, which change none, and holds up the loss of the worker until this is committed.
    private static async Task RequireLeaseAsync(Transaction sql, WorkerLease lease)
    {
        if (await sql.ScalarAsync<string>(
            "SELECT name FROM workers WHERE name = $1 AND incarnation = $2 AND NOT lost AND lease_until >= clock_timestamp() FOR KEY SHARE", lease.Worker, lease.Incarnation) is null)
            throw new LeaseLostException(lease.Worker);
    }

    private async Task<List<string>> ReconcileAsync(Transaction sql, string worker, WorkerInventory inventory)
    {
        var rows = await sql.QueryAsync(
            "SELECT name, vm, moving FROM vms WHERE worker = $1 ORDER BY name FOR UPDATE", row => (Name: row.GetString(0), Vm: ReadVm(row, 1), IsMoving: row.GetBoolean(2)), worker);
        var has = inventory.Vms.ToDictionary(vm => vm.Name, StringComparer.Ordinal);
        var changes = new List<VmChange>();
        foreach ((string name, Vm? vm, bool isMoving) in rows)
        {
            if (has.TryGetValue(name, out Vm? present) && !isMoving)
            {
                changes.Add(new VmChange(name, vm, present));
                has.Remove(name);
            }
            else if (vm is not null && !isMoving)
            {
                changes.Add(new VmChange(name, vm, null));
            }
        }

        Write(sql, changes);
        string[] about = [.. inventory.Requests.Select(request => request.Vm).OfType<string>().Distinct(StringComparer.Ordinal)];
        // With what was written above: what is gone from here is gone.
        HashSet<string> elsewhere = about.Length == 0 ? [] : [.. await sql.QueryAsync("SELECT name FROM vms WHERE name = ANY ($1)", row => row.GetString(0), [about])];
        HashSet<string> here = [.. inventory.Vms.Select(vm => vm.Name)];
        Remember(sql, inventory.Requests.Where(request => request.Vm is null || (here.Contains(request.Vm) ? !has.ContainsKey(request.Vm) : !elsewhere.Contains(request.Vm))), "DO NOTHING");
        sql.Defer("DELETE FROM images WHERE worker = $1", worker);
        sql.Defer("DELETE FROM snapshots WHERE worker = $1", worker);
        ApplyFiles(sql, worker, [.. inventory.Images.Select(image => new ImageReport(image)), .. inventory.Snapshots.Select(snapshot => new SnapshotReport(snapshot))]);
        return [.. has.Keys];
    }

    /// <summary>What is to be written of VMs, whose rows are locked or made here, and whose it is not.</summary>
    private static async Task<(IReadOnlyList<string> Refused, List<VmChange> Changes)> ResolveAsync(Transaction sql, string worker, IReadOnlyList<WorkerReport> reports)
    {
        string[] names = [.. reports.Select(NameOf).OfType<string>().Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
        if (names.Length == 0)
            return ([], []);
        // A batch that is repeated because its end was not heard of may end with VMs that are gone.
        var last = reports.Where(report => report is VmReport or VmDeletedReport).GroupBy(report => NameOf(report)!, StringComparer.Ordinal).ToDictionary(group => group.Key, group => group.Last(), StringComparer.Ordinal);
        var known = (await sql.QueryAsync(
            "SELECT name, vm, moving, worker = $2 FROM vms WHERE name = ANY ($1) ORDER BY name FOR UPDATE",
            row => (Name: row.GetString(0), Vm: ReadVm(row, 1), IsMoving: row.GetBoolean(2), IsOurs: !row.IsDBNull(3) && row.GetBoolean(3)),
            names,
            worker))
            .ToDictionary(row => row.Name, StringComparer.Ordinal);
        foreach (string name in names)
            if (!known.ContainsKey(name) && last.GetValueOrDefault(name) is VmReport { Vm: var made })
                known[name] = (name, null, false, await AdoptAsync(sql, worker, made));
        var changes = new List<VmChange>();
        foreach (WorkerReport report in reports)
        {
            if (NameOf(report) is not { } name || !known.TryGetValue(name, out var row) || !row.IsOurs)
                continue;
            if (report is VmReport { Vm: var vm })
            {
                changes.Add(new VmChange(name, row.Vm, vm));
                known[name] = row with { Vm = vm, IsMoving = false };
            }
            else if (report is VmDeletedReport && row.Vm is not null && !row.IsMoving)
            {
                changes.Add(new VmChange(name, row.Vm, null));
                known.Remove(name);
            }
        }

        // That one which is another's is gone from here is just as it should be.
        string[] refused = [.. reports.Where(report => report is not VmDeletedReport).Select(NameOf).OfType<string>().Distinct(StringComparer.Ordinal)
            .Where(name => known.TryGetValue(name, out var row) && !row.IsOurs)];
        return (refused, changes);

        static string? NameOf(WorkerReport report) => report switch { VmReport put => put.Vm.Name, VmDeletedReport deleted => deleted.Name, RequestReport request => request.Vm, _ => null };
    }

    /// <summary>Makes the row of a VM that nobody placed; false where somebody does at this moment.</summary>
    private static async Task<bool> AdoptAsync(Transaction sql, string worker, Vm vm)
    {
        Resources needs = Resources.Of(vm.Spec);
        return await sql.ExecuteAsync(
            """
            INSERT INTO vms (name, project, generation, worker, vcpus, memory_mib, labels, spec, moves)
            VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING
            """,
            vm.Name,
            ProjectOf(vm.Name),
            worker,
            (int)needs.Vcpus,
            needs.MemoryMib,
            ToJson(vm.Labels),
            vm.Spec.ToByteArray(),
            VmTransitions.Moves(vm.Spec)) == 1;
    }

    private static void ApplyFiles(Transaction sql, string worker, IReadOnlyList<WorkerReport> reports)
    {
        foreach (WorkerReport report in reports)
        {
            switch (report)
            {
                case ImageReport { Image: var image }:
                    sql.Defer(
                        "INSERT INTO images (name, worker, project, image) VALUES ($1, $2, $3, $4) ON CONFLICT (name, worker) DO UPDATE SET image = excluded.image",
                        image.Name, worker, ProjectOf(image.Name), image.ToByteArray());
                    break;
                case ImageDeletedReport { Name: var name }:
                    sql.Defer("DELETE FROM images WHERE name = $1 AND worker = $2", name, worker);
                    break;
                case SnapshotReport { Snapshot: var snapshot }:
                    sql.Defer(
                        "INSERT INTO snapshots (name, worker, project, snapshot) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET worker = excluded.worker, snapshot = excluded.snapshot",
                        snapshot.Name, worker, ProjectOf(snapshot.Name), snapshot.ToByteArray());
                    break;
                case SnapshotDeletedReport { Name: var name }:
                    sql.Defer("DELETE FROM snapshots WHERE name = $1 AND worker = $2", name, worker);
                    break;
            }
        }
    }

    /// <summary>
    /// Writes changes of VMs, whose rows are locked, together with their events: of a VM that changes more than once the last version
    /// and every event.
    /// </summary>
    private static void Write(Transaction sql, List<VmChange> changes)
    {
        VmChange[] last = [.. changes.GroupBy(change => change.Name, StringComparer.Ordinal).Select(group => group.Last())];
        VmChange[] put = [.. last.Where(change => change.After is not null)];
        string[] deleted = [.. last.Where(change => change.After is null).Select(change => change.Name)];
        // Locks the worker's row, which whoever also locks counts or projects does first.
        if (deleted.Length > 0)
            sql.Defer("DELETE FROM vms WHERE name = ANY ($1)", [deleted]);
        if (put.Length > 0)
            sql.Defer(
                "UPDATE vms SET vm = now.vm, state = now.state, labels = now.labels::jsonb, moving = false FROM unnest($1, $2, $3, $4) AS now (name, vm, labels, state) WHERE vms.name = now.name",
                put.Select(change => change.Name).ToArray(),
                put.Select(change => change.After!.ToByteArray()).ToArray(),
                put.Select(change => ToJsonText(change.After!.Labels)).ToArray(),
                put.Select(change => (int)change.After!.Status.State).ToArray());
        foreach (var project in changes.Where(change => change.IsEvent).GroupBy(change => ProjectOf(change.Name), StringComparer.Ordinal).OrderBy(group => group.Key, StringComparer.Ordinal))
        {
            VmChange[] events = [.. project];
            sql.Defer(
                """
                WITH reached AS (
                    INSERT INTO projects (name, sequence) VALUES ($1, $2)
                    ON CONFLICT (name) DO UPDATE SET sequence = projects.sequence + excluded.sequence RETURNING sequence)
                INSERT INTO vm_events (project, sequence, before, after)
                SELECT $1, reached.sequence - $2 + row.at, row.before, row.after FROM reached, unnest($3, $4) WITH ORDINALITY AS row (before, after, at)
                """,
                project.Key,
                (long)events.Length,
                events.Select(change => change.Before?.ToByteArray()).ToArray(),
                events.Select(change => change.After?.ToByteArray()).ToArray());
        }
    }

    private readonly record struct VmChange(string Name, Vm? Before, Vm? After)
    {
        /// <summary>What says the same as before is no event; it may still differ in counters.</summary>
        public bool IsEvent => !(Before is null && After is null) && !(Before is not null && After is not null && Before.Etag == After.Etag && Before.Uid == After.Uid);
    }
}
