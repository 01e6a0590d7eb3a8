using System.Diagnostics;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// What may happen to a fleet, each with clients that go on meanwhile. After it no acknowledged change is lost, every request took effect once, and
/// no VM has run in two places, as the witness on disk saw.
/// </summary>
public sealed class FaultTests
{
    private static bool IsNightly => Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1";

    [RequiresPackageFact("postgresql")]
    public async Task A_database_that_is_away_for_longer_than_a_lease_costs_runs_and_no_change()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 2, workers: 2);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, "again", RestartPolicy.Restart);
        await WithLedgersAsync(fleet, async progress =>
        {
            await fleet.Database.StopAsync();
            await Task.Delay(TimeSpan.FromSeconds(IsNightly ? 30 : FaultFleet.ShortLease + 2));
            // Nobody has a lease any more, and nobody runs anything.
            int seen = fleet.Sightings("again").Count;
            await Task.Delay(200);
            Assert.Equal(seen, fleet.Sightings("again").Count);
            await fleet.Database.ContinueAsync();
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings("again").Count > seen + 20), "the VM runs again");
            await progress();
        });
        await CheckPlacesAsync(fleet, client, "again", faults: 1);
    }

    [RequiresPackageFact("postgresql")]
    public async Task Connections_to_the_database_that_are_cut_again_and_again_cost_nothing()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 1, lease: 300);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, "runs", RestartPolicy.Never);
        await WithLedgersAsync(fleet, async progress =>
        {
            for (int i = 0; i < 20; i++)
            {
                await fleet.Database.CutConnectionsAsync();
                await progress();
            }

            await fleet.Database.StopAsync();
            await fleet.Database.ContinueAsync();
            await progress();
        });
        Vm still = await client.CallAsync(new GetVmRequest { Name = $"{FaultFleet.Project}/vms/runs" }, static (vms, request, options) => vms.GetVmAsync(request, options));
        Assert.Equal((VmState.Running, 1L), (still.Status.State, still.Status.RunCount));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_worker_that_is_cut_off_from_the_database_stops_its_vms_before_they_run_elsewhere()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 1);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, "vm", RestartPolicy.FromLastCheckpoint);
        await fleet.StartWorkerAsync("w2", lease: 300);
        int first = fleet.Process("w1").Id, second = fleet.Process("w2").Id;
        await WithLedgersAsync(fleet, async progress =>
        {
            // Front ends reach it all the time: what it is asked to do it cannot make known, and it is not acknowledged.
            fleet.WayOf("w1").Freeze();
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings("vm")[^1].Process == second), "the VM runs elsewhere");
            fleet.WayOf("w1").Thaw();
            await progress();
        });
        await fleet.EventuallyAsync(async () => (await WorkersAsync(fleet)).All(worker => worker.State == WorkerState.Ready), "the worker is back");
        Assert.False(Sighting.AnyRanTwice(Sighting.Read(fleet.Witness)));
        Assert.Equal([first, second], fleet.Sightings("vm").Select(sighting => sighting.Process).Distinct());
    }

    [RequiresPackageFact("postgresql")]
    public async Task Clients_that_vanish_in_the_middle_of_calls_leave_nothing_half_done()
    {
        const int seed = 5, clients = 40;
        var random = new Random(seed);
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 1, lease: 300);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, "runs", RestartPolicy.Never);
        CreateVmRequest[] requests = [.. Enumerable.Range(0, clients).Select(i => fleet.Creation("", RestartPolicy.Never, ("number", $"{i}")))];
        int left = 0;
        await Task.WhenAll(requests.Select(async request =>
        {
            TimeSpan patience = TimeSpan.FromMilliseconds(random.Next(40));
            // With its connection, and with streams that it was reading.
            using VmmConnection connection = VmmConnection.Open(fleet.AddressOf("f1"));
            using var watch = connection.Vms.WatchVms(new WatchVmsRequest { Parent = FaultFleet.Project });
            using var console = connection.Vms.Console();
            await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = $"{FaultFleet.Project}/vms/runs", Write = true } });
            Task<Vm> call = connection.Vms.CreateVmAsync(request).ResponseAsync;
            if (await Task.WhenAny(call, Task.Delay(patience)) != call)
                Interlocked.Increment(ref left);
            _ = call.ContinueWith(static done => done.Exception, TaskScheduler.Default);
        }));
        Assert.InRange(left, 1, clients);
        // Whatever was done of it is done once, and what was not is done now.
        foreach (CreateVmRequest request in requests)
        {
            Vm vm = await client.CallAsync(request, static (vms, creation, options) => vms.CreateVmAsync(creation, options));
            Assert.Equal(vm, await client.CallAsync(request, static (vms, creation, options) => vms.CreateVmAsync(creation, options)));
        }

        IReadOnlyList<Vm> all = (await client.CallAsync(new ListVmsRequest { Parent = FaultFleet.Project, PageSize = 1000 }, static (vms, list, options) => vms.ListVmsAsync(list, options))).Vms;
        Assert.Equal(Enumerable.Range(0, clients).Select(i => $"{i}").Order(StringComparer.Ordinal), all.Where(vm => vm.Labels.Count > 0).Select(vm => vm.Labels["number"]).Order(StringComparer.Ordinal));
        // The console's writer is gone: another may write.
        using VmmConnection last = VmmConnection.Open(fleet.AddressOf("f1"));
        await fleet.EventuallyAsync(async () => await CanWriteAsync(last), "the console has no writer any more");
    }

    [RequiresMountNamespaceFact("postgresql")]
    public async Task A_disk_that_is_full_refuses_changes_until_there_is_room_and_loses_none()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 0);
        await fleet.MountAsync("w1", "4m");
        await fleet.StartWorkerAsync("w1", lease: 300);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, "runs", RestartPolicy.Restart);
        await WithLedgersAsync(fleet, async progress =>
        {
            await FillAsync();
            int seen = fleet.Sightings("runs").Count, process = fleet.Process("w1").Id;
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings("runs").Count > seen + 20), "the VM goes on");
            // Where there is room again changes are taken again, by the process that refused them.
            fleet.EmptyDisk("w1");
            await progress();
            Assert.Equal([process], fleet.Sightings("runs").Select(sighting => sighting.Process).Distinct());
            // And what was acknowledged since is what a start finds, whatever a disk that is full again has made of the journal's end.
            await FillAsync();
            fleet.EmptyDisk("w1");
            fleet.Kill("w1");
            await fleet.StartWorkerAsync("w1", lease: 300);
            await progress();
            await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings("runs")[^1].Process == fleet.Process("w1").Id), "the VM runs again");
        });

        async Task FillAsync()
        {
            fleet.FillDisk("w1");
            using VmmConnection connection = VmmConnection.Open(fleet.AddressOf("f1"));
            await fleet.EventuallyAsync(async () => await ReasonOfAsync(connection, fleet) == "STORAGE_FAILED", "changes are refused");
        }
    }

    /// <summary>Has clients go on while something happens, and checks in the end what they know.</summary>
    internal static async Task WithLedgersAsync(FaultFleet fleet, Func<Func<Task>, Task> happen, int seed = 1)
    {
        FleetLedger[] ledgers = [new(fleet, seed), new(fleet, seed + 1)];
        try
        {
            using var ending = new CancellationTokenSource();
            Task[] clients = [.. ledgers.Select(ledger => Task.Run(() => ledger.GoOnAsync(ending.Token)))];
            await ProgressAsync();
            await happen(ProgressAsync);
            await ending.CancelAsync();
            await Task.WhenAll(clients);
            foreach (FleetLedger ledger in ledgers)
                await ledger.CheckAsync();

            async Task ProgressAsync()
            {
                int[] then = [.. ledgers.Select(ledger => ledger.Done)];
                await fleet.EventuallyAsync(
                    () => Task.FromResult(clients.Any(client => client.IsFaulted) || ledgers.Zip(then).All(pair => pair.First.Done > pair.Second + 5)), "the clients get on");
                await Task.WhenAll(clients.Where(client => client.IsFaulted));
            }
        }
        finally
        {
            foreach (FleetLedger ledger in ledgers)
                ledger.Dispose();
        }
    }

    /// <summary>Each change of its place is the beginning of a run: were it in two places at once, it would change every few milliseconds.</summary>
    internal static Task CheckPlacesAsync(FaultFleet fleet, FleetClient client, string id, int faults) => CheckPlacesAsync(client, id, fleet.Sightings(id), faults);

    /// <summary>Likewise, of what was seen.</summary>
    internal static async Task CheckPlacesAsync(FleetClient client, string id, List<Sighting> seen, int changes)
    {
        Vm vm = await client.CallAsync(new GetVmRequest { Name = $"{FaultFleet.Project}/vms/{id}" }, static (vms, request, options) => vms.GetVmAsync(request, options));
        // A run that began when its worker was lost before it could say so has the number of the next.
        Assert.InRange(seen.Zip(seen.Skip(1)).Count(pair => pair.First.Process != pair.Second.Process), 0, vm.Status.RunCount - 1 + changes);
    }

    private static async Task<IReadOnlyList<V1.Worker>> WorkersAsync(FaultFleet fleet)
    {
        using VmmConnection connection = VmmConnection.Open(fleet.AddressOf("f1"));
        return (await connection.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers;
    }

    private static async Task<bool> CanWriteAsync(VmmConnection connection)
    {
        try
        {
            using VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = $"{FaultFleet.Project}/vms/runs", Write = true }, CancellationToken.None);
            return true;
        }
        catch (RpcException)
        {
            return false;
        }
    }

    private static async Task<string> ReasonOfAsync(VmmConnection connection, FaultFleet fleet)
    {
        try
        {
            await connection.Vms.CreateVmAsync(fleet.Creation("", RestartPolicy.Never));
            return "";
        }
        catch (RpcException exception)
        {
            return VmmError.From(exception).Reason;
        }
    }
}
