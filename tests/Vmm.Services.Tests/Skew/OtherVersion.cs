using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Services.Tests.Skew;

/// <summary>Stands between two processes of which one is of another version than the other: changes what they say to what they would hear then.</summary>
/// <param name="knows">Whether both know a method, by its path; otherwise the call is UNIMPLEMENTED.</param>
/// <param name="toServer">What becomes of a request; may refuse it.</param>
/// <param name="fromServer">What becomes of a response.</param>
internal sealed class OtherVersion(Predicate<string> knows, Func<IMessage, IMessage> toServer, Func<IMessage, IMessage> fromServer) : Interceptor
{
    private static int _differences;

    /// <summary>Fields that were left out of messages, or added to them, so far.</summary>
    public static int Differences => Volatile.Read(ref _differences);

    /// <summary>A server of a recorded version: it refuses fields of requests that it does not know, but for those that only servers write, and answers without them.</summary>
    public static OtherVersion OlderServer(ProtoRecord record) => new(record.HasMethod, message => Without(record, message, isServer: true), message => Strip(record, message));

    /// <summary>A caller of a recorded version: it sends nothing that it does not know, and does not look at what it does not know.</summary>
    public static OtherVersion OlderCaller(ProtoRecord record) => new(record.HasMethod, message => Strip(record, message), message => Strip(record, message));

    /// <summary>A server of a version to come: it says more, everywhere.</summary>
    public static OtherVersion LaterServer() => new(static _ => true, static message => message, static message => Extend(message, static _ => true));

    /// <summary>A worker of a version to come that calls another: what it says of VMs' states is more, and what it asks for is the same.</summary>
    public static OtherVersion LaterCaller() => new(static _ => true, static message => Extend(message, static type => type == VmStatus.Descriptor.FullName), static message => message);

    /// <summary>The message without what the version does not know.</summary>
    public static T Strip<T>(ProtoRecord record, T message)
        where T : IMessage => (T)Without(record, message, isServer: false);

    /// <summary>The message with a field that nobody knows in each message of those types.</summary>
    public static T Extend<T>(T message, Predicate<string> types)
        where T : IMessage
    {
        var wire = new WireRewriter(TypeOf, static (_, _) => { }, type => types(type));
        ByteString extended = wire.Rewrite(message.ToByteString(), message.Descriptor.FullName);
        Interlocked.Add(ref _differences, wire.Added);
        return (T)message.Descriptor.Parser.ParseFrom(extended);

        string? TypeOf(string type, int field) => WireRewriter.FieldOf(message.Descriptor, type, field);
    }

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        Require(context.Method.FullName);
        AsyncUnaryCall<TResponse> call = continuation(ToServer(request), context);
        return new AsyncUnaryCall<TResponse>(AnswerAsync(call.ResponseAsync), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncServerStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        Require(context.Method.FullName);
        AsyncServerStreamingCall<TResponse> call = continuation(ToServer(request), context);
        return new AsyncServerStreamingCall<TResponse>(new Reader<TResponse>(this, call.ResponseStream), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context, AsyncDuplexStreamingCallContinuation<TRequest, TResponse> continuation)
    {
        Require(context.Method.FullName);
        AsyncDuplexStreamingCall<TRequest, TResponse> call = continuation(context);
        return new AsyncDuplexStreamingCall<TRequest, TResponse>(
            new Writer<TRequest>(this, call.RequestStream), new Reader<TResponse>(this, call.ResponseStream), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    private static IMessage Without(ProtoRecord record, IMessage message, bool isServer)
    {
        var wire = new WireRewriter(record.TypeOf, (field, isStatus) =>
        {
            if (isServer && !isStatus)
                throw ApiError.InvalidField(field, "is not known to this server, which may be older than its caller.", "UNKNOWN_FIELD");
            Interlocked.Increment(ref _differences);
        });
        return message.Descriptor.Parser.ParseFrom(wire.Rewrite(message.ToByteString(), message.Descriptor.FullName));
    }

    private async Task<T> AnswerAsync<T>(Task<T> answer) => FromServer(await answer);

    private void Require(string method)
    {
        if (!knows(method))
            throw new RpcException(new Status(StatusCode.Unimplemented, "Service is unimplemented."));
    }

    private T ToServer<T>(T request) => (T)(object)toServer((IMessage)request!);

    private T FromServer<T>(T response) => (T)(object)fromServer((IMessage)response!);

    private sealed class Reader<T>(OtherVersion version, IAsyncStreamReader<T> inner) : IAsyncStreamReader<T>
    {
        public T Current { get; private set; } = default!;

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            if (!await inner.MoveNext(cancellationToken))
                return false;
            Current = version.FromServer(inner.Current);
            return true;
        }
    }

    private sealed class Writer<T>(OtherVersion version, IClientStreamWriter<T> inner) : IClientStreamWriter<T>
    {
        public WriteOptions? WriteOptions { get; set; }

        public Task WriteAsync(T message) => inner.WriteAsync(version.ToServer(message));

        public Task WriteAsync(T message, CancellationToken cancellationToken) => inner.WriteAsync(version.ToServer(message), cancellationToken);

        public Task CompleteAsync() => inner.CompleteAsync();
    }
}
