using System.Diagnostics;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;

namespace Vmm.Client;

/// <summary>
/// A span for each call, its repetitions included, by OpenTelemetry's conventions for RPC; servers continue its trace. Without a listener
/// nothing is made.
/// </summary>
internal sealed class TracingInterceptor : Interceptor
{
    private static readonly ActivitySource Source = new(VmmConnection.TraceSource);

    public override TResponse BlockingUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, BlockingUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        using Activity? span = Start(context.Method);
        try
        {
            TResponse response = continuation(request, context);
            End(span, StatusCode.OK);
            return response;
        }
        catch (RpcException exception)
        {
            End(span, exception.StatusCode);
            throw;
        }
    }

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        if (!Source.HasListeners())
            return continuation(request, context);
        (Activity? span, AsyncUnaryCall<TResponse> call) = Begin(context.Method, () => continuation(request, context));
        return new AsyncUnaryCall<TResponse>(EndWithAsync(span, call.ResponseAsync), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncServerStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        if (!Source.HasListeners())
            return continuation(request, context);
        (Activity? span, AsyncServerStreamingCall<TResponse> call) = Begin(context.Method, () => continuation(request, context));
        return new AsyncServerStreamingCall<TResponse>(new Reader<TResponse>(call.ResponseStream, span), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, () => Leave(span, call.Dispose));
    }

    public override AsyncClientStreamingCall<TRequest, TResponse> AsyncClientStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context, AsyncClientStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        if (!Source.HasListeners())
            return continuation(context);
        (Activity? span, AsyncClientStreamingCall<TRequest, TResponse> call) = Begin(context.Method, () => continuation(context));
        return new AsyncClientStreamingCall<TRequest, TResponse>(
            call.RequestStream, EndWithAsync(span, call.ResponseAsync), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, () => Leave(span, call.Dispose));
    }

    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context, AsyncDuplexStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        if (!Source.HasListeners())
            return continuation(context);
        (Activity? span, AsyncDuplexStreamingCall<TRequest, TResponse> call) = Begin(context.Method, () => continuation(context));
        return new AsyncDuplexStreamingCall<TRequest, TResponse>(
            call.RequestStream, new Reader<TResponse>(call.ResponseStream, span), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, () => Leave(span, call.Dispose));
    }

    // The call is made inside its span; the caller goes on in what it was in.
    private static (Activity? Span, TCall Call) Begin<TCall>(IMethod method, Func<TCall> make)
    {
        Activity? present = Activity.Current;
        Activity? span = Start(method);
        try
        {
            return (span, make());
        }
        catch
        {
            End(span, StatusCode.Unknown);
            throw;
        }
        finally
        {
            Activity.Current = present;
        }
    }

    private static Activity? Start(IMethod method)
    {
        Activity? span = Source.StartActivity(method.FullName.TrimStart('/'), ActivityKind.Client);
        return span?.SetTag("rpc.system.name", "grpc").SetTag("rpc.method", method.FullName.TrimStart('/'));
    }

    private static async Task<TResponse> EndWithAsync<TResponse>(Activity? span, Task<TResponse> response)
    {
        try
        {
            TResponse answer = await response;
            End(span, StatusCode.OK);
            return answer;
        }
        catch (RpcException exception)
        {
            End(span, exception.StatusCode);
            throw;
        }
    }

    private static void Leave(Activity? span, Action dispose)
    {
        dispose();
        End(span, StatusCode.Cancelled);
    }

    private static void End(Activity? span, StatusCode status)
    {
        if (span is null || span.IsStopped)
            return;
        span.SetTag("rpc.response.status_code", ApiError.NameOf(status));
        if (status is not (StatusCode.OK or StatusCode.Cancelled))
            span.SetTag("error.type", ApiError.NameOf(status)).SetStatus(ActivityStatusCode.Error);
        Activity? present = Activity.Current;
        span.Dispose();
        Activity.Current = ReferenceEquals(present, span) ? span.Parent : present;
    }

    /// <summary>Ends the span with its stream.</summary>
    private sealed class Reader<T>(IAsyncStreamReader<T> inner, Activity? span) : IAsyncStreamReader<T>
    {
        public T Current => inner.Current;

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            try
            {
                bool more = await inner.MoveNext(cancellationToken);
                if (!more)
                    End(span, StatusCode.OK);
                return more;
            }
            catch (RpcException exception)
            {
                End(span, exception.StatusCode);
                throw;
            }
        }
    }
}
