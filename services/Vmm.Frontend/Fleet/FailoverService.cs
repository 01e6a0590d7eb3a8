using Grpc.Core;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Vmm.Registry;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>
/// Looks for workers whose lease has ended, once a second, and has their VMs placed again. Every front end does so; the registry sees to
/// it that each VM is moved once.
/// </summary>
public sealed class FailoverService(FleetRouter fleet, FleetMeter meter, TimeProvider time, ILogger<FailoverService> log) : BackgroundService
{
    private const int LooksPerPruning = 60;
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(Interval, time);
        for (int look = 0; await timer.WaitForNextTickAsync(stoppingToken); look++)
        {
            try
            {
                FailoverOutcome outcome = await fleet.Registry.FailOverAsync(stoppingToken);
                meter.NoteFailover(outcome);
                foreach (WorkerAddress worker in outcome.Targets)
                    await TellAsync(worker, stoppingToken);
                if (look % LooksPerPruning == 0)
                    await fleet.Registry.PruneAsync(stoppingToken);
            }
            catch (RpcException exception)
            {
                log.FailoverFailed(exception.Status.Detail);
            }
        }
    }

    private async Task TellAsync(WorkerAddress worker, CancellationToken cancellation)
    {
        log.VmsGiven(worker.Name);
        try
        {
            await fleet.Connect(worker).CheckInAsync(new CheckInRequest(), deadline: time.GetUtcNow().UtcDateTime + Interval, cancellationToken: cancellation);
        }
        catch (RpcException)
        {
            // It looks by itself when it next renews its lease.
        }
    }
}
