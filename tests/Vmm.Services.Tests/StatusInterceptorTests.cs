using System.Net.Sockets;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Microsoft.Extensions.Logging.Abstractions;
using Vmm.Client;
using Vmm.Frontend;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>What comes of exceptions that a real connection throws only in moments which a test cannot choose.</summary>
public sealed class StatusInterceptorTests
{
    private readonly StatusInterceptor _interceptor = new(NullLogger<StatusInterceptor>.Instance, TimeProvider.System);

    [Fact]
    public async Task A_request_stream_that_breaks_off_before_its_call_is_cancelled_is_no_incident()
    {
        var broken = new BrokenReader();
        RpcException[] ends =
        [
            await Assert.ThrowsAsync<RpcException>(() => _interceptor.DuplexStreamingServerHandler(broken, new NoWriter(), new Call(), async (requests, _, _) => await requests.MoveNext(CancellationToken.None))),
            await Assert.ThrowsAsync<RpcException>(() => _interceptor.ClientStreamingServerHandler<Empty, Empty>(broken, new Call(), async (requests, _) =>
            {
                await requests.MoveNext(CancellationToken.None);
                return new Empty();
            })),
        ];
        Assert.All(ends, end => Assert.Equal((StatusCode.Cancelled, "CANCELLED"), (end.StatusCode, VmmError.From(end).Reason)));
    }

    [Theory]
    [InlineData(StatusCode.Cancelled, null)] // a handshake that takes too long
    [InlineData(StatusCode.Cancelled, typeof(OperationCanceledException))]
    [InlineData(StatusCode.Internal, typeof(HttpRequestException))] // pings without an answer
    [InlineData(StatusCode.Unavailable, typeof(SocketException))]
    [InlineData(StatusCode.Unavailable, typeof(IOException))]
    public async Task A_worker_that_does_not_answer_is_unavailable(StatusCode code, System.Type? cause)
    {
        var failure = new RpcException(new Status(code, "Error connecting to subchannel.", cause is null ? null : (Exception)Activator.CreateInstance(cause)!));
        RpcException end = await Assert.ThrowsAsync<RpcException>(() => _interceptor.UnaryServerHandler<Empty, Empty>(new Empty(), new Call(), (_, _) => throw failure));
        Assert.Equal((StatusCode.Unavailable, "WORKER_UNREACHABLE"), (end.StatusCode, VmmError.From(end).Reason));
        Assert.DoesNotContain("subchannel", end.Status.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_caller_who_has_gone_away_has_cancelled_his_call()
    {
        RpcException end = await Assert.ThrowsAsync<RpcException>(() => _interceptor.UnaryServerHandler<Empty, Empty>(
            new Empty(), new Call { IsCancelled = true }, (_, _) => throw new RpcException(new Status(StatusCode.Cancelled, "Call canceled by the client."))));
        Assert.Equal((StatusCode.Cancelled, "CANCELLED"), (end.StatusCode, VmmError.From(end).Reason));
    }

    [Fact]
    public async Task An_exception_that_is_not_of_the_connection_is_an_incident()
    {
        // An answer that is no message is an IOException, too.
        InvalidProtocolBufferException malformed = Assert.Throws<InvalidProtocolBufferException>(() => Empty.Parser.ParseFrom([0xFF]));
        foreach (Exception exception in (Exception[])[new IOException("A file."), new RpcException(new Status(StatusCode.Internal, "Failed to deserialize response message.", malformed))])
        {
            RpcException end = await Assert.ThrowsAsync<RpcException>(() => _interceptor.UnaryServerHandler<Empty, Empty>(new Empty(), new Call(), (_, _) => throw exception));
            Assert.Equal((StatusCode.Internal, "INTERNAL"), (end.StatusCode, VmmError.From(end).Reason));
        }
    }

    private sealed class BrokenReader : IAsyncStreamReader<Empty>
    {
        public Empty Current => throw new InvalidOperationException("There is none.");

        public Task<bool> MoveNext(CancellationToken cancellationToken) => throw new IOException("The client reset the request stream.");
    }

    private sealed class NoWriter : IServerStreamWriter<Empty>
    {
        public WriteOptions? WriteOptions { get; set; }

        public Task WriteAsync(Empty message) => Task.CompletedTask;
    }

    private sealed class Call : ServerCallContext
    {
        public bool IsCancelled { get; init; }

        protected override string MethodCore => "/vmm.v1.VmService/Console";

        protected override string HostCore => "";

        protected override string PeerCore => "";

        protected override DateTime DeadlineCore => DateTime.MaxValue;

        protected override Metadata RequestHeadersCore => [];

        protected override CancellationToken CancellationTokenCore => new(IsCancelled);

        protected override Metadata ResponseTrailersCore => [];

        protected override Status StatusCore { get; set; }

        protected override WriteOptions? WriteOptionsCore { get; set; }

        protected override AuthContext AuthContextCore => new(null, []);

        protected override ContextPropagationToken CreatePropagationTokenCore(ContextPropagationOptions? options) => throw new NotSupportedException();

        protected override Task WriteResponseHeadersAsyncCore(Metadata responseHeaders) => Task.CompletedTask;
    }
}
