using Google.Protobuf;
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
            List<string> refused = await ApplyVmsAsync(sql, lease.Worker, reports);
            await ApplyFilesAsync(sql, lease.Worker, reports);
            await RememberAsync(
                sql, reports.OfType<RequestReport>(), "DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, complete_time = excluded.complete_time");
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

    private static async Task RememberAsync(Transaction sql, IEnumerable<RequestReport> reports, string onConflict)
    {
        // Of a request that is reported twice, the last one counts, and an upsert takes each row once.
        RequestReport[] done = [.. reports.GroupBy(report => (report.Request.Project, report.Request.Id)).Select(group => group.Last())];
        if (done.Length > 0)
            await sql.ExecuteAsync(
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

        await WriteAsync(sql, changes);
        await RememberAsync(sql, inventory.Requests, "DO NOTHING");
        await sql.ExecuteAsync("DELETE FROM images WHERE worker = $1", worker);
        await sql.ExecuteAsync("DELETE FROM snapshots WHERE worker = $1", worker);
        await ApplyFilesAsync(sql, worker, [.. inventory.Images.Select(image => new ImageReport(image)), .. inventory.Snapshots.Select(snapshot => new SnapshotReport(snapshot))]);
        return [.. has.Keys];
    }

    private async Task<List<string>> ApplyVmsAsync(Transaction sql, string worker, IReadOnlyList<WorkerReport> reports)
    {
        string[] names = [.. reports.Select(NameOf).OfType<string>().Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
        if (names.Length == 0)
            return [];
        var present = (await sql.QueryAsync(
            "SELECT name, vm, moving FROM vms WHERE name = ANY ($1) AND worker = $2 ORDER BY name FOR UPDATE", row => (Name: row.GetString(0), Vm: ReadVm(row, 1), IsMoving: row.GetBoolean(2)), names, worker))
            .ToDictionary(row => row.Name, StringComparer.Ordinal);
        var changes = new List<VmChange>();
        var refused = new List<string>();
        foreach (WorkerReport report in reports)
        {
            if (NameOf(report) is not { } name)
                continue;
            if (!present.TryGetValue(name, out var row))
            {
                if (report is VmReport)
                    refused.Add(name);
            }
            else if (report is VmReport { Vm: var vm })
            {
                changes.Add(new VmChange(name, row.Vm, vm));
                present[name] = (name, vm, false);
            }
            else if (row.Vm is not null && !row.IsMoving)
            {
                changes.Add(new VmChange(name, row.Vm, null));
                present.Remove(name);
            }
        }

        await WriteAsync(sql, changes);
        return refused;

        static string? NameOf(WorkerReport report) => report switch { VmReport put => put.Vm.Name, VmDeletedReport deleted => deleted.Name, _ => null };
    }

    private static async Task ApplyFilesAsync(Transaction sql, string worker, IReadOnlyList<WorkerReport> reports)
    {
        foreach (WorkerReport report in reports)
        {
            switch (report)
            {
                case ImageReport { Image: var image }:
                    await sql.ExecuteAsync(
                        "INSERT INTO images (name, worker, project, image) VALUES ($1, $2, $3, $4) ON CONFLICT (name, worker) DO UPDATE SET image = excluded.image",
                        image.Name, worker, ProjectOf(image.Name), image.ToByteArray());
                    break;
                case ImageDeletedReport { Name: var name }:
                    await sql.ExecuteAsync("DELETE FROM images WHERE name = $1 AND worker = $2", name, worker);
                    break;
                case SnapshotReport { Snapshot: var snapshot }:
                    await sql.ExecuteAsync(
                        "INSERT INTO snapshots (name, worker, project, snapshot) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET worker = excluded.worker, snapshot = excluded.snapshot",
                        snapshot.Name, worker, ProjectOf(snapshot.Name), snapshot.ToByteArray());
                    break;
                case SnapshotDeletedReport { Name: var name }:
                    await sql.ExecuteAsync("DELETE FROM snapshots WHERE name = $1 AND worker = $2", name, worker);
                    break;
            }
        }
    }

    /// <summary>
    /// Writes changes of VMs, whose rows are locked, together with their events: of a VM that changes more than once the last version
    /// and every event.
    /// </summary>
    private static async Task WriteAsync(Transaction sql, List<VmChange> changes)
    {
        VmChange[] last = [.. changes.GroupBy(change => change.Name, StringComparer.Ordinal).Select(group => group.Last())];
        VmChange[] put = [.. last.Where(change => change.After is not null)];
        string[] deleted = [.. last.Where(change => change.After is null).Select(change => change.Name)];
        if (put.Length > 0)
            await sql.ExecuteAsync(
                "UPDATE vms SET vm = now.vm, labels = now.labels::jsonb, moving = false FROM unnest($1, $2, $3) AS now (name, vm, labels) WHERE vms.name = now.name",
                put.Select(change => change.Name).ToArray(),
                put.Select(change => change.After!.ToByteArray()).ToArray(),
                put.Select(change => ToJsonText(change.After!.Labels)).ToArray());
        if (deleted.Length > 0)
            await sql.ExecuteAsync("DELETE FROM vms WHERE name = ANY ($1)", [deleted]);
        foreach (var project in changes.Where(change => change.IsEvent).GroupBy(change => ProjectOf(change.Name), StringComparer.Ordinal).OrderBy(group => group.Key, StringComparer.Ordinal))
        {
            VmChange[] events = [.. project];
            long reached = await sql.ScalarAsync<long>(
                "INSERT INTO projects (name, sequence) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET sequence = projects.sequence + excluded.sequence RETURNING sequence",
                project.Key,
                (long)events.Length);
            await sql.ExecuteAsync(
                "INSERT INTO vm_events (project, sequence, before, after) SELECT $1, $2 + row.at, row.before, row.after FROM unnest($3, $4) WITH ORDINALITY AS row (before, after, at)",
                project.Key,
                reached - events.Length,
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
