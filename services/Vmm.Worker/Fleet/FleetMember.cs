using Grpc.Core;
using Microsoft.Extensions.Logging;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Worker.Fleet;

/// <summary>
/// A worker's place in the fleet: registers, renews the lease, takes what is given to it and gives away what is asked for. When
/// the lease cannot be renewed, every machine is stopped before anybody else can hold it to have ended; then the worker
/// registers again as a new incarnation.
/// </summary>
/// <remarks>
/// The lease is the registry's, from the moment at which it takes a renewal. Here it counts from before the renewal was sent, on
/// the monotonic clock, and ends a sixth of its duration early: for clocks that run apart, and for the time that stopping takes. The
/// watchdog has a thread of its own, which a crowded thread pool cannot hold up. Only a process that is stopped as a whole
/// can be late: its first act when it goes on is to fence itself, and what its guests do until then stays in their
/// memory and private disks, which are dropped.
/// </remarks>
public sealed class FleetMember : IAsyncDisposable
{
    private const int MarginDivisor = 6;
    private const int RenewalDivisor = 6;
    private static readonly TimeSpan LongestRetry = TimeSpan.FromSeconds(1);

    private readonly WorkerHost _host;
    private readonly IRegistry _registry;
    private readonly WorkerRegistration _registration;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _ending = new();
    private readonly SemaphoreSlim _wake = new(0);
    private readonly ManualResetEventSlim _watch = new(false);
    private readonly Lock _lock = new();
    private WorkerLease? _lease;
    private long _safeUntil;
    private TaskCompletionSource _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Task _renewing = Task.CompletedTask;
    private Task _draining = Task.CompletedTask;
    private Task _following = Task.CompletedTask;
    private Wanted? _wanted;
    private Thread? _watchdog;

    private FleetMember(WorkerHost host, IRegistry registry, WorkerRegistration registration, TimeProvider time, ILogger log)
    {
        _host = host;
        _registry = registry;
        _registration = registration;
        _time = time;
        _log = log;
        host.Reports.Refused = names => Observe(DropAsync(names));
        host.Reports.LeaseLost = Lose;
        host.CheckIn = CheckIn;
        host.Fleet.Lease = () => Lease;
        host.LeaseRemaining = Remaining;
    }

    /// <summary>The lease that is held, or null.</summary>
    public WorkerLease? Lease
    {
        get
        {
            lock (_lock)
                return _lease;
        }
    }

    /// <summary>Registers a worker, whose machines may run when this returns, and keeps it registered.</summary>
    /// <exception cref="RpcException">The registry refuses it, or cannot be reached.</exception>
    public static async Task<FleetMember> JoinAsync(WorkerHost host, IRegistry registry, WorkerRegistration registration, TimeProvider time, ILogger log, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(registration);
        var member = new FleetMember(host, registry, registration, time, log);
        WorkerSession session = await member.RegisterAsync(cancellation);
        if (session.Lease.Duration != Timeout.InfiniteTimeSpan)
        {
            member._watchdog = new Thread(member.Watch) { IsBackground = true, Name = "lease watchdog", Priority = ThreadPriority.Highest };
            member._watchdog.Start();
            member._renewing = Task.Run(() => member.RenewAsync(session));
        }
        else
        {
            member.Follow(session.Instructions, 0);
            await member._following;
        }

        return member;
    }

    // Looks at the registry now rather than with the next renewal.
    private void CheckIn() => _wake.Release();

    /// <summary>
    /// For an orderly end: gives away what can be booted elsewhere, and ends the lease where nothing is left. What is left is
    /// lost to the fleet only if the worker is not back before the lease ends.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_ending.IsCancellationRequested)
            return;
        try
        {
            if (_watchdog is not null && Lease is { } lease)
            {
                _host.Leave();
                await _draining;
                await _following;
                await _host.GiveAwayAsync(names => _registry.HandOverAsync(lease, names, CancellationToken.None));
                await _host.InterruptAllAsync("The worker was shut down.", isFailure: false);
                await _host.Reports.FlushedAsync();
                if (_host.IsEmpty)
                    await _registry.EndLeaseAsync(lease, CancellationToken.None);
            }
        }
        catch (Exception exception) when (exception is RpcException or LeaseLostException)
        {
            _log.LeaseNotEnded(_registration.Name, exception);
        }

        await _ending.CancelAsync();
        _watch.Set();
        _watchdog?.Join();
        await _renewing;
        lock (_lock)
            _lease = null;
        _host.Permit.Revoke();
        _host.Reports.Restart();
        _ending.Dispose();
        _wake.Dispose();
        _watch.Dispose();
    }

    private async Task<WorkerSession> RegisterAsync(CancellationToken cancellation)
    {
        // What is added from here on is reported again after the inventory, which does no harm.
        _host.Reports.Restart();
        long sent = _time.GetTimestamp();
        WorkerSession session = await _registry.RegisterWorkerAsync(_registration, _host.Inventory(), cancellation);
        foreach (string name in session.Drop)
            await _host.DropAsync(name);
        foreach (string name in session.DropSnapshots)
            await _host.DropSnapshotAsync(name);
        lock (_lock)
        {
            _lease = session.Lease;
            _lost = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            SetSafeUntil(sent, session.Lease);
        }

        _host.Permit.Grant();
        _host.Reports.Open(session.Lease);
        _log.Registered(_registration.Name, session.Lease.Incarnation);
        return session;
    }

    private async Task RenewAsync(WorkerSession session)
    {
        Follow(session.Instructions, 0);
        WorkerLease lease = session.Lease;
        TimeSpan wait = lease.Duration / RenewalDivisor;
        while (!_ending.IsCancellationRequested)
        {
            await Task.WhenAny(_wake.WaitAsync(wait, _ending.Token), _lost.Task);
            if (_ending.IsCancellationRequested)
                return;
            try
            {
                if (Lease is null)
                {
                    await _host.InterruptAllAsync("The worker lost its lease.", isFailure: true);
                    // What arrived with the end of the lease is in the inventory, or is not this worker's.
                    await _host.ArrivedAsync();
                    long asked = _time.GetTimestamp();
                    session = await RegisterAsync(_ending.Token);
                    lease = session.Lease;
                    Follow(session.Instructions, asked);
                }
                else
                {
                    long sent = _time.GetTimestamp();
                    WorkerInstructions instructions = await _registry.RenewLeaseAsync(lease, _host.RunningVms, _ending.Token);
                    lock (_lock)
                        if (_lease == lease)
                            SetSafeUntil(sent, lease);
                    Follow(instructions, sent);
                }

                wait = lease.Duration / RenewalDivisor;
            }
            catch (LeaseLostException)
            {
                Lose(lease);
                wait = TimeSpan.Zero;
            }
            catch (RpcException exception)
            {
                _log.LeaseNotRenewed(_registration.Name, exception.Status.Detail);
                wait = lease.Duration / 20 < LongestRetry ? lease.Duration / 20 : LongestRetry;
            }
            catch (OperationCanceledException) when (_ending.IsCancellationRequested)
            {
                return;
            }
        }
    }

    /// <summary>Does what the registry asks for, beside the renewals, which cannot wait for images and checkpoints to be fetched.</summary>
    private void Follow(WorkerInstructions instructions, long asked)
    {
        // What comes while something else is being done replaces what came before: it says all that there is to do.
        Volatile.Write(ref _wanted, new Wanted(instructions, asked));
        _following = FollowAsync(_following);
        if (instructions.State != WorkerState.Draining)
            _host.EndDrain();
        else if (Lease is { } lease)
            Drain(lease);
    }

    private async Task FollowAsync(Task before)
    {
        await before;
        await Task.Yield();
        if (_ending.IsCancellationRequested || Interlocked.Exchange(ref _wanted, null) is not { } wanted)
            return;
        WorkerInstructions instructions = wanted.Instructions;
        foreach (Vm vm in instructions.Adopt)
        {
            if (!_host.Removed.IsOutdated(vm.Name, wanted.Asked))
                await TryAsync(vm.Name, () => _host.AdoptAsync(vm));
        }

        _host.Removed.Forget(wanted.Asked);
        foreach (string name in _host.ToRestart())
            await TryAsync(name, () => _host.RestartAsync(name));
        try
        {
            await _host.SweepAsync(instructions.DeletedSnapshots, _ending.Token);
        }
        catch (Exception exception) when (exception is RpcException or OperationCanceledException)
        {
            _log.SnapshotsNotSwept(exception.Message);
        }
    }

    // Beside the renewals, which cannot wait for it. What stays is tried again with the next one.
    private void Drain(WorkerLease lease)
    {
        if (_draining.IsCompleted)
            _draining = Task.Run(async () =>
            {
                try
                {
                    await _host.GiveAwayAsync(names => _registry.HandOverAsync(lease, names, _ending.Token));
                }
                catch (Exception exception) when (exception is RpcException or LeaseLostException or OperationCanceledException)
                {
                    _log.HandOverFailed(_registration.Name, exception.Message);
                }
            });
    }

    private async Task TryAsync(string name, Func<Task> act)
    {
        try
        {
            await act();
        }
        catch (RpcException exception)
        {
            // Most likely a file is missing here. With the next renewal it is tried again.
            _log.BringUpRefused(name, exception.Status.Detail);
        }
        catch (Exception exception)
        {
            // A bug of ours, and no reason for others not to be brought up.
            _log.BringUpFailed(name, exception);
        }
    }

    private async Task DropAsync(IReadOnlyList<string> names)
    {
        foreach (string name in names)
            await TryAsync(name, () => _host.DropAsync(name));
    }

    private TimeSpan? Remaining() => Lease is { } lease && lease.Duration != Timeout.InfiniteTimeSpan
        ? TimeSpan.FromSeconds(Math.Max(0, (Volatile.Read(ref _safeUntil) - _time.GetTimestamp()) / (double)_time.TimestampFrequency))
        : null;

    private void SetSafeUntil(long sent, WorkerLease lease)
    {
        if (lease.Duration == Timeout.InfiniteTimeSpan)
            return;
        TimeSpan safe = lease.Duration - lease.Duration / MarginDivisor;
        Volatile.Write(ref _safeUntil, sent + (long)(safe.TotalSeconds * _time.TimestampFrequency));
        _watch.Set();
    }

    /// <summary>Stops everything when the lease can end for others.</summary>
    private void Watch()
    {
        while (!_ending.IsCancellationRequested)
        {
            long left = Volatile.Read(ref _safeUntil) - _time.GetTimestamp();
            if (left <= 0 && Lease is { } lease)
                Lose(lease);
            int milliseconds = Lease is null ? Timeout.Infinite : (int)Math.Clamp(left * 1000 / _time.TimestampFrequency + 1, 1, 1000);
            _watch.Wait(milliseconds);
            _watch.Reset();
        }
    }

    /// <summary>The lease is over: machines stop at once, and whatever else there is to do follows.</summary>
    private void Lose(WorkerLease lease)
    {
        lock (_lock)
        {
            if (_lease != lease)
                return;
            _lease = null;
            _host.Permit.Revoke();
            // Their ends are waited for elsewhere.
            _ = _host.InterruptAllAsync("The worker lost its lease.", isFailure: true);
            _lost.TrySetResult();
        }

        _log.LeaseLost(_registration.Name);
    }

    private void Observe(Task task) => task.ContinueWith(
        failed => _log.DropFailed(_registration.Name, failed.Exception),
        CancellationToken.None,
        TaskContinuationOptions.OnlyOnFaulted,
        TaskScheduler.Default);

    /// <param name="Instructions">What the registry wants.</param>
    /// <param name="Asked">A timestamp before it was asked.</param>
    private sealed record Wanted(WorkerInstructions Instructions, long Asked);
}
