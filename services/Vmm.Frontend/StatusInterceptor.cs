using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Microsoft.Extensions.Logging;
using Vmm.Frontend.Access;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.Protos;

namespace Vmm.Frontend;

/// <summary>
/// Stands before every method: refuses requests with fields that nobody here knows, and sees to it that whatever a method
/// throws leaves as a status with details, and never as UNKNOWN.
/// </summary>
public sealed class StatusInterceptor(ILogger<StatusInterceptor> log, TimeProvider time) : Interceptor
{
    private const string WorkersPrefix = "workers/";

    /// <inheritdoc/>
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            RefuseUnknownFields(request);
            return await continuation(request, context);
        }
        catch (Exception exception) when (Translate(exception, context) is { } translated)
        {
            throw translated;
        }
    }

    /// <inheritdoc/>
    public override async Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            return await continuation(new CheckedReader<TRequest>(requestStream), context);
        }
        catch (Exception exception) when (Translate(exception, context) is { } translated)
        {
            throw translated;
        }
    }

    /// <inheritdoc/>
    public override async Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            RefuseUnknownFields(request);
            await continuation(request, responseStream, context);
        }
        catch (Exception exception) when (Translate(exception, context) is { } translated)
        {
            throw translated;
        }
    }

    /// <inheritdoc/>
    public override async Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            await continuation(new CheckedReader<TRequest>(requestStream), responseStream, context);
        }
        catch (Exception exception) when (Translate(exception, context) is { } translated)
        {
            throw translated;
        }
    }

    private static void RefuseUnknownFields(object? request)
    {
        if (request is IMessage message && UnknownFields.Find(message) is { } field)
            throw ApiError.InvalidField(field, "is not known to this server, which may be older than its caller.", "UNKNOWN_FIELD");
    }

    /// <summary>The status that an exception means; null where it is one with details already.</summary>
    private RpcException? Translate(Exception exception, ServerCallContext context)
    {
        switch (exception)
        {
            case RpcException { StatusCode: not StatusCode.Unknown } status when ApiError.HasDetails(status):
                // The fleet's workers are none of a project's business.
                if (status.StatusCode == StatusCode.ResourceExhausted && CallState.Of(context).Caller?.Project is not null)
                    return ApiError.WithoutQuotasOf(status, WorkersPrefix);
                // What else a worker's answer carries is between it and us.
                return status.Trailers.Count == 1 ? null : new RpcException(status.Status, new Metadata { { ApiError.DetailsTrailer, status.Trailers.GetValueBytes(ApiError.DetailsTrailer)! } });
            case RpcException broken when WorkerFailure.IsOfConnection(broken) && !context.CancellationToken.IsCancellationRequested:
                log.WorkerUnreachable(context.Method, WorkerFailure.ReasonOf(broken));
                return ApiError.Unavailable("WORKER_UNREACHABLE", "The worker that this call is for cannot be reached at the moment.");
            case RpcException { StatusCode: not (StatusCode.Unknown or StatusCode.Internal) } bare:
                return ApiError.Create(bare.StatusCode, ApiError.NameOf(bare.StatusCode), bare.Status.Detail, null);
            case InvalidProtocolBufferException malformed:
                return ApiError.Create(StatusCode.InvalidArgument, "MALFORMED_MESSAGE", $"The request is not a message of this method: {malformed.Message}", null);
        }

        if (context.CancellationToken.IsCancellationRequested && exception is OperationCanceledException or IOException or InvalidOperationException)
            return context.Deadline <= time.GetUtcNow().UtcDateTime ? ApiError.DeadlineExceeded() : ApiError.Cancelled();
        if (exception is OperationCanceledException)
            return ApiError.Unavailable("SHUTTING_DOWN", "The server is shutting down.");

        string incident = Guid.NewGuid().ToString("n")[..12];
        log.CallFailed(incident, context.Method, exception);
        return ApiError.Internal(incident);
    }

    private sealed class CheckedReader<T>(IAsyncStreamReader<T> inner) : IAsyncStreamReader<T>
    {
        public T Current => inner.Current;

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            try
            {
                if (!await inner.MoveNext(cancellationToken))
                    return false;
            }
            catch (IOException exception) when (exception is not InvalidProtocolBufferException)
            {
                // The connection broke off: the reader hears it before the call's token does.
                throw ApiError.Cancelled();
            }

            RefuseUnknownFields(inner.Current);
            return true;
        }
    }
}
