using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;

namespace Vmm.Frontend;

/// <summary>
/// Bounds what is under way at a time: who comes beyond is refused at once with RESOURCE_EXHAUSTED, reason OVERLOADED, rather than kept
/// in a queue that nobody waits in to the end. Health checks always pass.
/// </summary>
public sealed class AdmissionInterceptor(FrontendOptions options) : Interceptor
{
    private int _calls;
    private int _streams;

    /// <inheritdoc/>
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        if (request is Grpc.Health.V1.HealthCheckRequest)
            return await continuation(request, context);
        Enter(ref _calls, options.MaxConcurrentCalls, "calls");
        try
        {
            return await continuation(request, context);
        }
        finally
        {
            Interlocked.Decrement(ref _calls);
        }
    }

    /// <inheritdoc/>
    public override async Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Enter(ref _streams, options.MaxConcurrentStreams, "streams");
        try
        {
            return await continuation(requestStream, context);
        }
        finally
        {
            Interlocked.Decrement(ref _streams);
        }
    }

    /// <inheritdoc/>
    public override async Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Enter(ref _streams, options.MaxConcurrentStreams, "streams");
        try
        {
            await continuation(request, responseStream, context);
        }
        finally
        {
            Interlocked.Decrement(ref _streams);
        }
    }

    /// <inheritdoc/>
    public override async Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Enter(ref _streams, options.MaxConcurrentStreams, "streams");
        try
        {
            await continuation(requestStream, responseStream, context);
        }
        finally
        {
            Interlocked.Decrement(ref _streams);
        }
    }

    private static void Enter(ref int underWay, int most, string what)
    {
        if (Interlocked.Increment(ref underWay) <= most)
            return;
        Interlocked.Decrement(ref underWay);
        throw ApiError.ResourceExhausted("OVERLOADED", what, $"This front end has {most} {what} under way already; try again later, or at another.");
    }
}
