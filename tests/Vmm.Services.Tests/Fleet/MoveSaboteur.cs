using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Worker.V1;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Breaks or holds up the streams by which VMs go from one worker to another, where the test wants it.</summary>
/// <param name="beforeSend">Asked before a message goes from the source to the target; may throw, which cuts the stream.</param>
/// <param name="beforeTake">Asked before a message of the target is taken by the source; likewise.</param>
internal sealed class MoveSaboteur(Action<ReceiveVmRequest> beforeSend, Action<ReceiveVmResponse> beforeTake) : Interceptor
{
    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context, AsyncDuplexStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        AsyncDuplexStreamingCall<TRequest, TResponse> call = continuation(context);
        return new AsyncDuplexStreamingCall<TRequest, TResponse>(
            new Writer<TRequest>(beforeSend, call.RequestStream, call.Dispose), new Reader<TResponse>(beforeTake, call.ResponseStream, call.Dispose), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    private static void Ask(Action ask, Action cut)
    {
        try
        {
            ask();
        }
        catch
        {
            // As when the connection is lost: the other side hears of it.
            cut();
            throw;
        }
    }

    private sealed class Writer<T>(Action<ReceiveVmRequest> ask, IClientStreamWriter<T> inner, Action cut) : IClientStreamWriter<T>
    {
        public WriteOptions? WriteOptions { get; set; }

        public Task WriteAsync(T message)
        {
            if (message is ReceiveVmRequest request)
                Ask(() => ask(request), cut);
            return inner.WriteAsync(message);
        }

        public Task WriteAsync(T message, CancellationToken cancellationToken)
        {
            if (message is ReceiveVmRequest request)
                Ask(() => ask(request), cut);
            return inner.WriteAsync(message, cancellationToken);
        }

        public Task CompleteAsync() => inner.CompleteAsync();
    }

    private sealed class Reader<T>(Action<ReceiveVmResponse> ask, IAsyncStreamReader<T> inner, Action cut) : IAsyncStreamReader<T>
    {
        public T Current => inner.Current;

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            bool more = await inner.MoveNext(cancellationToken);
            if (more && inner.Current is ReceiveVmResponse response)
                Ask(() => ask(response), cut);
            return more;
        }
    }
}
