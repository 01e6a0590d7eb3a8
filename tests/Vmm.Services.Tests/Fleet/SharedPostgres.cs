using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>One server for all tests that do not stop it, started when the first asks for it; each has a schema of its own.</summary>
public sealed class SharedPostgres : IAsyncLifetime
{
    private readonly Lazy<Task<PostgresServer>> _server = new(PostgresServer.StartAsync);

    /// <summary>A connection string for a new, empty schema.</summary>
    public async Task<string> NewSchemaAsync() => await (await _server.Value).NewSchemaAsync();

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        if (_server.IsValueCreated)
            await (await _server.Value).DisposeAsync();
    }
}

/// <summary>Tests with a registry in PostgreSQL.</summary>
[CollectionDefinition(Name)]
public sealed class PostgresTests : ICollectionFixture<SharedPostgres>
{
    public const string Name = "PostgreSQL";
}
