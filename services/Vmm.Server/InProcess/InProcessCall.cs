using Grpc.Core;

namespace Vmm.Server.InProcess;

/// <summary>A call inside this process, as its method sees it.</summary>
internal sealed class InProcessCall : ServerCallContext, IDisposable
{
    private readonly CancellationTokenSource _ending;
    private readonly string _method;
    private readonly DateTime _deadline;
    private readonly Metadata _requestHeaders;
    private readonly Metadata _trailers = [];
    private Status _status = Status.DefaultSuccess;
    private int _disposed;

    public InProcessCall(string method, CallOptions options)
    {
        _method = method;
        _deadline = options.Deadline ?? DateTime.MaxValue;
        _requestHeaders = options.Headers ?? Metadata.Empty;
        _ending = CancellationTokenSource.CreateLinkedTokenSource(options.CancellationToken);
    }

    /// <summary>The response's headers: there are none.</summary>
    public Task<Metadata> Headers { get; } = Task.FromResult(new Metadata());

    protected override string MethodCore => _method;

    protected override string HostCore => "in-process";

    protected override string PeerCore => "in-process";

    protected override DateTime DeadlineCore => _deadline;

    protected override Metadata RequestHeadersCore => _requestHeaders;

    protected override CancellationToken CancellationTokenCore => _ending.Token;

    protected override Metadata ResponseTrailersCore => _trailers;

    protected override Status StatusCore
    {
        get => _status;
        set => _status = value;
    }

    protected override WriteOptions? WriteOptionsCore { get; set; }

    protected override AuthContext AuthContextCore { get; } = new(null, []);

    public Status GetStatus() => _status;

    public Metadata GetTrailers() => _trailers;

    /// <summary>Runs a method that answers once.</summary>
    public async Task<T> RunAsync<T>(Func<Task<T>> method)
    {
        try
        {
            return await method();
        }
        catch (RpcException exception)
        {
            _status = exception.Status;
            throw;
        }
        finally
        {
            Release();
        }
    }

    /// <summary>Runs a method that writes a stream; <paramref name="close"/> gets what it threw, or null.</summary>
    public void RunStream(Func<Task> method, Action<Exception?> close) => _ = RunStreamAsync(method, close);

    /// <summary>Cancels the method where it still runs.</summary>
    public void Dispose()
    {
        if (Volatile.Read(ref _disposed) == 0)
        {
            try
            {
                _ending.Cancel();
            }
            catch (ObjectDisposedException)
            {
                // The method ended at the same moment.
            }
        }
    }

    protected override Task WriteResponseHeadersAsyncCore(Metadata responseHeaders) => Task.CompletedTask;

    protected override ContextPropagationToken CreatePropagationTokenCore(ContextPropagationOptions? options) =>
        throw new NotSupportedException("Calls in a process pass their cancellation on by their options.");

    private async Task RunStreamAsync(Func<Task> method, Action<Exception?> close)
    {
        try
        {
            await method();
            close(null);
        }
        catch (Exception exception)
        {
            // Nothing is swallowed: the reader of the stream gets it, whatever it is.
            _status = exception is RpcException status ? status.Status : new Status(StatusCode.Internal, exception.Message, exception);
            close(exception);
        }
        finally
        {
            Release();
        }
    }

    private void Release()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            _ending.Dispose();
    }
}
