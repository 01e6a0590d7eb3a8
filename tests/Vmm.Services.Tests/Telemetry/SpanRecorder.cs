using System.Collections.Concurrent;
using System.Diagnostics;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>The spans of this process in the order of their ends: ours, and those of calls that are made and served.</summary>
internal sealed class SpanRecorder : IDisposable
{
    private readonly ConcurrentQueue<Activity> _ended = new();
    private readonly ActivityListener _listener;

    /// <param name="drops">As a sampler that wants none: spans are made, and recorded only where somebody forces that.</param>
    public SpanRecorder(bool drops = false)
    {
        _listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name.StartsWith("Vmm.", StringComparison.Ordinal) || source.Name is "Microsoft.AspNetCore" or "Grpc.Net.Client" or "System.Net.Http",
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => drops ? ActivitySamplingResult.PropagationData : ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = _ended.Enqueue,
        };
        ActivitySource.AddActivityListener(_listener);
    }

    /// <summary>Those that have ended.</summary>
    public IEnumerable<Activity> Ended => _ended.Where(span => span.Recorded);

    /// <summary>Likewise, with those that are not recorded.</summary>
    public IEnumerable<Activity> Made => _ended;

    /// <summary>Those of a name that have ended, the first one first.</summary>
    public IEnumerable<Activity> Of(string name) => Ended.Where(span => span.OperationName == name);

    /// <summary>What we do in the trace of a client's call, by name.</summary>
    public IEnumerable<string> PartsOf(string call)
    {
        ActivityTraceId trace = Of(call).Single().TraceId;
        return Ended.Where(span => span.TraceId == trace && span.Source.Name is "Vmm.Worker" or "Vmm.Registry").Select(span => span.OperationName).Order(StringComparer.Ordinal);
    }

    /// <summary>A span, the one it is in, and so on.</summary>
    public IEnumerable<Activity> AncestorsOf(Activity span)
    {
        for (Activity? next = span; next is not null; next = Ended.SingleOrDefault(parent => parent.SpanId == next!.ParentSpanId))
            yield return next;
    }

    public void Dispose() => _listener.Dispose();
}
