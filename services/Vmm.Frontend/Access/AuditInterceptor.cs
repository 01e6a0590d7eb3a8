using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Frontend.Access;

/// <summary>
/// Outermost of all: notes who called and what came of it, of calls that are there to change something and of those that were refused because
/// of who called. What a client hears of a change is in the audit log by then. A stream has an entry at its begin, before anything of it is done, and another
/// one at its end.
/// </summary>
/// <param name="trail">The audit log; null for a server that asks for no tokens, and so does not know who calls.</param>
public sealed class AuditInterceptor(AuditTrail? trail) : Interceptor
{
    private const int MaxResourceLength = 256;

    /// <inheritdoc/>
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        TResponse? response = null;
        await NoteAsync(context, request as IMessage, async () => (response = await continuation(request, context)) as IMessage);
        return response!;
    }

    /// <inheritdoc/>
    public override async Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, ServerCallContext context, ClientStreamingServerMethod<TRequest, TResponse> continuation)
    {
        TResponse? response = null;
        await NoteAsync(context, null, async () => (response = await continuation(requestStream, context)) as IMessage);
        return response!;
    }

    /// <inheritdoc/>
    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        NoteAsync(context, request as IMessage, async () =>
        {
            await continuation(request, responseStream, context);
            return null;
        });

    /// <inheritdoc/>
    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        NoteAsync(context, null, async () =>
        {
            await continuation(requestStream, responseStream, context);
            return null;
        });

    private async Task NoteAsync(ServerCallContext context, IMessage? request, Func<Task<IMessage?>> call)
    {
        if (trail is null || !MethodRule.All.TryGetValue(context.Method, out MethodRule? rule))
        {
            await call();
            return;
        }

        CallState state = CallState.Of(context);
        if (rule.Changes)
            state.NoteBegin = NoteBeginAsync;
        IMessage? response;
        try
        {
            response = await call();
        }
        catch (RpcException exception) when (rule.Changes || state.IsRefused || exception.StatusCode is StatusCode.Unauthenticated or StatusCode.PermissionDenied)
        {
            if (state.Caller is null && !trail.HasRoomForStranger())
                throw;
            try
            {
                await trail.AppendAsync(Entry(context, state, request, null, ApiError.NameOf(exception.StatusCode), ApiError.ReasonOf(exception)));
            }
            catch (RpcException unavailable) when (unavailable.StatusCode == StatusCode.Unavailable)
            {
                // Nothing was done that would have to be noted, and the client hears why.
            }

            throw;
        }

        if (rule.Changes)
            await trail.AppendAsync(Entry(context, state, request, response, "OK", ""));

        async Task NoteBeginAsync()
        {
            AuditEntry begin = Entry(context, state, request, null, "", "");
            begin.Stream = Guid.NewGuid().ToString("n");
            await trail.AppendAsync(begin);
            state.Stream = begin.Stream;
        }
    }

    private static AuditEntry Entry(ServerCallContext context, CallState state, IMessage? request, IMessage? response, string code, string reason)
    {
        string resource = TextOf(response, "name") is { Length: > 0 } made ? made : state.Resource;
        if (resource.Length == 0)
            resource = TextOf(request, "name") is { Length: > 0 } name ? name : TextOf(request, "parent") ?? "";
        return new AuditEntry
        {
            Token = state.Caller?.Token ?? "",
            // What somebody tried on another's project is for his own to know.
            Project = (state.IsRefused ? null : ProjectNames.Of(state.Resource)) ?? state.Caller?.Project ?? "",
            Method = context.Method.TrimStart('/'),
            Resource = TokenText.Redact(resource.Length <= MaxResourceLength ? resource : resource[..MaxResourceLength]),
            RequestId = TextOf(request, "request_id") is { Length: <= MaxResourceLength } id ? TokenText.Redact(id) : "",
            Code = code,
            Reason = reason,
            Peer = context.Peer,
            Stream = state.Stream,
        };
    }

    private static string? TextOf(IMessage? message, string field) =>
        message?.Descriptor.FindFieldByName(field) is { FieldType: FieldType.String, IsRepeated: false } found ? (string)found.Accessor.GetValue(message) : null;
}
