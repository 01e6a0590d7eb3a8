using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Vmm.Registry;
using Vmm.Registry.Postgres;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// What one PostgreSQL takes of what a fleet asks of it, by the number of workers: renewals of leases, placements, reports, all of them by 64
/// at a time from one process, and how fast VMs of lost workers are placed again. There are no workers and no front ends, only what they ask.
/// </summary>
internal sealed class RegistryLoad
{
    private const int AtOnce = 64;
    private static readonly TimeSpan Measured = TimeSpan.FromSeconds(5);

    private readonly PostgresRegistry _registry;
    private readonly List<WorkerLease> _leases = [];
    private readonly ConcurrentDictionary<string, ConcurrentBag<int>> _places = new(StringComparer.Ordinal);
    private int _vms;

    private RegistryLoad(PostgresRegistry registry) => _registry = registry;

    private static VmSpec Spec => new() { MemoryMib = 64, Cpus = 1, Kernel = new FileSource { Path = "/kernel" }, RestartPolicy = RestartPolicy.Restart };

    /// <param name="database">A connection string of an empty database.</param>
    /// <param name="workers">How many workers in the end.</param>
    /// <param name="vms">VMs that there are when workers are lost, at least.</param>
    public static async Task RunAsync(string database, int workers, int vms)
    {
        await using PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, new RegistryOptions { LeaseDuration = TimeSpan.FromHours(2) });
        await new RegistryLoad(registry).RunAsync(workers, vms);
    }

    private async Task RunAsync(int workers, int vms)
    {
        Console.WriteLine("| workers | renewals/s | placements/s | median, 99 % (ms) |");
        Console.WriteLine("|---:|---:|---:|---:|");
        await RegisterAsync(10);
        // The runtime compiles, and connections are made.
        await MeasureAsync(i => _registry.RenewLeaseAsync(_leases[i % _leases.Count], 1, CancellationToken.None));
        await MeasureAsync(_ => PlaceAsync());
        foreach (int size in (int[])[10, workers / 10, workers])
        {
            await RegisterAsync(size);
            (double renewals, _) = await MeasureAsync(i => _registry.RenewLeaseAsync(_leases[i % _leases.Count], 1, CancellationToken.None));
            (double placements, List<double> times) = await MeasureAsync(_ => PlaceAsync());
            Print($"| {size} | {renewals:0} | {placements:0} | {times[times.Count / 2]:0}, {times[(int)(times.Count * 0.99)]:0} |");
            if (size == 10)
                foreach (int together in (int[])[1, 16])
                    Print($"reports/s of {together} VM(s) together: {together * await ReportsAsync(together):0} VMs");
        }

        while (_vms < vms)
            await Parallel.ForAsync(0, AtOnce, async (_, _) => await PlaceAsync());
        // What was placed is there, and may be lost.
        await Parallel.ForEachAsync(_leases.Where(lease => _places.ContainsKey(lease.Worker)), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (lease, cancellation) =>
            await _registry.ReportAsync(lease, [.. _places[lease.Worker].Select(Report)], cancellation));
        WorkerLease[] lost = [.. _leases.Where((_, i) => i % 10 == 0)];
        long begin = Stopwatch.GetTimestamp();
        await Parallel.ForEachAsync(lost, new ParallelOptions { MaxDegreeOfParallelism = 8 }, async (lease, cancellation) => await _registry.EndLeaseAsync(lease, cancellation));
        TimeSpan seen = Stopwatch.GetElapsedTime(begin);
        begin = Stopwatch.GetTimestamp();
        FailoverOutcome outcome = await _registry.FailOverAsync(CancellationToken.None);
        TimeSpan took = Stopwatch.GetElapsedTime(begin);
        Print($"{lost.Length} of {workers} workers and {_vms} VMs lost in {seen.TotalSeconds:0.0} s; {outcome.PlacedVms} VMs placed again in {took.TotalSeconds:0.0} s, {outcome.PlacedVms / took.TotalSeconds:0} a second, by one front end");
        begin = Stopwatch.GetTimestamp();
        await _registry.CountAsync(CancellationToken.None);
        Print($"a census takes {Stopwatch.GetElapsedTime(begin).TotalMilliseconds:0} ms");
    }

    private async Task RegisterAsync(int count)
    {
        int from = _leases.Count;
        var made = new WorkerLease[count - from];
        await Parallel.ForAsync(0, made.Length, new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (i, cancellation) =>
        {
            var registration = new WorkerRegistration
            {
                Name = $"workers/w{from + i:d6}",
                Directory = $"{from + i}",
                Address = "unix:/nowhere",
                Version = "0.1.0",
                Labels = new Dictionary<string, string> { ["zone"] = $"{i % 3}", ["disk"] = "fast" },
                Capacity = new WorkerResources { Vms = 1000, Vcpus = 1024, MemoryMib = 256 << 10 },
            };
            made[i] = (await _registry.RegisterWorkerAsync(registration, WorkerInventory.Empty, cancellation)).Lease;
        });
        _leases.AddRange(made);
    }

    private async Task PlaceAsync()
    {
        int vm = Interlocked.Increment(ref _vms) - 1;
        Located placed = await _registry.PlaceVmAsync(new NewVm { Name = NameOf(vm), Spec = Spec }, CancellationToken.None);
        _places.GetOrAdd(placed.Worker!.Name, static _ => []).Add(vm);
    }

    private async Task<double> ReportsAsync(int together)
    {
        int[][] vms = [.. _leases.Select(lease => _places[lease.Worker].ToArray())];
        (double perSecond, _) = await MeasureAsync(i => _registry.ReportAsync(
            _leases[i % _leases.Count], [.. Enumerable.Range(i, together).Select(k => Report(vms[i % _leases.Count][k % vms[i % _leases.Count].Length]))], CancellationToken.None));
        return perSecond;
    }

    /// <summary>Calls as many as <see cref="AtOnce"/> at a time; gives how many a second, and what each took, in milliseconds and in order.</summary>
    private static async Task<(double PerSecond, List<double> Times)> MeasureAsync(Func<int, Task> call)
    {
        var times = new List<double>();
        int calls = 0;
        long begin = Stopwatch.GetTimestamp();
        await Task.WhenAll(Enumerable.Range(0, AtOnce).Select(_ => Task.Run(async () =>
        {
            while (Stopwatch.GetElapsedTime(begin) < Measured)
            {
                long start = Stopwatch.GetTimestamp();
                await call(Interlocked.Increment(ref calls));
                lock (times)
                    times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            }
        })));
        times.Sort();
        return (times.Count / Stopwatch.GetElapsedTime(begin).TotalSeconds, times);
    }

    private static string NameOf(int vm) => $"projects/p{vm % 100}/vms/vm{vm}";

    private static VmReport Report(int vm) => new(new Vm
    {
        Name = NameOf(vm),
        Uid = $"{vm}",
        Etag = Guid.NewGuid().ToString(),
        Spec = Spec,
        Status = new VmStatus { State = VmState.Running, RunCount = 1 },
    });

    private static void Print(FormattableString text) => Console.WriteLine(text.ToString(CultureInfo.InvariantCulture));
}
