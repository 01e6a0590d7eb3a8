using System.Diagnostics;

namespace Vmm.Registry;

/// <summary>Spans about VMs, in whatever process they are made. Without a listener nothing is made.</summary>
public static class ActivityExtensions
{
    /// <summary>Set on spans that are recorded although a sampler has dropped them.</summary>
    private const string Forced = "vmm.forced";

    /// <summary>Begins a span about a VM, which is the present one until it is disposed of; null where nobody listens.</summary>
    public static Activity? Start(this ActivitySource source, string span, string vm)
    {
        ArgumentNullException.ThrowIfNull(source);
        return source.StartActivity(span)?.SetTag("vmm.vm.name", vm);
    }

    /// <summary>Begins a span about a VM that ends elsewhere, perhaps on another thread; the present one stays what it is. Null where nobody listens.</summary>
    public static Activity? Begin(this ActivitySource source, string span, string vm)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (!source.HasListeners())
            return null;
        Activity? present = Activity.Current;
        Activity? activity = source.Start(span, vm);
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

    /// <summary>Has a span recorded, and those of this process that it is in, which a sampler has dropped.</summary>
    public static void ForceRecording(this Activity? span)
    {
        for (; span is { Recorded: false }; span = span.Parent)
        {
            span.IsAllDataRequested = true;
            span.ActivityTraceFlags |= ActivityTraceFlags.Recorded;
            span.SetCustomProperty(Forced, Forced);
        }
    }

    /// <summary>Whether a span is recorded only because of <see cref="ForceRecording"/>.</summary>
    public static bool IsForced(this Activity? span) => span?.GetCustomProperty(Forced) is not null;

    /// <summary>Notes that what a span is about has failed. Always false, so that an exception filter can be it.</summary>
    public static bool Fails(this Activity? span, Exception exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        span?.SetStatus(ActivityStatusCode.Error, exception is Grpc.Core.RpcException status ? status.Status.Detail : exception.GetType().Name);
        return false;
    }
}
