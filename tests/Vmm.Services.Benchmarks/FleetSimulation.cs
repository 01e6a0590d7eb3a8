using System.Diagnostics;
using System.Globalization;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// The scheduler on a fleet that is not there: VMs are placed one by one until there are as many as asked for, a tenth of them gives way to others, a tenth
/// of the workers is lost and its VMs are placed again, by nothing but <see cref="Scheduler.Choose"/>, as both registries call it. The
/// time is that of the decisions; what a registry does around them is measured by <see cref="RegistryLoad"/>.
/// </summary>
internal sealed class FleetSimulation
{
    private readonly SimulatedLoad _load;
    private readonly List<WorkerView> _workers;
    private readonly List<(SimulatedVm Vm, WorkerView? Worker)> _vms = [];
    private readonly Dictionary<int, Dictionary<string, int>> _groups = [];
    private readonly List<double> _decisions = [];
    private int _refusals;
    private int _refusalsThatFit;

    private FleetSimulation(SimulatedLoad load, int workers)
    {
        _load = load;
        _workers = load.Workers(workers);
    }

    /// <summary>Prints one table with a row for each strategy.</summary>
    public static void Run(int workers, int vms, int seed)
    {
        Console.WriteLine($"{workers} workers, {vms} VMs, seed {seed}");
        Console.WriteLine("| VMs | decisions/s | median, 99 %, longest (µs) | refused | used, deviation, most : mean | fragmented | lost | placed again in | left over | then deviation, most : mean |");
        Console.WriteLine("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        foreach (string strategy in (string[])["spread", "pack", "mixed"])
            Console.WriteLine(new FleetSimulation(new SimulatedLoad(seed, strategy), workers).Row(strategy, vms));
    }

    private string Row(string strategy, int vms)
    {
        for (int i = 0; i < vms; i++)
            Add(_load.Next());
        // As in a fleet that has been there for a while.
        for (int i = 0; i < vms / 10; i++)
        {
            Remove(_load.Next(_vms.Count));
            Add(_load.Next());
        }

        string times = Times(out double perSecond);
        string refused = Inv($"{100.0 * _refusals / (vms * 1.1):0.000} % ({_refusalsThatFit} of {_refusals} while the fleet had room)");
        string balance = Balance();
        double fragmented = Fragmented();

        // A tenth is lost at once.
        HashSet<WorkerView> lost = [];
        while (lost.Count < _workers.Count / 10)
            lost.Add(_workers[_load.Next(_workers.Count)]);
        foreach (WorkerView worker in lost)
            worker.State = WorkerState.Lost;
        int[] again = [.. Enumerable.Range(0, _vms.Count).Where(i => _vms[i].Worker is { } worker && lost.Contains(worker))];
        foreach (int i in again)
            Take(i);
        long begin = Stopwatch.GetTimestamp();
        int left = again.Count(i => !Place(i));
        TimeSpan took = Stopwatch.GetElapsedTime(begin);
        return Inv($"| {strategy} | {perSecond:0} | {times} | {refused} | {balance} | {100 * fragmented:0.0} % | {again.Length} | {took.TotalSeconds:0.0} s | {left} | {Balance()} |");
    }

    private void Add(SimulatedVm vm)
    {
        _vms.Add((vm, null));
        if (Place(_vms.Count - 1))
            return;
        _refusals++;
        // Whether what all workers together have free would have done.
        Resources free = _workers.Where(worker => worker.State == WorkerState.Ready).Aggregate(default(Resources), (sum, worker) => sum + (worker.Capacity - worker.Reserved));
        if (vm.Needs.FitsInto(free))
            _refusalsThatFit++;
        _vms.RemoveAt(_vms.Count - 1);
    }

    private void Remove(int at)
    {
        Take(at);
        _vms[at] = _vms[^1];
        _vms.RemoveAt(_vms.Count - 1);
    }

    private bool Place(int at)
    {
        SimulatedVm vm = _vms[at].Vm;
        var there = vm.Group >= 0 ? _groups.GetValueOrDefault(vm.Group) : null;
        IReadOnlySet<string>? others = there is { Count: > 0 } ? there.Keys.ToHashSet(StringComparer.Ordinal) : null;
        var request = new PlacementRequest { Needs = vm.Needs, Spec = vm.Spec, With = vm.IsTogether ? others : null, ApartFrom = vm.IsTogether ? null : others };
        long begin = Stopwatch.GetTimestamp();
        WorkerView? chosen = Scheduler.Choose(_workers, request);
        _decisions.Add(Stopwatch.GetElapsedTime(begin).TotalMicroseconds);
        if (chosen is null)
            return false;
        chosen.Reserved += vm.Needs;
        _vms[at] = (vm, chosen);
        if (vm.Group >= 0)
        {
            if (there is null)
                _groups[vm.Group] = there = new Dictionary<string, int>(StringComparer.Ordinal);
            there[chosen.Name] = there.GetValueOrDefault(chosen.Name) + 1;
        }

        return true;
    }

    private void Take(int at)
    {
        (SimulatedVm vm, WorkerView? worker) = _vms[at];
        if (worker is null)
            return;
        worker.Reserved -= vm.Needs;
        _vms[at] = (vm, null);
        if (vm.Group >= 0 && --_groups[vm.Group][worker.Name] == 0)
            _groups[vm.Group].Remove(worker.Name);
    }

    private string Times(out double perSecond)
    {
        double[] sorted = [.. _decisions.Order()];
        perSecond = sorted.Length / sorted.Sum() * 1e6;
        return Inv($"{sorted[sorted.Length / 2]:0}, {sorted[(int)(sorted.Length * 0.99)]:0}, {sorted[^1]:0}");
    }

    /// <summary>Of the used part of each worker, that of what it has least of: the mean, the coefficient of variation, and the fullest by the mean.</summary>
    private string Balance()
    {
        double[] used = [.. _workers.Where(worker => worker.State == WorkerState.Ready).Select(Used)];
        double mean = used.Average(), deviation = Math.Sqrt(used.Average(part => (part - mean) * (part - mean)));
        return Inv($"{100 * mean:0.0} %, {deviation / mean:0.000}, {used.Max() / mean:0.00}");
    }

    private static double Used(WorkerView worker) => Math.Max((double)worker.Reserved.MemoryMib / worker.Capacity.MemoryMib, (double)worker.Reserved.Vcpus / worker.Capacity.Vcpus);

    /// <summary>The part of the free memory that the largest size cannot have: what is left over where workers take as many of those as they have room for.</summary>
    private double Fragmented()
    {
        double free = 0, left = 0;
        foreach (WorkerView worker in _workers)
        {
            Resources rest = worker.Capacity - worker.Reserved;
            free += rest.MemoryMib;
            while (SimulatedLoad.Largest.FitsInto(rest))
                rest -= SimulatedLoad.Largest;
            left += rest.MemoryMib;
        }

        return left / free;
    }

    private static string Inv(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
