using Vmm.Client;
using Vmm.Server;

namespace Vmm.Cli.Sessions;

/// <summary>A connection to a server, and the server itself where it is in this process.</summary>
internal sealed class Session : IAsyncDisposable
{
    private readonly EmbeddedServer? _embedded;

    private Session(VmmConnection connection, string? project, EmbeddedServer? embedded)
    {
        Connection = connection;
        Project = project;
        _embedded = embedded;
    }

    /// <summary>The connection.</summary>
    public VmmConnection Connection { get; }

    /// <summary>The project's id, or null for the default.</summary>
    public string? Project { get; }

    /// <summary><c>projects/{project}</c>.</summary>
    public string Parent => ResourceNames.Project(Project);

    /// <summary>Whether the server is in this process: it can read every file that this process can.</summary>
    public bool IsEmbedded => _embedded is not null;

    /// <exception cref="UsageException">This is no address, or the credentials cannot be used.</exception>
    public static Session Connect(string address, string? project, VmmCredentials credentials)
    {
        try
        {
            return new Session(VmmConnection.Open(address, credentials), project, embedded: null);
        }
        catch (ArgumentException wrong)
        {
            // Which of our parameters it was says nothing to users.
            throw new UsageException(wrong.ParamName is null ? wrong.Message : wrong.Message.Replace($" (Parameter '{wrong.ParamName}')", "", StringComparison.Ordinal));
        }
    }

    /// <summary>Starts a server in this process.</summary>
    public static async Task<Session> EmbedAsync(string? project, CancellationToken cancellation)
    {
        var server = await EmbeddedServer.StartAsync(cancellation).ConfigureAwait(false);
        return new Session(VmmConnection.Open(server.Address), project, server);
    }

    /// <summary>A VM's full name from what a user types.</summary>
    public string VmName(string nameOrId) => ResourceNames.Vm(nameOrId, Project);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        Connection.Dispose();
        if (_embedded is not null)
            await _embedded.DisposeAsync().ConfigureAwait(false);
    }
}
