using System.Collections.Concurrent;
using System.Threading.Channels;
using Grpc.Core;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Vmm.Registry;

namespace Vmm.Frontend.Access;

/// <summary>
/// This front end's places among the streams of projects, which the registry counts over all front ends. A stream asks the registry at its begin;
/// that it has ended, and that the others are still there, is told here, and a registry that is away hears of it later. Thread-safe.
/// </summary>
public sealed class StreamPlaces(IAccessRegistry registry, FrontendOptions options, TimeProvider time, ILogger<StreamPlaces> log) : BackgroundService
{
    private const int RenewalsPerLease = 6;
    private static readonly TimeSpan LeavingPatience = TimeSpan.FromSeconds(2);

    private readonly string _holder = Guid.NewGuid().ToString("n");
    private readonly ConcurrentDictionary<string, StreamPlace> _places = new(StringComparer.Ordinal);
    private readonly ConcurrentQueue<StreamPlace> _left = new();
    private readonly Channel<bool> _news = Channel.CreateBounded<bool>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite });
    private bool _isDue;

    /// <summary>Takes a place; gives what gives it back.</summary>
    /// <exception cref="RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED; UNAVAILABLE: the registry is away.</exception>
    public async Task<Action> TakeAsync(string project, CancellationToken cancellation)
    {
        var place = new StreamPlace(_holder, Guid.NewGuid().ToString("n"), project);
        try
        {
            await registry.AdmitStreamAsync(place, cancellation);
        }
        catch (Exception exception) when (exception is not RpcException { StatusCode: StatusCode.ResourceExhausted })
        {
            // Whether it was taken is not known.
            Leave(place);
            throw;
        }

        _places[place.Id] = place;
        return () =>
        {
            if (_places.TryRemove(place.Id, out _))
                Leave(place);
        };
    }

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        TimeSpan interval = options.LeaseDuration / RenewalsPerLease;
        await using ITimer timer = time.CreateTimer(_ => Renew(), null, interval, interval);
        try
        {
            await foreach (bool _ in _news.Reader.ReadAllAsync(stoppingToken))
                await TellAsync(stoppingToken);
        }
        finally
        {
            await EndAsync();
        }

        void Renew()
        {
            Volatile.Write(ref _isDue, true);
            _news.Writer.TryWrite(true);
        }
    }

    private void Leave(StreamPlace place)
    {
        _left.Enqueue(place);
        _news.Writer.TryWrite(true);
    }

    // One after the other: a place that is given back while the lease is renewed is not made anew by that.
    private async Task TellAsync(CancellationToken cancellation)
    {
        var left = new List<StreamPlace>();
        try
        {
            while (_left.TryDequeue(out StreamPlace? place))
                left.Add(place);
            if (left.Count > 0)
                await registry.LeaveStreamsAsync(left, cancellation);
            left.Clear();
            if (Volatile.Read(ref _isDue))
                await registry.RenewStreamsAsync(_holder, [.. _places.Values], cancellation);
            Volatile.Write(ref _isDue, false);
        }
        catch (RpcException exception)
        {
            log.StreamsNotTold(exception.Status.Detail);
            // The next renewal is the next attempt.
            left.ForEach(_left.Enqueue);
        }
    }

    private async Task EndAsync()
    {
        using var patience = new CancellationTokenSource(LeavingPatience, time);
        try
        {
            await registry.EndStreamsAsync(_holder, patience.Token);
        }
        catch (Exception exception) when (exception is RpcException or OperationCanceledException)
        {
            // They count until the lease ends.
        }
    }
}
