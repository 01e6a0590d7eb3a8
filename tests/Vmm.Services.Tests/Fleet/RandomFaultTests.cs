using System.Diagnostics;
using System.Globalization;
using Grpc.Core;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// All that may happen, mixed, at moments and in an order that a seed gives: 20 seconds, or five minutes with VMM_NIGHTLY=1. VMM_SEED=s has the same things
/// happen in the same order; what the processes make of it is theirs.
/// </summary>
public sealed class RandomFaultTests(ITestOutputHelper output)
{
    private static readonly (string Id, RestartPolicy Policy)[] Vms = [("again", RestartPolicy.Restart), ("saved", RestartPolicy.FromLastCheckpoint)];

    /// <summary>How long a process that is continued may take to see that its lease is over.</summary>
    private static readonly TimeSpan Settling = TimeSpan.FromSeconds(2);

    [RequiresPackageFact("postgresql")]
    public async Task Whatever_happens_nothing_acknowledged_is_lost_and_no_vm_runs_twice()
    {
        int seed = Environment.GetEnvironmentVariable("VMM_SEED") is { Length: > 0 } given ? int.Parse(given, CultureInfo.InvariantCulture) : Random.Shared.Next();
        TimeSpan duration = Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? TimeSpan.FromMinutes(5) : TimeSpan.FromSeconds(20);
        output.WriteLine($"VMM_SEED={seed}");
        try
        {
            await RunAsync(new Random(seed), seed, duration);
        }
        catch (Exception exception)
        {
            throw new InvalidOperationException($"VMM_SEED={seed}: {exception.Message}", exception);
        }
    }

    private async Task RunAsync(Random random, int seed, TimeSpan duration)
    {
        bool hasDisks = MountNamespace.MissingReason is null;
        if (!hasDisks)
            output.WriteLine($"no disk is filled: {MountNamespace.MissingReason}");
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 2, workers: 3, diskSize: hasDisks ? "64m" : null);
        using FleetClient client = fleet.Client(seed);
        foreach ((string id, RestartPolicy policy) in Vms)
            await fleet.RunAsync(client, id, policy);
        var stops = new List<(int Process, long From, long To)>();
        int faults = 0, moves = 0;
        using var ending = new CancellationTokenSource();
        Task<int> mover = Task.Run(() => MoveAsync(fleet, seed, ending.Token));
        await FaultTests.WithLedgersAsync(
            fleet,
            async progress =>
            {
                var clock = Stopwatch.StartNew();
                while (clock.Elapsed < duration)
                {
                    await HappenAsync(fleet, random, clock, hasDisks, stops);
                    faults++;
                    await Task.Delay(random.Next(1500));
                }

                await ending.CancelAsync();
                moves = await mover;
                await progress();
            },
            random.Next(1000));
        foreach ((string id, _) in Vms)
        {
            int seen = fleet.Sightings(id).Count;
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings(id).Count > seen + 20), $"{id} runs");
            await FaultTests.CheckPlacesAsync(client, id, Sightings(fleet, id, stops), faults + moves);
        }

        await PostgresCensus.AssertIsTrueAsync(fleet.Registry);
        // What counts on from checkpoints never counts what it has not counted, in moments of processes that were stopped too: they may have moved it on.
        ulong most = 0;
        Assert.All(fleet.Sightings("saved"), sighting =>
        {
            Assert.InRange(sighting.Count, 1UL, most + 1);
            most = Math.Max(most, sighting.Count);
        });
        output.WriteLine($"{faults} faults, {moves} moves");
    }

    /// <summary>
    /// Without those of processes that were stopped past their lease, from then until they have come to themselves: what their guests do in those moments
    /// is dropped, as services/README.md says.
    /// </summary>
    private static List<Sighting> Sightings(FaultFleet fleet, string id, List<(int Process, long From, long To)> stops) =>
        [.. fleet.Sightings(id).Where(sighting => !stops.Any(stop => stop.Process == sighting.Process && sighting.Time >= stop.From && sighting.Time <= stop.To))];

    /// <summary>Has VMs move all the time, wherever they are; gives how many of those calls there were.</summary>
    private static async Task<int> MoveAsync(FaultFleet fleet, int seed, CancellationToken ending)
    {
        var random = new Random(seed);
        using FleetClient client = fleet.Client(seed);
        for (int moves = 0; ; moves++)
        {
            try
            {
                await Task.Delay(random.Next(2000), ending);
                string worker = $"workers/w{1 + random.Next(3)}", vm = Vms[random.Next(Vms.Length)].Id;
                await client.CallAsync(
                    new MigrateVmRequest { Name = $"{FaultFleet.Project}/vms/{vm}", Worker = worker, RequestId = Guid.NewGuid().ToString() },
                    static (vms, request, options) => vms.MigrateVmAsync(request, options)).WaitAsync(ending);
            }
            catch (RpcException)
            {
                // It is there already, or it breaks in the middle: what matters is what becomes of the VM.
            }
            catch (OperationCanceledException)
            {
                return moves + 1;
            }
        }
    }

    private async Task HappenAsync(FaultFleet fleet, Random random, Stopwatch clock, bool hasDisks, List<(int Process, long From, long To)> stops)
    {
        string worker = fleet.Workers[random.Next(fleet.Workers.Count)], frontend = fleet.Frontends[random.Next(fleet.Frontends.Count)];
        int kind = random.Next(9);
        // Longer than a lease, or not.
        TimeSpan length = TimeSpan.FromSeconds(random.Next(3) == 0 ? FaultFleet.ShortLease + 1 : random.NextDouble() * 3);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{clock.Elapsed.TotalSeconds:0.0} s: {kind} {worker} {frontend} {length.TotalSeconds:0.0} s"));
        switch (kind)
        {
            case 0:
                fleet.Kill(frontend);
                await fleet.StartFrontendAsync(frontend);
                break;
            case 1 or 2:
                fleet.Kill(worker);
                await Task.Delay(length);
                await fleet.StartWorkerAsync(worker);
                break;
            case 3:
                fleet.WayOf(worker).Freeze();
                await Task.Delay(length);
                fleet.WayOf(worker).Thaw();
                break;
            case 4:
                fleet.WayOf(frontend).Freeze();
                await Task.Delay(length);
                fleet.WayOf(frontend).Thaw();
                break;
            case 5:
                await fleet.Database.CutConnectionsAsync();
                break;
            case 6:
                FleetProcess process = fleet.Process(worker);
                await process.SignalAsync("STOP");
                long stopped = Stopwatch.GetTimestamp();
                await Task.Delay(length);
                await process.SignalAsync("CONT");
                await Task.Delay(Settling);
                if (length.TotalSeconds > FaultFleet.ShortLease)
                    stops.Add((process.Id, stopped, Stopwatch.GetTimestamp()));
                break;
            case 7 when hasDisks:
                fleet.FillDisk(worker);
                await Task.Delay(length);
                fleet.EmptyDisk(worker);
                break;
            default:
                await fleet.Database.StopAsync();
                await Task.Delay(length);
                await fleet.Database.ContinueAsync();
                break;
        }
    }
}
