using Grpc.Core;
using Vmm.Protos;

namespace Vmm.Frontend.Access;

/// <summary>
/// Callers see what is in their project and nothing else: what is elsewhere does not exist for them. A stream takes its
/// place among those of its project here. Thread-safe.
/// </summary>
public sealed class CallerAuthorizer(StreamPlaces places) : IAuthorizer
{
    /// <inheritdoc/>
    public async ValueTask AuthorizeAsync(ServerCallContext call, string resource)
    {
        ArgumentNullException.ThrowIfNull(call);
        ArgumentNullException.ThrowIfNull(resource);
        CallState state = CallState.Of(call);
        state.Resource = resource;
        Caller caller = state.Caller ?? throw new InvalidOperationException($"{call.Method} was let through without a caller.");
        if (ProjectNames.Of(resource) is not { } project)
            return;
        if (!caller.Sees(project))
        {
            state.IsRefused = true;
            throw ApiError.NotFound(resource);
        }

        if (!state.IsStream || state.LeaveStreams is not null)
            return;
        state.LeaveStreams = await places.TakeAsync(project, call.CancellationToken);
        if (state.NoteBegin is { } note)
            await note();
    }
}

/// <summary>The project in resource names.</summary>
internal static class ProjectNames
{
    private const string Prefix = "projects/";

    /// <summary>The project that a resource is in, or is; null where it is in none.</summary>
    public static string? Of(string resource)
    {
        if (!resource.StartsWith(Prefix, StringComparison.Ordinal))
            return null;
        int end = resource.IndexOf('/', Prefix.Length);
        return end < 0 ? resource : resource[..end];
    }
}
