using System.Diagnostics;
using System.Globalization;
using Vmm.Testing;
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
    private static readonly string[] Vms = ["again", "saved"];

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
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 2, workers: 3);
        using FleetClient client = fleet.Client(seed);
        await fleet.RunAsync(client, "again", RestartPolicy.Restart);
        await fleet.RunAsync(client, "saved", RestartPolicy.FromLastCheckpoint);
        int faults = 0;
        await FaultTests.WithLedgersAsync(
            fleet,
            async progress =>
            {
                var clock = Stopwatch.StartNew();
                while (clock.Elapsed < duration)
                {
                    await HappenAsync(fleet, random, clock);
                    faults++;
                    await Task.Delay(random.Next(1500));
                }

                await progress();
            },
            random.Next(1000));
        foreach (string id in Vms)
        {
            int seen = fleet.Sightings(id).Count;
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings(id).Count > seen + 20), $"{id} runs");
            await FaultTests.CheckPlacesAsync(fleet, client, id, faults);
        }

        await PostgresCensus.AssertIsTrueAsync(fleet.Registry);
        // What counts on from checkpoints never counts what it has not counted.
        List<Sighting> saved = fleet.Sightings("saved");
        Assert.All(saved.Zip(saved.Skip(1)), pair => Assert.InRange(pair.Second.Count, 1UL, pair.First.Count + 1));
        output.WriteLine($"{faults} faults");
    }

    private async Task HappenAsync(FaultFleet fleet, Random random, Stopwatch clock)
    {
        string worker = fleet.Workers[random.Next(fleet.Workers.Count)], frontend = fleet.Frontends[random.Next(fleet.Frontends.Count)];
        int kind = random.Next(7);
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
            default:
                await fleet.Database.StopAsync();
                await Task.Delay(length);
                await fleet.Database.ContinueAsync();
                break;
        }
    }
}
