using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;

namespace Vmm.Frontend.Access;

/// <summary>
/// Stands before every method: finds out who calls and whether his role allows the method, before anything is looked at. Streams of
/// a token that is revoked end.
/// </summary>
/// <param name="verifier">Knows tokens; null for a server that asks for none, which lets everybody do everything.</param>
/// <param name="time">For looking again at the tokens of streams.</param>
public sealed class AccessInterceptor(TokenVerifier? verifier, TimeProvider time) : Interceptor
{
    private const string PublicApi = "/vmm.";

    /// <summary>A method that nobody has thought of is nobody's but an administrator's.</summary>
    private static readonly MethodRule Unthought = new(V1.Role.Admin, true, OfFleet: true);

    /// <inheritdoc/>
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        await AdmitAsync(context);
        return await continuation(request, context);
    }

    /// <inheritdoc/>
    public override async Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation)
    {
        TResponse? response = null;
        await GuardAsync(context, async guarded => response = await continuation(requestStream, guarded));
        return response!;
    }

    /// <inheritdoc/>
    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, guarded => continuation(request, responseStream, guarded));

    /// <inheritdoc/>
    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, guarded => continuation(requestStream, responseStream, guarded));

    private async Task AdmitAsync(ServerCallContext context)
    {
        CallState state = CallState.Of(context);
        if (!MethodRule.All.TryGetValue(context.Method, out MethodRule? rule))
        {
            // Health checks and reflection say nothing that is not public.
            if (!context.Method.StartsWith(PublicApi, StringComparison.Ordinal))
            {
                state.Caller = Caller.Anyone;
                return;
            }

            rule = Unthought;
        }

        Caller caller = state.Caller = verifier is null ? Caller.Anyone : await verifier.VerifyAsync(context);
        if (caller.Role < rule.Role)
            throw ApiError.PermissionDenied("ROLE_REQUIRED", $"This takes the role {rule.Role.ToString().ToUpperInvariant()}, and {caller.Token} has {caller.Role.ToString().ToUpperInvariant()}.");
        if (rule.OfFleet && caller.Project is not null)
            throw ApiError.PermissionDenied("ROLE_REQUIRED", $"This takes a token that is for all projects, and {caller.Token} is for {caller.Project}.");
    }

    private async Task GuardAsync(ServerCallContext context, Func<ServerCallContext, Task> run)
    {
        CallState state = CallState.Of(context);
        state.IsStream = true;
        await AdmitAsync(context);
        try
        {
            if (verifier is null || state.Caller == Caller.Anyone)
                await run(context);
            else
                await RunUntilRevokedAsync(context, run);
        }
        finally
        {
            state.LeaveStreams?.Invoke();
        }
    }

    private async Task RunUntilRevokedAsync(ServerCallContext context, Func<ServerCallContext, Task> run)
    {
        using var revoked = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        using var over = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        Task<RpcException?> watching = WatchAsync(context, revoked, over.Token);
        // Where ASP.NET Core's gRPC looks for it in contexts that are not its own.
        context.UserState["__HttpContext"] = context.GetHttpContext();
        try
        {
            await run(new RevocableCall(context, revoked.Token));
        }
        catch (Exception) when (watching is { IsCompletedSuccessfully: true, Result: not null })
        {
            // However the method took its end, the reason is another.
            throw (await watching)!;
        }
        finally
        {
            await over.CancelAsync();
            await watching;
        }

        if (await watching is { } refused)
            throw refused;
    }

    /// <summary>Looks at the caller's token now and then; gives why it is not valid any more, or null when the call is over first.</summary>
    private async Task<RpcException?> WatchAsync(ServerCallContext context, CancellationTokenSource revoked, CancellationToken over)
    {
        try
        {
            while (true)
            {
                await Task.Delay(TokenVerifier.Freshness, time, over);
                try
                {
                    await verifier!.VerifyAsync(context);
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Unauthenticated)
                {
                    // The token source is cancelled after this task has its result, which the method's end is explained by.
                    _ = Task.Run(revoked.Cancel, CancellationToken.None);
                    return exception;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
                {
                    // Nobody knows at the moment: what is under way goes on.
                }
            }
        }
        catch (OperationCanceledException) when (over.IsCancellationRequested)
        {
            return null;
        }
    }

    /// <summary>A call that can be ended from here.</summary>
    private sealed class RevocableCall(ServerCallContext call, CancellationToken cancellation) : ServerCallContext
    {
        protected override string MethodCore => call.Method;

        protected override string HostCore => call.Host;

        protected override string PeerCore => call.Peer;

        protected override DateTime DeadlineCore => call.Deadline;

        protected override Metadata RequestHeadersCore => call.RequestHeaders;

        protected override CancellationToken CancellationTokenCore => cancellation;

        protected override Metadata ResponseTrailersCore => call.ResponseTrailers;

        protected override Status StatusCore { get => call.Status; set => call.Status = value; }

        protected override WriteOptions? WriteOptionsCore { get => call.WriteOptions; set => call.WriteOptions = value; }

        protected override AuthContext AuthContextCore => call.AuthContext;

        protected override IDictionary<object, object> UserStateCore => call.UserState;

        protected override ContextPropagationToken CreatePropagationTokenCore(ContextPropagationOptions? options) => call.CreatePropagationToken(options);

        protected override Task WriteResponseHeadersAsyncCore(Metadata responseHeaders) => call.WriteResponseHeadersAsync(responseHeaders);
    }
}
