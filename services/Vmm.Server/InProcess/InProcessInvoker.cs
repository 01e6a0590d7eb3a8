using System.Threading.Channels;
using Grpc.Core;

namespace Vmm.Server.InProcess;

/// <summary>
/// Calls the methods of a service in this process, as a channel would those of one elsewhere, without bytes in between. A
/// message belongs to the receiver once it is sent. Streams hold a few messages; a writer then waits for the reader.
/// </summary>
/// <remarks>
/// Exceptions of a method arrive as they were thrown, an <see cref="RpcException"/> with its details included. A call ends
/// with its method: disposing it cancels the method's token.
/// </remarks>
internal sealed class InProcessInvoker : CallInvoker
{
    private const int StreamCapacity = 4;

    private readonly Binder _methods = new();

    /// <param name="bind">The generated <c>BindService</c> of the service, with the service.</param>
    public InProcessInvoker(Action<ServiceBinderBase> bind) => bind(_methods);

    /// <inheritdoc/>
    public override TResponse BlockingUnaryCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request) =>
        throw new NotSupportedException("Blocking calls are not for servers.");

    /// <inheritdoc/>
    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request)
    {
        var call = new InProcessCall(method.FullName, options);
        var handler = _methods.Find<UnaryServerMethod<TRequest, TResponse>>(method);
        Task<TResponse> response = call.RunAsync(() => handler(request, call));
        return new AsyncUnaryCall<TResponse>(response, call.Headers, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    /// <inheritdoc/>
    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request)
    {
        var call = new InProcessCall(method.FullName, options);
        var handler = _methods.Find<ServerStreamingServerMethod<TRequest, TResponse>>(method);
        var responses = new MessageStream<TResponse>(StreamCapacity);
        call.RunStream(() => handler(request, responses, call), responses.Close);
        return new AsyncServerStreamingCall<TResponse>(responses, call.Headers, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    /// <inheritdoc/>
    public override AsyncClientStreamingCall<TRequest, TResponse> AsyncClientStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options)
    {
        var call = new InProcessCall(method.FullName, options);
        var handler = _methods.Find<ClientStreamingServerMethod<TRequest, TResponse>>(method);
        var requests = new MessageStream<TRequest>(StreamCapacity);
        Task<TResponse> response = call.RunAsync(async () =>
        {
            try
            {
                return await handler(requests, call);
            }
            finally
            {
                requests.Close(null);
            }
        });
        return new AsyncClientStreamingCall<TRequest, TResponse>(requests, response, call.Headers, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    /// <inheritdoc/>
    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options)
    {
        var call = new InProcessCall(method.FullName, options);
        var handler = _methods.Find<DuplexStreamingServerMethod<TRequest, TResponse>>(method);
        var requests = new MessageStream<TRequest>(StreamCapacity);
        var responses = new MessageStream<TResponse>(StreamCapacity);
        call.RunStream(
            () => handler(requests, responses, call),
            exception =>
            {
                responses.Close(exception);
                requests.Close(null);
            });
        return new AsyncDuplexStreamingCall<TRequest, TResponse>(requests, responses, call.Headers, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    /// <summary>The service's methods by full name.</summary>
    private sealed class Binder : ServiceBinderBase
    {
        private readonly Dictionary<string, Delegate> _handlers = new(StringComparer.Ordinal);

        public THandler Find<THandler>(IMethod method) where THandler : Delegate =>
            _handlers.TryGetValue(method.FullName, out Delegate? handler) ? (THandler)handler : throw new RpcException(new Status(StatusCode.Unimplemented, method.FullName));

        public override void AddMethod<TRequest, TResponse>(Method<TRequest, TResponse> method, UnaryServerMethod<TRequest, TResponse>? handler) => _handlers.Add(method.FullName, handler!);

        public override void AddMethod<TRequest, TResponse>(Method<TRequest, TResponse> method, ClientStreamingServerMethod<TRequest, TResponse>? handler) => _handlers.Add(method.FullName, handler!);

        public override void AddMethod<TRequest, TResponse>(Method<TRequest, TResponse> method, ServerStreamingServerMethod<TRequest, TResponse>? handler) => _handlers.Add(method.FullName, handler!);

        public override void AddMethod<TRequest, TResponse>(Method<TRequest, TResponse> method, DuplexStreamingServerMethod<TRequest, TResponse>? handler) => _handlers.Add(method.FullName, handler!);
    }
}

/// <summary>One direction of a call: both its ends.</summary>
internal sealed class MessageStream<T>(int capacity) : IAsyncStreamReader<T>, IClientStreamWriter<T>, IServerStreamWriter<T>
{
    private readonly Channel<T> _messages = Channel.CreateBounded<T>(new BoundedChannelOptions(capacity) { SingleReader = true });
    private T? _current;

    /// <inheritdoc/>
    public T Current => _current ?? throw new InvalidOperationException("No message was read yet.");

    /// <inheritdoc/>
    public WriteOptions? WriteOptions { get; set; }

    /// <inheritdoc/>
    public async Task<bool> MoveNext(CancellationToken cancellationToken)
    {
        if (!await _messages.Reader.WaitToReadAsync(cancellationToken))
            return false;
        return _messages.Reader.TryRead(out _current);
    }

    /// <inheritdoc/>
    public Task WriteAsync(T message) => WriteAsync(message, CancellationToken.None);

    /// <inheritdoc/>
    public async Task WriteAsync(T message, CancellationToken cancellationToken)
    {
        try
        {
            await _messages.Writer.WriteAsync(message, cancellationToken);
        }
        catch (ChannelClosedException exception)
        {
            throw new OperationCanceledException("The other side of the call has ended.", exception);
        }
    }

    /// <inheritdoc/>
    public Task CompleteAsync()
    {
        Close(null);
        return Task.CompletedTask;
    }

    /// <summary>No message follows; with an exception, the reader gets it after the last one.</summary>
    public void Close(Exception? exception) => _messages.Writer.TryComplete(exception);
}
