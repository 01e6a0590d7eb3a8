namespace Vmm.Protos;

/// <summary>
/// Makes requests over TLS, and gives the failure a name where the other end hangs up as soon as the handshake is done. With TLS 1.3 that is over for a client before the server has looked
/// at its certificate (RFC 8446, 4.4), so that whoever is refused sees a connection that breaks off, and no reason.
/// </summary>
public sealed class RefusalHandler : DelegatingHandler
{
    private IOException? _refusal;

    /// <param name="connections">Makes the connections. It is this handler's, and must not be in use yet.</param>
    /// <param name="refusal">Makes what such a failure's cause is to be.</param>
    public RefusalHandler(SocketsHttpHandler connections, Func<IOException> refusal)
        : base(connections)
    {
        ArgumentNullException.ThrowIfNull(connections);
        connections.PlaintextStreamFilter = (context, _) =>
            ValueTask.FromResult<Stream>(new FirstWordStream(context.PlaintextStream, hasSpoken => Volatile.Write(ref _refusal, hasSpoken ? null : refusal())));
    }

    /// <inheritdoc/>
    protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
    {
        try
        {
            return await base.SendAsync(request, cancellationToken);
        }
        catch (HttpRequestException broken) when (
            broken.HttpRequestError is not (HttpRequestError.ConnectionError or HttpRequestError.NameResolutionError or HttpRequestError.SecureConnectionError) && Volatile.Read(ref _refusal) is { } refused)
        {
            throw new HttpRequestException(broken.HttpRequestError, refused.Message, refused);
        }
    }
}
