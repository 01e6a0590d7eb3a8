using System.Diagnostics;

namespace Vmm.Registry;

/// <summary>Spans of what is done for the whole fleet. Catalogued in the README of <c>services</c>; without a listener nothing is made.</summary>
public static class RegistryTraces
{
    /// <summary>The source's name.</summary>
    public const string SourceName = "Vmm.Registry";

    /// <summary>A new VM gets its worker.</summary>
    public const string Placement = "placement";

    /// <summary>A placement waits for those before it.</summary>
    public const string Queue = "placement.queue";

    /// <summary>Placements that waited together are made.</summary>
    public const string Batch = "placement.batch";

    /// <summary>The source.</summary>
    public static ActivitySource Source { get; } = new(SourceName);

    /// <summary>Begins a span about a VM, which is the present one until it is disposed of; null where nobody listens.</summary>
    public static Activity? Start(string span, string vm)
    {
        Activity? activity = Source.StartActivity(span);
        activity?.SetTag("vmm.vm.name", vm);
        return activity;
    }

    /// <summary>Begins a span about a VM that another thread may end; the present one stays what it is. Null where nobody listens.</summary>
    public static Activity? Begin(string span, string vm)
    {
        if (!Source.HasListeners())
            return null;
        Activity? present = Activity.Current;
        Activity? activity = Start(span, vm);
        Activity.Current = present;
        return activity;
    }

    /// <summary>Ends a span that <see cref="Begin"/> began, on whatever thread; the present span stays what it is.</summary>
    public static void Finish(this Activity span)
    {
        ArgumentNullException.ThrowIfNull(span);
        Activity? present = Activity.Current;
        span.Dispose();
        Activity.Current = present;
    }

    /// <summary>Notes that what a span is about has failed. Always false, so that an exception filter can be it.</summary>
    public static bool Fails(this Activity? span, Exception exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        span?.SetStatus(ActivityStatusCode.Error, exception is Grpc.Core.RpcException status ? status.Status.Detail : exception.GetType().Name);
        return false;
    }
}
