using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace Vmm.Client;

/// <summary>
/// Fills in request ids and repeats unary calls that ended UNAVAILABLE, up to five times in all; those whose worker does not answer only while they have taken
/// less than two seconds. Repeating is safe because a call either changes nothing or carries a request id.
/// </summary>
internal sealed class RetryInterceptor(TimeProvider time) : Interceptor
{
    private const int MaxAttempts = 5;
    private static readonly TimeSpan FirstDelay = TimeSpan.FromMilliseconds(100);

    // A front end finds out by waiting that a worker hangs, and would wait again for each repetition.
    private static readonly TimeSpan PatienceWithWorker = TimeSpan.FromSeconds(2);

    public override TResponse BlockingUnaryCall<TRequest, TResponse>(
        TRequest request,
        ClientInterceptorContext<TRequest, TResponse> context,
        BlockingUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        FillRequestId(request);
        return continuation(request, context);
    }

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request,
        ClientInterceptorContext<TRequest, TResponse> context,
        AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        FillRequestId(request);
        AsyncUnaryCall<TResponse> call = continuation(request, context);
        Task<TResponse> response = RepeatAsync();
        return new AsyncUnaryCall<TResponse>(
            response,
            HeadersAsync(),
            () => call.GetStatus(),
            () => call.GetTrailers(),
            () => call.Dispose());

        async Task<Metadata> HeadersAsync()
        {
            // Which attempt's headers they are is known only at the end.
            try
            {
                await response;
            }
            catch (RpcException)
            {
                // The caller hears of it through the response; headers may exist all the same.
            }

            return await call.ResponseHeadersAsync;
        }

        async Task<TResponse> RepeatAsync()
        {
            long began = time.GetTimestamp();
            for (int attempt = 1; ; attempt++)
            {
                try
                {
                    return await call.ResponseAsync;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable && attempt < MaxAttempts
                    && (time.GetElapsedTime(began) < PatienceWithWorker || VmmError.From(exception).Reason != "WORKER_UNREACHABLE"))
                {
                    TimeSpan delay = FirstDelay * Math.Pow(2, attempt - 1) * (0.5 + Random.Shared.NextDouble());
                    if (context.Options.Deadline is { } deadline && time.GetUtcNow().UtcDateTime + delay >= deadline)
                        throw;
                    await Task.Delay(delay, time, context.Options.CancellationToken);
                    call.Dispose();
                    call = continuation(request, context);
                }
            }
        }
    }

    /// <summary>Makes up a request id where the request has such a field and it is empty.</summary>
    internal static void FillRequestId(object request)
    {
        if (request is not IMessage message)
            return;
        FieldDescriptor? field = message.Descriptor.FindFieldByName("request_id");
        if (field is { FieldType: FieldType.String } && (string)field.Accessor.GetValue(message) is "")
            field.Accessor.SetValue(message, Guid.NewGuid().ToString());
    }
}
