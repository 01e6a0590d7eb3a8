using Grpc.Core;
using Grpc.Core.Interceptors;
using Xunit;

namespace Vmm.Grpc.Tests;

/// <summary>What callers rely on in the stand-ins themselves.</summary>
public sealed class StandInBehaviourTests
{
    [Fact]
    public void Metadata_names_are_lower_case_and_checked()
    {
        var metadata = new Metadata { { "Some-Key", "text" }, { "data-BIN", [1, 2] } };
        Assert.Equal("some-key", metadata[0].Key);
        Assert.Equal("text", metadata.GetValue("SOME-KEY"));
        Assert.True(metadata[1].IsBinary);
        Assert.Equal([1, 2], metadata.GetValueBytes("data-bin"));
        Assert.Throws<ArgumentException>(() => metadata.Add("white space", "x"));
        Assert.Throws<ArgumentException>(() => metadata.Add("text-bin", "x"));
        Assert.Throws<ArgumentException>(() => metadata.Add("text", [1]));
        Assert.Throws<InvalidOperationException>(() => metadata[1].Value);
        Assert.Throws<InvalidOperationException>(() => Metadata.Empty.Add("a", "b"));
    }

    [Fact]
    public void Binary_values_are_copied_both_ways()
    {
        byte[] bytes = [1];
        var entry = new Metadata.Entry("x-bin", bytes);
        bytes[0] = 2;
        entry.ValueBytes[0] = 3;
        Assert.Equal([1], entry.ValueBytes);
    }

    [Fact]
    public void Call_options_change_one_at_a_time()
    {
        using var source = new CancellationTokenSource();
        CallOptions options = new CallOptions().WithDeadline(DateTime.UnixEpoch).WithCancellationToken(source.Token).WithWaitForReady().WithHeaders([]);
        Assert.Equal(DateTime.UnixEpoch, options.Deadline);
        Assert.Equal(source.Token, options.CancellationToken);
        Assert.True(options.IsWaitForReady);
        Assert.NotNull(options.Headers);
        Assert.False(options.WithWaitForReady(false).IsWaitForReady);
    }

    [Fact]
    public void Call_credentials_need_a_secure_channel()
    {
        CallCredentials call = CallCredentials.FromInterceptor((_, _) => Task.CompletedTask);
        Assert.Throws<ArgumentException>(() => ChannelCredentials.Create(ChannelCredentials.Insecure, call));
        Assert.NotNull(ChannelCredentials.Create(ChannelCredentials.SecureSsl, call));
    }

    [Fact]
    public async Task Interceptors_run_in_the_order_given()
    {
        var order = new List<string>();
        CallInvoker invoker = new Echo().Intercept(new Noting("first", order), new Noting("second", order));
        var method = new Method<string, string>(MethodType.Unary, "service", "method", Marshallers.StringMarshaller, Marshallers.StringMarshaller);
        Assert.Equal("hello", await invoker.AsyncUnaryCall(method, null, default, "hello"));
        Assert.Equal(["first", "second"], order);
        Assert.Equal("/service/method", method.FullName);
    }

    private sealed class Noting(string name, List<string> order) : Interceptor
    {
        public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
            TRequest request, ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
        {
            order.Add(name);
            return continuation(request, context);
        }
    }

    private sealed class Echo : CallInvoker
    {
        public override TResponse BlockingUnaryCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request) => (TResponse)(object)request;

        public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request) =>
            new(Task.FromResult((TResponse)(object)request), Task.FromResult(new Metadata()), () => Status.DefaultSuccess, () => [], () => { });

        public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request) => throw new NotSupportedException();

        public override AsyncClientStreamingCall<TRequest, TResponse> AsyncClientStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options) => throw new NotSupportedException();

        public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(Method<TRequest, TResponse> method, string? host, CallOptions options) => throw new NotSupportedException();
    }
}
