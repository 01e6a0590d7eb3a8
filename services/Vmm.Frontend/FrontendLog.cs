using Microsoft.Extensions.Logging;

namespace Vmm.Frontend;

/// <summary>What a front end logs, one method for each message, made by the generator of logging. Nothing of a guest's console is among it.</summary>
internal static partial class FrontendLog
{
    [LoggerMessage(LogLevel.Warning, "Workers could not be looked after: {Reason}")]
    public static partial void FailoverFailed(this ILogger log, string reason);

    [LoggerMessage(LogLevel.Warning, "The registry could not be told which streams are under way here: {Reason}")]
    public static partial void StreamsNotTold(this ILogger log, string reason);

    [LoggerMessage(LogLevel.Information, "{Worker} is given VMs of a worker that was lost")]
    public static partial void VmsGiven(this ILogger log, string worker);

    [LoggerMessage(LogLevel.Warning, "{Method} failed, because its worker cannot be reached: {Reason}")]
    public static partial void WorkerUnreachable(this ILogger log, string method, string reason);

    [LoggerMessage(LogLevel.Warning, "{Image} could not be copied to {Worker}: {Reason}")]
    public static partial void ImageNotCopied(this ILogger log, string image, string worker, string reason);

    [LoggerMessage(LogLevel.Error, "Incident {Incident}: {Method} failed")]
    public static partial void CallFailed(this ILogger log, string incident, string method, Exception exception);
}
