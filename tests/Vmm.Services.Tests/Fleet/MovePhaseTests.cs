using System.Net.Sockets;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Protos;
using Vmm.Testing;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// Moves between processes, broken in every phase of the protocol, with clients that go on meanwhile: after each the VM runs, in one place at a time
/// as the witness saw, and has lost nothing unless the process that ran it was killed. Each phase is broken in one of three ways, or with VMM_NIGHTLY=1 in all.
/// </summary>
public sealed class MovePhaseTests(ITestOutputHelper output)
{
    private const string Id = "moves";
    private const string Name = $"{FaultFleet.Project}/vms/{Id}";

    private static readonly Break[] Breaks = Enum.GetValues<Break>();

    private enum Break
    {
        Cut,
        KillTarget,
        KillSource,
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_move_that_breaks_in_any_phase_leaves_the_vm_running_in_one_place()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 2, lease: 20);
        using FleetClient client = fleet.Client(0);
        await fleet.RunAsync(client, Id, RestartPolicy.Restart);
        bool isNightly = Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1";
        await FaultTests.WithLedgersAsync(fleet, async progress =>
        {
            for (int phase = 0; phase < MovePhase.All.Count; phase++)
                foreach (Break how in isNightly ? Breaks : [Breaks[phase % Breaks.Length]])
                    await BreakAsync(fleet, client, MovePhase.All[phase], how);
            await progress();
        });
    }

    private async Task BreakAsync(FaultFleet fleet, FleetClient client, string phase, Break how)
    {
        string what = $"{phase}, {how}";
        output.WriteLine(what);
        Vm before = await GetAsync(client);
        string source = before.Status.Worker["workers/".Length..], target = fleet.Workers.Single(worker => worker != source);
        int sourceProcess = fleet.Process(source).Id, targetProcess = fleet.Process(target).Id, seen = fleet.Sightings(Id).Count;
        await MovePhase.HoldAsync(fleet.Phases, source, phase);
        // Without the SDK, which would repeat it by itself.
        using GrpcChannel channel = Open(fleet.AddressOf("f1"));
        Task<MigrateVmResponse> moving = new VmService.VmServiceClient(channel).MigrateVmAsync(new MigrateVmRequest { Name = Name, Worker = $"workers/{target}" }, deadline: DateTime.UtcNow.AddMinutes(1)).ResponseAsync;
        await fleet.EventuallyAsync(() => Task.FromResult(MovePhase.IsReached(fleet.Phases, source) || moving.IsFaulted), $"{what}: the move comes there");
        if (moving.IsFaulted)
            await moving;
        if (how == Break.KillSource)
        {
            fleet.Kill(source);
            MovePhase.Clear(fleet.Phases, source);
            await fleet.StartWorkerAsync(source, lease: 20);
        }
        else
        {
            if (how == Break.KillTarget)
                fleet.Kill(target);
            await MovePhase.LetGoAsync(fleet.Phases, source, cuts: how == Break.Cut);
            if (how == Break.KillTarget)
                await fleet.StartWorkerAsync(target, lease: 20);
        }

        bool wasMoved = await WasMovedAsync(moving);
        int then = fleet.Sightings(Id).Count;
        await fleet.EventuallyAsync(() => Task.FromResult(fleet.Sightings(Id).Count > then + 20), $"{what}: the VM runs");
        Vm after = await GetAsync(client);
        List<Sighting> sightings = fleet.Sightings(Id)[seen..];
        Assert.False(Sighting.AnyRanTwice(sightings), $"{what}: it was seen in {string.Join(' ', sightings.Select(sighting => sighting.Process).Distinct())}");
        int last = sightings[^1].Process;
        Assert.Equal(fleet.Process(after.Status.Worker["workers/".Length..]).Id, last);
        Assert.Equal((before.Uid, VmState.Running), (after.Uid, after.Status.State));

        bool isCommitted = Order(phase) >= Order(MovePhase.Committed);
        if (isCommitted ? how == Break.KillTarget : how == Break.KillSource)
        {
            // Who had it was killed: it is booted, once.
            Assert.Equal((what, before.Status.RunCount + 1), (what, after.Status.RunCount));
            return;
        }

        // Killed when it had all of it, the target may still be who is given it: the registry does not know yet that it is gone.
        if (phase is MovePhase.Ready or MovePhase.Commit && how == Break.KillTarget && after.Status.RunCount == before.Status.RunCount + 1)
            return;
        Assert.Equal((what, before.Status.RunCount), (what, after.Status.RunCount));
        Assert.Equal((what, isCommitted ? targetProcess : sourceProcess), (what, last));
        Assert.True(isCommitted || !wasMoved, $"{what}: the call was answered as if the VM had moved");
        // It has gone on where it was, neither from earlier nor with anything left out.
        Assert.All(sightings.Zip(sightings.Skip(1)), pair => Assert.InRange(pair.Second.Count, pair.First.Count, pair.First.Count + 1));
    }

    private static GrpcChannel Open(string address)
    {
        var endPoint = new UnixDomainSocketEndPoint(address["unix:".Length..]);
        return GrpcChannel.ForAddress("http://localhost", new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { ConnectCallback = (_, cancellation) => UnixSocketStream.ConnectAsync(endPoint, cancellation) },
            DisposeHttpClient = true,
        });
    }

    private static int Order(string phase) => MovePhase.All.Select((name, i) => (name, i)).Single(each => each.name == phase).i;

    private static async Task<bool> WasMovedAsync(Task<MigrateVmResponse> moving)
    {
        try
        {
            await moving;
            return true;
        }
        catch (RpcException)
        {
            return false;
        }
    }

    private static Task<Vm> GetAsync(FleetClient client) =>
        client.CallAsync(new GetVmRequest { Name = Name }, static (vms, request, options) => vms.GetVmAsync(request, options));
}
