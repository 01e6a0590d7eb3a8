using System.Collections.Concurrent;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend.Access;

/// <summary>
/// Callers see what is in their project and nothing else: what is elsewhere does not exist for them. Counts a project's streams.
/// Thread-safe.
/// </summary>
public sealed class CallerAuthorizer(IAccessRegistry registry, TimeProvider time) : IAuthorizer
{
    private static readonly TimeSpan Freshness = TimeSpan.FromSeconds(2);

    private readonly ConcurrentDictionary<string, StreamCount> _streams = new(StringComparer.Ordinal);

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

        if (state.IsStream && state.LeaveStreams is null)
            state.LeaveStreams = await EnterStreamsAsync(project, call.CancellationToken);
    }

    /// <summary>Takes a place among the streams of a project.</summary>
    /// <exception cref="RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED.</exception>
    private async Task<Action> EnterStreamsAsync(string project, CancellationToken cancellation)
    {
        StreamCount count = _streams.GetOrAdd(project, static _ => new StreamCount());
        if (count.LimitUntil <= time.GetUtcNow())
        {
            ProjectQuota? quota = (await registry.FindProjectAsync(project, cancellation))?.Quota;
            (count.Limit, count.LimitUntil) = (quota is { HasStreams: true } ? quota.Streams : int.MaxValue, time.GetUtcNow() + Freshness);
        }

        if (Interlocked.Increment(ref count.UnderWay) <= count.Limit)
            return () => Interlocked.Decrement(ref count.UnderWay);
        Interlocked.Decrement(ref count.UnderWay);
        throw ApiError.QuotaExceeded(project, [$"{count.Limit} of {count.Limit} streams are under way at this front end"]);
    }

    private sealed class StreamCount
    {
        public int UnderWay;

        public int Limit { get; set; }

        public DateTimeOffset LimitUntil { get; set; }
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
