using System.Net.Sockets;

namespace Vmm.Protos;

/// <summary>The way to a server that listens on a unix socket, for the connect callback of an HTTP handler.</summary>
public static class UnixSocketStream
{
    /// <summary>Connects.</summary>
    /// <returns>A stream that owns the connection.</returns>
    /// <exception cref="SocketException">Nobody listens there.</exception>
    public static async ValueTask<Stream> ConnectAsync(UnixDomainSocketEndPoint endPoint, CancellationToken cancellation)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await socket.ConnectAsync(endPoint, cancellation);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }
}
