using System.Net.Sockets;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;

namespace Vmm.Frontend.Fleet;

/// <summary>How calls of workers fail.</summary>
internal static class WorkerFailure
{
    /// <summary>
    /// Whether a call failed before or besides any answer of its worker, which is down or hangs: what workers say has details. gRPC has several codes for that,
    /// INTERNAL among them and CANCELLED where a handshake takes too long, and speaks of connections.
    /// </summary>
    public static bool IsOfConnection(RpcException exception) =>
        !ApiError.HasDetails(exception) && (exception.StatusCode == StatusCode.Cancelled || exception.Status.DebugException is HttpRequestException or SocketException or (IOException and not InvalidProtocolBufferException));

    /// <summary>What broke, for the log of this front end.</summary>
    public static string ReasonOf(RpcException exception) => exception.Status.DebugException?.GetBaseException().Message ?? exception.Status.Detail;
}
