using Grpc.Core;
using Vmm.Client;

namespace Vmm.Cli.Output;

/// <summary>What users read of a call that failed.</summary>
internal static class ErrorText
{
    /// <summary>The server's message, and every field or precondition that it names on a line of its own.</summary>
    public static string Of(RpcException failure)
    {
        var error = VmmError.From(failure);
        if (failure.StatusCode == StatusCode.Unavailable && error.Reason.Length == 0)
            return $"the server cannot be reached: {Innermost(failure)}. Is vmmd running there? (--server URL or VMM_SERVER names another.)";
        var text = error.ToText();
        if (text.Length == 0)
            text = failure.StatusCode.ToString();
        return error.Reason.Length == 0 ? text : $"{text} [{error.Reason}]";
    }

    private static string Innermost(RpcException failure)
    {
        Exception? cause = failure.Status.DebugException;
        while (cause?.InnerException is { } inner)
            cause = inner;
        return cause?.Message ?? failure.Status.Detail;
    }
}
