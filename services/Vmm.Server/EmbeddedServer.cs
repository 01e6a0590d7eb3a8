using Vmm.Machine;

namespace Vmm.Server;

/// <summary>
/// A whole <c>vmmd</c> in this process: for <c>vmmctl run</c> without a server, and for tests. Any path may be named in a spec,
/// because whoever runs this process can read those files anyway.
/// </summary>
public sealed class EmbeddedServer : IAsyncDisposable
{
    private readonly VmmServer _server;
    private readonly string _folder;

    private EmbeddedServer(VmmServer server, string folder)
    {
        _server = server;
        _folder = folder;
    }

    /// <summary>Where it listens: a unix socket that only this user can open; on Windows a free loopback port.</summary>
    public string Address => _server.Address;

    /// <summary>Starts a server with the engine's machines; its state is in a temporary folder. Returns when it accepts calls.</summary>
    /// <exception cref="IOException">It cannot listen, or cannot write its state.</exception>
    public static Task<EmbeddedServer> StartAsync(CancellationToken cancellation = default) => StartAsync(new MachineFactory(), null, cancellation);

    /// <summary>As <see cref="StartAsync(CancellationToken)"/>, with machines of another make.</summary>
    /// <param name="machines">Makes the machines.</param>
    /// <param name="time">Real time for the machines; null for the system's.</param>
    /// <param name="cancellation">Gives up starting.</param>
    /// <exception cref="IOException">It cannot listen, or cannot write its state.</exception>
    public static async Task<EmbeddedServer> StartAsync(IMachineFactory machines, TimeProvider? time, CancellationToken cancellation = default)
    {
        string folder = Directory.CreateTempSubdirectory("vmmd-").FullName;
        try
        {
            var options = new ServerOptions
            {
                StateDirectory = Path.Combine(folder, "state"),
                AllowedPaths = null,
                IsEmbedded = true,
                Listen = OperatingSystem.IsWindows() ? "127.0.0.1:0" : $"unix:{Path.Combine(folder, "socket")}",
            };
            return new EmbeddedServer(await VmmServer.StartAsync(options, machines, time, cancellation), folder);
        }
        catch
        {
            Directory.Delete(folder, recursive: true);
            throw;
        }
    }

    /// <summary>Stops every VM, then the server, and removes the temporary folder.</summary>
    public async ValueTask DisposeAsync()
    {
        await _server.DisposeAsync();
        if (Directory.Exists(_folder))
            Directory.Delete(_folder, recursive: true);
    }
}
