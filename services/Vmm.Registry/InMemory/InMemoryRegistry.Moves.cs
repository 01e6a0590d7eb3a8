using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry.InMemory;

/// <content>VMs that go from one worker to another.</content>
public sealed partial class InMemoryRegistry
{
    private readonly Dictionary<string, PlannedMove> _moves = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public Task<PlannedMove> PlanMoveAsync(WorkerLease lease, string vm, string? target, CancellationToken cancellation)
    {
        lock (_lock)
        {
            WorkerRow source = RequireLease(lease);
            if (!_vms.TryGetValue(vm, out VmRow? row) || row.Worker != lease.Worker || !row.IsReported)
                throw ApiError.NotFound(vm);
            if (target == lease.Worker)
                throw Refusals.AlreadyThere(vm, lease.Worker);
            if (target is not null && !_workers.ContainsKey(target))
                throw ApiError.NotFound(target);
            EndMoves(move => move.Vm == vm);
            PlacementRequest request = RequestFor(row, null);
            List<WorkerView> fleet = [.. Fleet().Where(worker => target is null ? worker.Name != lease.Worker : worker.Name == target)];
            WorkerView chosen = Scheduler.Choose(fleet, request) ?? throw Refusals.NoWorker(fleet, request);
            var move = new PlannedMove(Guid.NewGuid().ToString("n"), vm, Address(source), Address(_workers[chosen.Name]), row.Generation);
            _moves.Add(move.Ticket, move);
            return Task.FromResult(move);
        }
    }

    /// <inheritdoc/>
    public Task<(PlannedMove Move, Vm Vm)?> FindMoveAsync(WorkerLease lease, string ticket, CancellationToken cancellation)
    {
        lock (_lock)
        {
            WorkerRow target = RequireLease(lease);
            return Task.FromResult<(PlannedMove, Vm)?>(
                _moves.TryGetValue(ticket, out PlannedMove? move) && move.Target == Address(target) && _vms[move.Vm].Vm is { } vm ? (move, vm) : null);
        }
    }

    /// <inheritdoc/>
    public Task CommitMoveAsync(WorkerLease lease, PlannedMove move, Vm vm, RequestReport? request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(move);
        ArgumentNullException.ThrowIfNull(vm);
        lock (_lock)
        {
            RequireLease(lease);
            if (!_moves.TryGetValue(move.Ticket, out PlannedMove? planned) || planned != move || !_workers.TryGetValue(move.Target.Name, out WorkerRow? target)
                || target.Incarnation != move.Target.Incarnation || IsLost(target) || !_vms.TryGetValue(move.Vm, out VmRow? row)
                || row.Worker != lease.Worker || row.Generation != move.Generation)
                throw Refusals.MoveEnded(move.Vm);
            _moves.Remove(move.Ticket);
            row.Worker = move.Target.Name;
            row.Generation++;
            Change(row, vm);
            if (request is not null)
                Apply(lease.Worker, request, []);
            return Task.CompletedTask;
        }
    }

    /// <inheritdoc/>
    public Task<MoveOutcome> SettleMoveAsync(PlannedMove move, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(move);
        lock (_lock)
        {
            _moves.Remove(move.Ticket);
            return Task.FromResult(_vms.TryGetValue(move.Vm, out VmRow? row) ? Refusals.OutcomeOf(move, row.Worker, row.Generation) : MoveOutcome.Elsewhere);
        }
    }

    private void EndMoves(Predicate<PlannedMove> which)
    {
        foreach (PlannedMove move in _moves.Values.Where(move => which(move)).ToList())
            _moves.Remove(move.Ticket);
    }

    private void EndMovesOf(string worker) => EndMoves(move => move.Source.Name == worker || move.Target.Name == worker);
}
