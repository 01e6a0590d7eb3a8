using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Vmm.V1;

namespace Vmm.Registry.Placement;

/// <summary>An amount of what VMs take.</summary>
/// <param name="Vms">VMs.</param>
/// <param name="Vcpus">Virtual processors, of which a processor executes any number by turns.</param>
/// <param name="MemoryMib">Guest memory in MiB.</param>
public readonly record struct Resources(int Vms, long Vcpus, long MemoryMib)
{
    /// <summary>What one VM may come to take.</summary>
    public static Resources Of(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return new Resources(1, Math.Max(1, Math.Max(spec.Cpus, spec.MaxCpus)), spec.MemoryMib);
    }

    /// <summary>Both together.</summary>
    public static Resources operator +(Resources left, Resources right) => new(left.Vms + right.Vms, left.Vcpus + right.Vcpus, left.MemoryMib + right.MemoryMib);

    /// <summary>The first without the second.</summary>
    public static Resources operator -(Resources left, Resources right) => new(left.Vms - right.Vms, left.Vcpus - right.Vcpus, left.MemoryMib - right.MemoryMib);

    /// <summary>Whether there is as much of everything.</summary>
    public bool FitsInto(Resources free) => Vms <= free.Vms && Vcpus <= free.Vcpus && MemoryMib <= free.MemoryMib;
}

/// <summary>A worker as placement sees it.</summary>
public sealed class WorkerView
{
    // Which part of it one of each is. A division would take longer than everything else that is looked at.
    private readonly double _perVm;
    private readonly double _perVcpu;
    private readonly double _perMib;

    /// <summary><c>workers/{worker}</c>.</summary>
    public required string Name { get; init; }

    /// <summary>READY, CORDONED or DRAINING, or LOST where its lease has ended.</summary>
    public WorkerState State { get; set; } = WorkerState.Ready;

    /// <summary>What placements select by.</summary>
    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    /// <summary>What it offers.</summary>
    public required Resources Capacity
    {
        get;
        init => (field, _perVm, _perVcpu, _perMib) = (value, PartOf(value.Vms), PartOf(value.Vcpus), PartOf(value.MemoryMib));
    }

    /// <summary>What is placed on it.</summary>
    public Resources Reserved { get; set; }

    /// <summary>What it can execute VMs with.</summary>
    public required IReadOnlyList<ExecutionEngine> Engines { get; init; }

    /// <summary>Whether it keeps checkpoints; null where that is not known, and it may be tried.</summary>
    public bool? HasSnapshotStore { get; init; }

    /// <summary>Which part of it is free of what it will be shortest of, with this placed on it; negative where it has no room.</summary>
    public double FreePart(in Resources needs) =>
        1 - Math.Max((Reserved.Vms + needs.Vms) * _perVm, Math.Max((Reserved.Vcpus + needs.Vcpus) * _perVcpu, (Reserved.MemoryMib + needs.MemoryMib) * _perMib));

    private static double PartOf(long whole) => 1.0 / Math.Max(1, whole);
}

/// <summary>What is asked of a placement.</summary>
public sealed record PlacementRequest
{
    /// <summary>What the VM may take.</summary>
    public required Resources Needs { get; init; }

    /// <summary>What executes it.</summary>
    public ExecutionEngine Engine { get; init; } = ExecutionEngine.Interpreter;

    /// <summary>Whether the VM has checkpoints, which not every worker keeps.</summary>
    public bool HasCheckpoints { get; init; }

    /// <summary>Where it may be; null for anywhere.</summary>
    public PlacementSpec? Spec { get; init; }

    /// <summary>The worker that comes first where it can take it, because the snapshot is there that the VM is made from; null for none.</summary>
    public string? Near { get; init; }

    /// <summary>Workers with VMs that this one wants to be with; null where it wants none.</summary>
    public IReadOnlySet<string>? With { get; init; }

    /// <summary>Workers with VMs that this one must be apart from; null where it does not mind.</summary>
    public IReadOnlySet<string>? ApartFrom { get; init; }

    /// <summary>How many of the VM's images each worker has; of those that are about as full, these with more come first.</summary>
    public IReadOnlyDictionary<string, int>? Images { get; init; }
}

/// <summary>Chooses workers: pure, so that a simulation runs the same code as a fleet.</summary>
public static class Scheduler
{
    private const int MaxNamed = 3;

    /// <summary>More than what rounding makes of a part, and less than any one thing of a worker is. Who has room to the last is told by <see cref="Obstacle"/>.</summary>
    private const double Rounding = 1e-9;

    /// <summary>The worker that should take a VM, or null where none can: <see cref="Explain"/> then says why.</summary>
    public static WorkerView? Choose(IReadOnlyList<WorkerView> fleet, PlacementRequest request)
    {
        ArgumentNullException.ThrowIfNull(fleet);
        ArgumentNullException.ThrowIfNull(request);
        WorkerView? best = null;
        Score bestScore = default;
        bool pack = request.Spec?.Strategy == PlacementSpec.Types.Strategy.Pack;
        Resources needs = request.Needs;
        // The cheap questions first, without calls for each: a fleet may have ten thousand workers.
        ReadOnlySpan<WorkerView> workers = fleet is List<WorkerView> list ? CollectionsMarshal.AsSpan(list) : [.. fleet];
        foreach (WorkerView worker in workers)
        {
            if (worker.State != WorkerState.Ready || worker.FreePart(in needs) is var free && free < -Rounding)
                continue;
            var score = new Score(worker.Name == request.Near, request.Images?.GetValueOrDefault(worker.Name) ?? 0, pack ? -free : free);
            // Among equals the first by name, so that the choice does not depend on the order in which workers are listed.
            int order = best is null ? 1 : score.CompareTo(bestScore);
            if (order < 0 || (order == 0 && string.CompareOrdinal(worker.Name, best!.Name) > 0))
                continue;
            // Labels and sets of workers are looked up only for those that would be chosen.
            if (Obstacle(worker, request) == Obstacles.None)
                (best, bestScore) = (worker, score);
        }

        return best;
    }

    /// <summary>Why no worker can take a VM: what was in the way, on how many workers, and how much there was at most. Names none of them.</summary>
    public static string Explain(IReadOnlyList<WorkerView> fleet, PlacementRequest request)
    {
        ArgumentNullException.ThrowIfNull(fleet);
        ArgumentNullException.ThrowIfNull(request);
        if (fleet.Count == 0)
            return "No worker can take the VM: there is none in the fleet.";
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"None of {fleet.Count} worker(s) can take the VM ({request.Needs.Vcpus} vCPU(s), {request.Needs.MemoryMib} MiB)");
        char separator = ':';
        foreach (IGrouping<Obstacles, WorkerView> group in fleet.GroupBy(worker => Obstacle(worker, request)).OrderByDescending(group => group.Count()).ThenBy(group => group.Key))
        {
            text.Append(CultureInfo.InvariantCulture, $"{separator} {group.Count()} {Describe(group.Key, [.. group])}");
            separator = ';';
        }

        return text.Append('.').ToString();
    }

    /// <summary>What is in the way on most workers, in one word of a fixed set: <c>memory</c>, <c>vcpus</c>, <c>vms</c>, <c>lost</c>, <c>cordoned</c>,
    /// <c>labels</c>, <c>engine</c>, <c>snapshot_store</c>, <c>with</c>, <c>apart_from</c>; <c>none</c> where there is no worker, or where others were quicker.</summary>
    public static string MainObstacle(IReadOnlyList<WorkerView> fleet, PlacementRequest request) =>
        fleet.GroupBy(worker => Obstacle(worker, request)).OrderByDescending(group => group.Count()).ThenBy(group => group.Key).FirstOrDefault()?.Key switch
        {
            null or Obstacles.None => "none",
            Obstacles.ApartFrom => "apart_from",
            Obstacles.SnapshotStore => "snapshot_store",
            { } obstacle => obstacle.ToString().ToLowerInvariant(),
        };

    /// <summary>What is in the way on single workers, by their names: of each obstacle those that come closest, and no more than a reader can use.</summary>
    public static IReadOnlyList<(string Worker, string Obstacle)> ExplainEach(IReadOnlyList<WorkerView> fleet, PlacementRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        Resources needs = request.Needs;
        return
        [
            .. fleet.GroupBy(worker => Obstacle(worker, request)).OrderByDescending(group => group.Count()).ThenBy(group => group.Key)
                .SelectMany(group => group.OrderByDescending(worker => worker.FreePart(in needs)).ThenBy(worker => worker.Name, StringComparer.Ordinal).Take(MaxNamed)
                    .Select(worker => (worker.Name, DescribeOne(group.Key, worker)))),
        ];
    }

    private static string Describe(Obstacles obstacle, IReadOnlyList<WorkerView> workers)
    {
        return obstacle switch
        {
            Obstacles.Memory => $"short of memory, with {Most(FreeMib)} MiB free at most",
            Obstacles.Vcpus => $"short of vCPUs, with {Most(FreeVcpus)} free at most",
            Obstacles.Vms => "with as many VMs as they take",
            Obstacles.Lost => "lost",
            Obstacles.Cordoned => "cordoned or draining",
            Obstacles.Labels => "without the labels asked for",
            Obstacles.Engine => "without the engine asked for",
            Obstacles.SnapshotStore => "without a snapshot store, where checkpoints are kept",
            Obstacles.With => "without a VM that this one is to be with",
            Obstacles.ApartFrom => "with a VM that this one is to be apart from",
            _ => "taken by others meanwhile",
        };

        long Most(Func<WorkerView, long> free) => workers.Max(free);
    }

    private static string DescribeOne(Obstacles obstacle, WorkerView worker) => obstacle switch
    {
        Obstacles.Memory => $"has {FreeMib(worker)} MiB of memory free",
        Obstacles.Vcpus => $"has {FreeVcpus(worker)} vCPU(s) free",
        Obstacles.Vms => $"has {worker.Reserved.Vms} VM(s), and takes {worker.Capacity.Vms}",
        Obstacles.Lost => "cannot be reached",
        Obstacles.Cordoned => worker.State == WorkerState.Draining ? "is draining" : "is cordoned",
        Obstacles.Labels => "lacks a label that is asked for",
        Obstacles.Engine => "lacks the engine that is asked for",
        Obstacles.SnapshotStore => "has no snapshot store, where checkpoints are kept",
        Obstacles.With => "has no VM that this one is to be with",
        Obstacles.ApartFrom => "has a VM that this one is to be apart from",
        _ => "was taken by others meanwhile",
    };

    private static long FreeMib(WorkerView worker) => Math.Max(0, worker.Capacity.MemoryMib - worker.Reserved.MemoryMib);

    private static long FreeVcpus(WorkerView worker) => Math.Max(0, worker.Capacity.Vcpus - worker.Reserved.Vcpus);

    /// <summary>The first thing that is in the way, in the order in which an operator would look.</summary>
    private static Obstacles Obstacle(WorkerView worker, PlacementRequest request)
    {
        if (worker.State == WorkerState.Lost)
            return Obstacles.Lost;
        if (worker.State != WorkerState.Ready)
            return Obstacles.Cordoned;
        if (!worker.Engines.Contains(request.Engine))
            return Obstacles.Engine;
        if (request.HasCheckpoints && worker.HasSnapshotStore == false)
            return Obstacles.SnapshotStore;
        if (request.Spec is not null && !HasAll(worker.Labels, request.Spec.WorkerLabels))
            return Obstacles.Labels;
        if (request.With is not null && !request.With.Contains(worker.Name))
            return Obstacles.With;
        if (request.ApartFrom is not null && request.ApartFrom.Contains(worker.Name))
            return Obstacles.ApartFrom;
        if (worker.Capacity.MemoryMib - worker.Reserved.MemoryMib < request.Needs.MemoryMib)
            return Obstacles.Memory;
        if (worker.Capacity.Vcpus - worker.Reserved.Vcpus < request.Needs.Vcpus)
            return Obstacles.Vcpus;
        return worker.Capacity.Vms - worker.Reserved.Vms < request.Needs.Vms ? Obstacles.Vms : Obstacles.None;
    }

    /// <summary>Whether something has all labels that are asked for.</summary>
    public static bool HasAll(IEnumerable<KeyValuePair<string, string>> labels, IEnumerable<KeyValuePair<string, string>> wanted)
    {
        ArgumentNullException.ThrowIfNull(wanted);
        return wanted.All(label => labels.Contains(label));
    }

    /// <summary>
    /// How well a worker suits: whether the snapshot is there, the part that stays free or, packed, is taken, and how many of the images are there. A
    /// worker comes before others for its images only where it is about as full as they are: else all VMs of one image would come together on it.
    /// </summary>
    private readonly record struct Score(bool IsNear, int Images, double Part) : IComparable<Score>
    {
        private const int Steps = 8;

        private int Step { get; } = (int)Math.Floor(Part * Steps);

        public int CompareTo(Score other) =>
            IsNear != other.IsNear ? (IsNear ? 1 : -1)
            : Step != other.Step ? Step.CompareTo(other.Step)
            : Images != other.Images ? Images.CompareTo(other.Images)
            : Part.CompareTo(other.Part);
    }

    private enum Obstacles
    {
        None,
        Memory,
        Vcpus,
        Vms,
        Lost,
        Cordoned,
        Labels,
        Engine,
        SnapshotStore,
        With,
        ApartFrom,
    }
}
