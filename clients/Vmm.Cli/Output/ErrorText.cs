using System.Net.Sockets;
using System.Security.Authentication;
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
        if (IsOfConnection(failure))
            return $"the server cannot be reached: {Connection(failure)}";
        var text = error.ToText();
        if (text.Length == 0)
            text = failure.StatusCode.ToString();
        // The server speaks of the header, which is not for users of this program to send.
        if (error.Reason == "TOKEN_REQUIRED")
            text = "This server wants a token: --token-file FILE or VMM_TOKEN_FILE names a file with its secret, or VMM_TOKEN has the secret itself.";
        if (error.Code == StatusCode.NotFound && error.Metadata.TryGetValue("resource", out var missing) && missing == ResourceNames.Project(null))
            text += " --project or VMM_PROJECT names another project.";
        return error.Reason.Length == 0 ? text : $"{text} [{error.Reason}]";
    }

    /// <summary>Whether there was no server that could have answered.</summary>
    public static bool IsOfConnection(RpcException failure) =>
        VmmError.From(failure).Reason.Length == 0 && (failure.StatusCode == StatusCode.Unavailable || Causes(failure).Any(cause => cause is HttpRequestException));

    private static string Connection(RpcException failure)
    {
        var causes = Causes(failure).ToList();
        if (causes.OfType<VmmTrustException>().FirstOrDefault() is { } untrusted)
            return $"{untrusted.Message}. --ca FILE or VMM_CA names the authority to trust; 'vmmctl certs init' calls it ca.crt.";
        if (causes.OfType<VmmRefusedException>().FirstOrDefault() is { } refused)
            return $"{refused.Message}. {(refused.HasCertificate ? "It may not be one that is accepted there" : "It may want one: --cert and --key")}; the server's log says why.";
        if (causes.OfType<AuthenticationException>().Any())
            return "something answers there, but not with TLS. Without it, addresses begin with http://.";
        if (causes.OfType<SocketException>().Any(cause => cause.SocketErrorCode == SocketError.AddressNotAvailable))
            return "nothing listens at that socket. Is vmmd running there? (--server URL or VMM_SERVER names another.)";
        var reason = causes.Count > 0 ? causes[^1].Message.ReplaceLineEndings(" ").TrimEnd('.') : failure.Status.Detail;
        return causes.OfType<HttpRequestException>().Any(cause => cause.HttpRequestError is not (HttpRequestError.ConnectionError or HttpRequestError.NameResolutionError))
            ? $"something answers there and hangs up ({reason}). A server with TLS has an address with https://."
            : $"{reason}. Is vmmd running there? (--server URL or VMM_SERVER names another.)";
    }

    private static IEnumerable<Exception> Causes(RpcException failure)
    {
        for (Exception? cause = failure.Status.DebugException; cause is not null; cause = cause.InnerException)
            yield return cause;
    }
}
