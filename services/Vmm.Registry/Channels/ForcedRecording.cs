using System.Diagnostics;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace Vmm.Registry.Channels;

/// <summary>
/// Records the span that a call of a worker is part of, although a sampler has dropped it, where the worker answers that it has done so: who
/// calls cannot know which VMs are under full trace. What has ended before the answer is lost to the trace. Streams are left alone: their
/// answer comes with their end.
/// </summary>
internal sealed class ForcedRecording : Interceptor
{
    /// <inheritdoc/>
    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        AsyncUnaryCall<TResponse> call = continuation(request, context);
        return Activity.Current is { Recorded: false } dropped
            ? new AsyncUnaryCall<TResponse>(HeedAsync(call, dropped), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose)
            : call;
    }

    private static async Task<TResponse> HeedAsync<TResponse>(AsyncUnaryCall<TResponse> call, Activity dropped)
    {
        try
        {
            TResponse response = await call.ResponseAsync;
            Heed(call.GetTrailers(), dropped);
            return response;
        }
        catch (RpcException exception)
        {
            Heed(exception.Trailers, dropped);
            throw;
        }
    }

    private static void Heed(Metadata trailers, Activity dropped)
    {
        if (trailers.Get(WorkerCall.ForcedTrailer) is not null)
            dropped.ForceRecording();
    }
}
