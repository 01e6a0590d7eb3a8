using System.Runtime.ExceptionServices;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <content>Where new VMs are to be.</content>
public sealed partial class PostgresRegistry
{
    /// <summary>Any number will do that nobody else takes in the database of a fleet.</summary>
    private const long PlacementLock = 0x766D_6D70_6C61;

    /// <inheritdoc/>
    public Task<Located> PlaceVmAsync(NewVm vm, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(vm);
        return _queue.PlaceAsync(vm, cancellation);
    }

    /// <summary>Places VMs that were asked for at the same time: together, but for those that have to see where others are.</summary>
    private async Task PlaceAsync(IReadOnlyList<PendingPlacement> batch)
    {
        foreach (PendingPlacement relative in batch.Where(pending => IsRelative(pending.Vm.Spec)))
            await PlaceTogetherAsync([relative]);
        // Of those with one name the first; the others then find it.
        PendingPlacement[] rest = [.. batch.Where(pending => !IsRelative(pending.Vm.Spec)).DistinctBy(pending => pending.Vm.Name, StringComparer.Ordinal)];
        if (rest.Length > 0)
            await PlaceTogetherAsync(rest);
    }

    /// <summary>
    /// Places VMs in one transaction, as far as there is room that others do not take. The rows of the chosen workers, which reports of
    /// deletions wait for, are locked at the end only, and the commit does not wait for the disk.
    /// </summary>
    private Task PlaceTogetherAsync(PendingPlacement[] batch) => TransactAsync(_placements, CancellationToken.None, async sql =>
    {
        foreach (PendingPlacement pending in batch)
            (pending.Place, pending.Refusal) = (null, null);
        // Front ends take turns, so that none locks a worker that another has while it holds what that one wants.
        await sql.ExecuteAsync($"SELECT pg_advisory_xact_lock({PlacementLock})");
        List<PendingPlacement> open = await AnswerRepetitionsAsync(sql, batch);
        if (open.Count == 0)
            return 0;
        List<(PendingPlacement Pending, PlacementRequest Request, string Worker, ProjectQuota? Quota)> chosen = await ChooseAsync(sql, open);
        Dictionary<string, (WorkerAddress Address, Resources Free)> locked = await LockAsync(sql, [.. chosen.Select(choice => choice.Worker).Distinct(StringComparer.Ordinal)]);
        Dictionary<string, (ProjectQuota? Quota, Resources Used)> rooms = await LockRoomsAsync(sql, chosen.Where(choice => Quotas.LimitsVms(choice.Quota)).Select(choice => ProjectOf(choice.Pending.Vm.Name)));
        var placed = new List<(PendingPlacement Pending, PlacementRequest Request, WorkerAddress Worker)>();
        foreach ((PendingPlacement pending, PlacementRequest request, string name, _) in chosen)
        {
            // What was free when it was read may be taken by now; then it is tried again.
            if (!locked.TryGetValue(name, out var worker) || !request.Needs.FitsInto(worker.Free))
                continue;
            string project = ProjectOf(pending.Vm.Name);
            if (rooms.TryGetValue(project, out var room))
            {
                if (!Allow(pending, () => Quotas.RequireRoom(project, room.Quota, room.Used, request.Needs)))
                    continue;
                rooms[project] = (room.Quota, room.Used + request.Needs);
            }

            locked[name] = (worker.Address, worker.Free - request.Needs);
            placed.Add((pending, request, worker.Address));
        }

        HashSet<string> inserted = await InsertAsync(sql, placed);
        foreach ((PendingPlacement pending, _, WorkerAddress worker) in placed)
            if (inserted.Contains(pending.Vm.Name))
                pending.Place = new Located(worker, 1, null, IsNew: true);
        foreach (PendingPlacement pending in open.Where(pending => pending is { Place: null, Refusal: null } && pending.Attempts + 1 >= MaxAttempts))
            Refuse(pending, () => throw ApiError.Unavailable("PLACEMENT_CONTENDED", "Workers fill up faster than this VM can be placed."));
        return 0;
    });

    /// <summary>Answers requests that were done, or whose VM is placed already; gives the others.</summary>
    private async Task<List<PendingPlacement>> AnswerRepetitionsAsync(Transaction sql, PendingPlacement[] batch)
    {
        RequestKey[] requests = [.. batch.Select(pending => pending.Vm.Request).OfType<RequestKey>()];
        var answers = (requests.Length == 0 ? [] : await sql.QueryAsync(
            """
            SELECT project, request_id, fingerprint, response FROM requests JOIN unnest($1, $2) AS asked (project, request_id) USING (project, request_id)
            WHERE complete_time >= clock_timestamp() - $3
            """,
            row => (Key: new RequestKey(row.GetString(0), row.GetString(1), ByteString.CopyFrom(row.GetFieldValue<byte[]>(2))), Response: row.GetFieldValue<byte[]>(3)),
            requests.Select(request => request.Project).ToArray(),
            requests.Select(request => request.Id).ToArray(),
            _options.RememberRequests))
            .ToDictionary(row => (row.Key.Project, row.Key.Id));
        var present = (await sql.QueryAsync(
            """
            SELECT v.generation, w.name, w.address, w.incarnation, w.lost OR w.lease_until < clock_timestamp(), v.name, v.request_id, v.fingerprint, v.vm
            FROM vms v LEFT JOIN workers w ON w.name = v.worker WHERE v.name = ANY ($1)
            """,
            row => (
                // The VM that the request has made is its answer, also where nobody could say so.
                Located: row.IsDBNull(8) ? ReadLocated(row, null) : new Located(null, row.GetInt64(0), row.GetFieldValue<byte[]>(8)),
                Name: row.GetString(5),
                Request: row.IsDBNull(6) ? null : new RequestKey(ProjectOf(row.GetString(5)), row.GetString(6), ByteString.CopyFrom(row.GetFieldValue<byte[]>(7)))),
            [batch.Select(pending => pending.Vm.Name).ToArray()]))
            .ToDictionary(row => row.Name, StringComparer.Ordinal);
        foreach (PendingPlacement pending in batch)
        {
            if (pending.Vm.Request is { } request && answers.TryGetValue((request.Project, request.Id), out var done))
            {
                if (Allow(pending, () => Refusals.RequireSame(request, done.Key.Fingerprint)))
                    pending.Place = new Located(null, 0, done.Response);
            }
            else if (present.TryGetValue(pending.Vm.Name, out var existing) && Allow(pending, () => Refusals.RequireRepetition(pending.Vm, existing.Request)))
            {
                pending.Place = existing.Located;
            }
        }

        return [.. batch.Where(pending => pending is { Place: null, Refusal: null })];
    }

    /// <summary>Chooses a worker for each, with what is given to those before it taken into account.</summary>
    private async Task<List<(PendingPlacement Pending, PlacementRequest Request, string Worker, ProjectQuota? Quota)>> ChooseAsync(Transaction sql, List<PendingPlacement> open)
    {
        string[] snapshots = [.. open.Select(pending => pending.Vm.Snapshot).OfType<string>().Distinct(StringComparer.Ordinal)];
        Dictionary<string, string> near = (snapshots.Length == 0 ? [] : await sql.QueryAsync(
            "SELECT name, worker FROM snapshots WHERE name = ANY ($1)", row => (Name: row.GetString(0), Worker: row.GetString(1)), [snapshots]))
            .ToDictionary(row => row.Name, row => row.Worker, StringComparer.Ordinal);
        string[] images = [.. open.SelectMany(pending => SpecImages.Of(pending.Vm.Spec)).Distinct(StringComparer.Ordinal)];
        ILookup<string, string> holders = await HoldersAsync(sql, images);
        List<WorkerView> fleet = await FleetAsync(sql);
        var projects = new Dictionary<string, Project>(StringComparer.Ordinal);
        var chosen = new List<(PendingPlacement, PlacementRequest, string, ProjectQuota?)>();
        foreach (PendingPlacement pending in open)
        {
            NewVm vm = pending.Vm;
            if (!projects.TryGetValue(ProjectOf(vm.Name), out Project? project))
            {
                try
                {
                    projects[ProjectOf(vm.Name)] = project = await RequireProjectAsync(sql, ProjectOf(vm.Name));
                }
                catch (RpcException refusal)
                {
                    pending.Refusal = ExceptionDispatchInfo.Capture(refusal);
                    continue;
                }
            }

            string? holder = null;
            if (vm.Snapshot is not null && !near.TryGetValue(vm.Snapshot, out holder))
            {
                Refuse(pending, () => throw ApiError.NotFound(vm.Snapshot));
                continue;
            }

            PlacementRequest request = IsRelative(vm.Spec) ? await RequestForAsync(sql, vm.Name, vm.Spec, holder) : RequestFor(vm.Spec, holder, holders);
            if (Scheduler.Choose(fleet, request) is { } worker)
            {
                worker.Reserved += request.Needs;
                chosen.Add((pending, request, worker.Name, project.Quota));
            }
            else
            {
                Refuse(pending, () => throw Refusals.NoWorker(fleet, request));
            }
        }

        return chosen;
    }

    /// <summary>Locks workers, and gives those that still take VMs with what is free on them.</summary>
    private static async Task<Dictionary<string, (WorkerAddress Address, Resources Free)>> LockAsync(Transaction sql, string[] workers) => (await sql.QueryAsync(
        """
        SELECT name, address, incarnation, capacity_vms - reserved_vms, capacity_vcpus - reserved_vcpus, capacity_memory_mib - reserved_memory_mib FROM workers
        WHERE name = ANY ($1) AND state = $2 AND NOT lost AND lease_until >= clock_timestamp() ORDER BY name FOR NO KEY UPDATE
        """,
        row => (Address: new WorkerAddress(row.GetString(0), row.GetString(1), row.GetInt64(2)), Free: new Resources(row.GetInt32(3), row.GetInt64(4), row.GetInt64(5))),
        workers,
        (int)WorkerState.Ready))
        .ToDictionary(row => row.Address.Name, StringComparer.Ordinal);

    /// <summary>Locks projects whose quotas limit VMs. One that was deleted meanwhile is not among the results, and its VMs are not written.</summary>
    private static async Task<Dictionary<string, (ProjectQuota? Quota, Resources Used)>> LockRoomsAsync(Transaction sql, IEnumerable<string> projects)
    {
        var rooms = new Dictionary<string, (ProjectQuota? Quota, Resources Used)>(StringComparer.Ordinal);
        foreach (string project in projects.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal))
            if (await LockRoomAsync(sql, project) is { } room)
                rooms[project] = room;
        return rooms;
    }

    /// <summary>Writes placements, and locks the keys of their projects, which are not deleted meanwhile; gives the names of those that nobody else has placed meanwhile.</summary>
    private static async Task<HashSet<string>> InsertAsync(Transaction sql, List<(PendingPlacement Pending, PlacementRequest Request, WorkerAddress Worker)> placed) => placed.Count == 0 ? [] : (await sql.QueryAsync(
        """
        INSERT INTO vms (name, project, generation, worker, vcpus, memory_mib, labels, spec, moves, request_id, fingerprint)
        SELECT row.name, present.name, 1, worker, vcpus, memory_mib, labels::jsonb, spec, moves, request_id, fingerprint
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS row (name, project, worker, vcpus, memory_mib, labels, spec, moves, request_id, fingerprint)
        JOIN (SELECT name FROM projects WHERE name = ANY ($2) AND record IS NOT NULL FOR KEY SHARE) present ON present.name = row.project
        ON CONFLICT (name) DO NOTHING RETURNING name
        """,
        row => row.GetString(0),
        placed.Select(each => each.Pending.Vm.Name).ToArray(),
        placed.Select(each => ProjectOf(each.Pending.Vm.Name)).ToArray(),
        placed.Select(each => each.Worker.Name).ToArray(),
        placed.Select(each => (int)each.Request.Needs.Vcpus).ToArray(),
        placed.Select(each => each.Request.Needs.MemoryMib).ToArray(),
        placed.Select(each => ToJsonText(each.Pending.Vm.Labels)).ToArray(),
        placed.Select(each => each.Pending.Vm.Spec.ToByteArray()).ToArray(),
        placed.Select(each => VmTransitions.Moves(each.Pending.Vm.Spec)).ToArray(),
        placed.Select(each => each.Pending.Vm.Request?.Id).ToArray(),
        placed.Select(each => each.Pending.Vm.Request?.Fingerprint.ToByteArray()).ToArray())).ToHashSet(StringComparer.Ordinal);

    private static bool Allow(PendingPlacement pending, Action check)
    {
        Refuse(pending, check);
        return pending.Refusal is null;
    }

    /// <summary>One refusal must not be that of the others: it is kept for who waits for it.</summary>
    private static void Refuse(PendingPlacement pending, Action check)
    {
        try
        {
            check();
        }
        catch (RpcException refusal)
        {
            pending.Refusal = ExceptionDispatchInfo.Capture(refusal);
        }
    }
}
