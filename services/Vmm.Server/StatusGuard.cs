using Grpc.Core;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Primitives;
using Vmm.Protos;

namespace Vmm.Server;

/// <summary>
/// The last look at what leaves: statuses that gRPC itself made, outside every interceptor (a message that cannot be parsed,
/// is too large, or names an unknown method), get details as all others have, and a UNKNOWN among them gets a better code.
/// </summary>
internal static class StatusGuard
{
    /// <summary>The middleware.</summary>
    public static async Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        await next(context);
        if (context.Features.Get<IHttpResponseTrailersFeature>()?.Trailers is { IsReadOnly: false } trailers && trailers.ContainsKey("grpc-status"))
            Amend(trailers);
        else if (!context.Response.HasStarted && context.Response.Headers.ContainsKey("grpc-status"))
            Amend(context.Response.Headers);
    }

    private static void Amend(IHeaderDictionary headers)
    {
        if (!int.TryParse(headers["grpc-status"], out int number) || number == (int)StatusCode.OK || headers.ContainsKey(ApiError.DetailsTrailer))
            return;
        var code = (StatusCode)number;
        string message = Uri.UnescapeDataString(headers["grpc-message"].ToString());
        // What fails before a method's interceptor is reached is the reading of the request.
        RpcException amended = code is StatusCode.Unknown or StatusCode.Internal
            ? ApiError.Create(StatusCode.InvalidArgument, "MALFORMED_MESSAGE", "The request is not a message of this method.", null)
            : ApiError.Create(code, code.ToString().ToUpperInvariant(), message, null);
        headers["grpc-status"] = ((int)amended.StatusCode).ToString(System.Globalization.CultureInfo.InvariantCulture);
        headers["grpc-message"] = Uri.EscapeDataString(amended.Status.Detail);
        headers[ApiError.DetailsTrailer] = new StringValues(Convert.ToBase64String(amended.Trailers.GetValueBytes(ApiError.DetailsTrailer)!).TrimEnd('='));
    }
}
