using Microsoft.Extensions.Logging;

namespace Vmm.Server;

/// <summary>What a process logs of its listening, one method for each message, made by the generator of logging.</summary>
internal static partial class ServerLog
{
    [LoggerMessage(LogLevel.Warning, "A connection was refused: {What}")]
    public static partial void ConnectionRefused(this ILogger log, string what);

    [LoggerMessage(LogLevel.Warning, "Others of the fleet will refuse this process: {Reason}")]
    public static partial void WillBeRefused(this ILogger log, string reason);
}
