using System.Globalization;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;
using Vmm.Registry.Channels;

namespace Vmm.Worker.Fleet;

/// <summary>
/// Refuses calls that were meant for an earlier incarnation of this worker, and all of them while it has no lease: a front end that
/// was held up must not change a VM that is elsewhere by now.
/// </summary>
public sealed class LeaseInterceptor(FleetMemberSource member) : Interceptor
{
    /// <inheritdoc/>
    public override Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        Require(context);
        return continuation(request, context);
    }

    /// <inheritdoc/>
    public override Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Require(context);
        return continuation(requestStream, context);
    }

    /// <inheritdoc/>
    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Require(context);
        return continuation(request, responseStream, context);
    }

    /// <inheritdoc/>
    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation)
    {
        Require(context);
        return continuation(requestStream, responseStream, context);
    }

    private void Require(ServerCallContext context)
    {
        if (member.Member?.Lease is not { } lease)
            throw ApiError.Unavailable("LEASE_LOST", "The worker does not hold its lease.");
        if (context.RequestHeaders.GetValue(WorkerCall.IncarnationHeader) != lease.Incarnation.ToString(CultureInfo.InvariantCulture))
            throw ApiError.Unavailable("STALE_PLACEMENT", "The call was meant for an earlier incarnation of the worker.");
    }
}

/// <summary>The worker's place in the fleet, once it has one: it begins to listen before it registers.</summary>
public sealed class FleetMemberSource
{
    /// <summary>Null until it is registered.</summary>
    public FleetMember? Member { get; set; }
}
