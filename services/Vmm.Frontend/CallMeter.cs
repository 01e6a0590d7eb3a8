using System.Diagnostics;
using System.Diagnostics.Metrics;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;

namespace Vmm.Frontend;

/// <summary>
/// Measures every call that is served: how long it took and how it ended, by OpenTelemetry's conventions for RPC. Stands before everything
/// else, so that what others refuse counts too. Catalogued in the README of <c>services</c>.
/// </summary>
public sealed class CallMeter : Interceptor, IDisposable
{
    /// <summary>The meter's name.</summary>
    public const string Name = "Vmm.Calls";

    private readonly Meter _meter = new(Name);
    private readonly Histogram<double> _duration;
    private readonly UpDownCounter<int> _active;
    private readonly Counter<long> _refused;

    public CallMeter()
    {
        _duration = _meter.CreateHistogram<double>("rpc.server.call.duration", "s", "How long calls took, streams until their end, by method and status.",
            advice: new() { HistogramBucketBoundaries = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] });
        _refused = _meter.CreateCounter<long>("vmm.calls.refused", "{call}", "Calls that were answered RESOURCE_EXHAUSTED, by the error's reason.");
        _active = _meter.CreateUpDownCounter<int>("vmm.calls.active", "{call}", "Calls under way, by method.");
    }

    /// <inheritdoc/>
    public override Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation) =>
        MeasureAsync(context, () => continuation(request, context));

    /// <inheritdoc/>
    public override Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation) =>
        MeasureAsync(context, () => continuation(requestStream, context));

    /// <inheritdoc/>
    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        MeasureAsync(context, () => Valued(continuation(request, responseStream, context)));

    /// <inheritdoc/>
    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        MeasureAsync(context, () => Valued(continuation(requestStream, responseStream, context)));

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private static async Task<bool> Valued(Task task)
    {
        await task;
        return true;
    }

    private async Task<T> MeasureAsync<T>(ServerCallContext context, Func<Task<T>> call)
    {
        if (!_duration.Enabled && !_active.Enabled)
            return await call();
        var method = new KeyValuePair<string, object?>("rpc.method", context.Method.TrimStart('/'));
        StatusCode status = StatusCode.OK;
        long start = Stopwatch.GetTimestamp();
        _active.Add(1, method);
        try
        {
            return await call();
        }
        catch (RpcException exception)
        {
            status = exception.StatusCode;
            if (status == StatusCode.ResourceExhausted)
                _refused.Add(1, new KeyValuePair<string, object?>("vmm.reason", ApiError.ReasonOf(exception)));
            throw;
        }
        catch
        {
            status = StatusCode.Unknown;
            throw;
        }
        finally
        {
            _active.Add(-1, method);
            _duration.Record(Stopwatch.GetElapsedTime(start).TotalSeconds, method,
                new KeyValuePair<string, object?>("rpc.system.name", "grpc"), new KeyValuePair<string, object?>("rpc.response.status_code", ApiError.NameOf(status)));
        }
    }
}
