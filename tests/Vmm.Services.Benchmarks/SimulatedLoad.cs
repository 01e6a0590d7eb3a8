using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>A VM of the simulation: what it takes, and what it asks of its place.</summary>
/// <param name="Needs">What it takes.</param>
/// <param name="Spec">Labels and strategy.</param>
/// <param name="Group">VMs of one group are to be apart, or together; negative for none.</param>
/// <param name="IsTogether">Whether it wants to be with its group rather than apart from it.</param>
internal readonly record struct SimulatedVm(Resources Needs, PlacementSpec Spec, int Group, bool IsTogether);

/// <summary>What the simulated fleet consists of, by a seed.</summary>
internal sealed class SimulatedLoad
{
    private const int ApartSize = 3;
    private const int TogetherSize = 4;

    // MiB and vCPUs of each size with its share in percent: many small VMs, and few that take a third of a small worker.
    private static readonly (int Percent, int MemoryMib, int Vcpus)[] Sizes = [(50, 512, 1), (25, 1024, 2), (13, 2048, 2), (8, 4096, 4), (3, 16 << 10, 8), (1, 48 << 10, 16)];

    // GiB and processors of each kind of worker with its share in percent.
    private static readonly (int Percent, int Gib, int Processors)[] Kinds = [(40, 128, 32), (40, 256, 64), (20, 512, 128)];

    private static readonly string[] Zones = ["a", "b", "c"];

    private readonly Random _random;
    private readonly Dictionary<(int Zone, bool IsFast, bool Packs), PlacementSpec> _specs = [];
    private readonly Func<Random, bool> _packs;
    private int _groups;
    private int _left;
    private bool _isTogether;

    /// <param name="seed">Of everything.</param>
    /// <param name="strategy"><c>spread</c>, <c>pack</c>, or <c>mixed</c> for a fifth packed.</param>
    public SimulatedLoad(int seed, string strategy)
    {
        _random = new Random(seed);
        _packs = strategy switch
        {
            "spread" => static _ => false,
            "pack" => static _ => true,
            "mixed" => static random => random.Next(5) == 0,
            _ => throw new ArgumentException($"There is no strategy '{strategy}'.", nameof(strategy)),
        };
    }

    /// <summary>The largest size that VMs have.</summary>
    public static Resources Largest => new(1, Sizes[^1].Vcpus, Sizes[^1].MemoryMib);

    /// <summary>Workers of all kinds, in three zones, a third of them with fast disks.</summary>
    public List<WorkerView> Workers(int count) => [.. Enumerable.Range(0, count).Select(i =>
    {
        (_, int gib, int processors) = Pick(Kinds, kind => kind.Percent);
        return new WorkerView
        {
            Name = $"workers/w{i:d6}",
            Labels = new Dictionary<string, string> { ["zone"] = Zones[i % Zones.Length], ["disk"] = _random.Next(3) == 0 ? "fast" : "slow" },
            Capacity = new Resources(1000, processors * 16, gib << 10),
            Engines = [ExecutionEngine.Auto, ExecutionEngine.Interpreter],
        };
    })];

    /// <summary>The next VM: a fifth asks for a zone, one in twenty for a fast disk, one in ten is to be apart from the two others of its group, one in
    /// fifty together with the three others.</summary>
    public SimulatedVm Next()
    {
        (_, int memory, int vcpus) = Pick(Sizes, size => size.Percent);
        if (_left == 0 && _random.Next(100) is < 6 and var kind)
        {
            _isTogether = kind == 0;
            _left = _isTogether ? TogetherSize : ApartSize;
            _groups++;
        }

        bool isOfGroup = _left > 0;
        if (isOfGroup)
            _left--;
        var key = (_random.Next(5) == 0 ? _random.Next(Zones.Length) : -1, _random.Next(20) == 0, _packs(_random));
        // Those that are to be together ask for nothing else: the first might be where the others may not.
        if (isOfGroup && _isTogether)
            key = (-1, false, key.Item3);
        return new SimulatedVm(new Resources(1, vcpus, memory), SpecOf(key), isOfGroup ? _groups : -1, isOfGroup && _isTogether);
    }

    /// <summary>Any number below a bound.</summary>
    public int Next(int bound) => _random.Next(bound);

    private PlacementSpec SpecOf((int Zone, bool IsFast, bool Packs) key)
    {
        if (_specs.TryGetValue(key, out PlacementSpec? spec))
            return spec;
        spec = new PlacementSpec { Strategy = key.Packs ? PlacementSpec.Types.Strategy.Pack : PlacementSpec.Types.Strategy.Spread };
        if (key.Zone >= 0)
            spec.WorkerLabels["zone"] = Zones[key.Zone];
        if (key.IsFast)
            spec.WorkerLabels["disk"] = "fast";
        return _specs[key] = spec;
    }

    private T Pick<T>(T[] from, Func<T, int> percent)
    {
        int at = _random.Next(from.Sum(percent));
        return from.First(each => (at -= percent(each)) < 0);
    }
}
