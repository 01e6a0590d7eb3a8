using Npgsql;
using Vmm.Registry;
using Vmm.Registry.Postgres;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Skew;

/// <summary>Programs and databases of different versions: after an upgrade that is being rolled back, say.</summary>
[Collection(PostgresTests.Name)]
public sealed class SchemaSkewTests(SharedPostgres postgres)
{
    [RequiresPackageFact("postgresql")]
    public async Task A_program_works_on_a_later_schema_that_serves_it()
    {
        string database = await postgres.NewSchemaAsync();
        await (await PostgresRegistry.OpenAsync(database, new RegistryOptions())).DisposeAsync();
        // As a migration of a later version may leave it.
        await ExecuteAsync(database, "ALTER TABLE vms ADD COLUMN of_a_later_version text; CREATE TABLE of_a_later_version (number integer)");
        await ExecuteAsync(database, "INSERT INTO schema_migrations (number, name, oldest_program) SELECT 9999, 'of a later version', max(number) FROM schema_migrations");
        await using PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, new RegistryOptions());
        var registration = new WorkerRegistration { Name = "workers/w", Directory = "d", Address = "unix:/w", Capacity = new WorkerResources { Vms = 10, Vcpus = 10, MemoryMib = 1000 } };
        WorkerSession session = await registry.RegisterWorkerAsync(registration, WorkerInventory.Empty, CancellationToken.None);
        Located placed = await registry.PlaceVmAsync(new NewVm { Name = "projects/default/vms/vm", Spec = new VmSpec { MemoryMib = 10 } }, CancellationToken.None);
        Assert.Equal("workers/w", placed.Worker?.Name);
        await registry.ReportAsync(session.Lease, [new VmReport(new Vm { Name = "projects/default/vms/vm", Uid = "uid", Spec = new VmSpec { MemoryMib = 10 }, Status = new VmStatus { State = VmState.Stopped } })], CancellationToken.None);
        Assert.Single(await registry.ListVmsAsync("projects/default", CancellationToken.None));
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_process_that_a_later_schema_does_not_serve_says_so_and_leaves_it_as_it_is()
    {
        string database = await postgres.NewSchemaAsync();
        await (await PostgresRegistry.OpenAsync(database, new RegistryOptions())).DisposeAsync();
        await ExecuteAsync(database, "INSERT INTO schema_migrations (number, name, oldest_program) VALUES (9999, 'of a later version', 9998)");
        string folder = Directory.CreateTempSubdirectory("vmm-skew-").FullName;
        try
        {
            foreach (string[] role in (string[][])[["frontend"], ["worker", "--worker-id", "w", "--state", Path.Combine(folder, "state")]])
            {
                InvalidOperationException refused = await Assert.ThrowsAsync<InvalidOperationException>(
                    () => FleetProcess.StartAsync("vmmd.dll", [.. role, "--listen", $"unix:{Path.Combine(folder, "socket")}", "--registry", database]));
                Assert.Contains("The registry's database is of version 9999, which serves programs that know version 9998, and this one knows versions up to ", refused.Message, StringComparison.Ordinal);
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
        await using NpgsqlCommand workers = source.CreateCommand("SELECT count(*) FROM workers");
        Assert.Equal(0L, await workers.ExecuteScalarAsync());
    }

    private static async Task ExecuteAsync(string database, string sql)
    {
        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
        await using NpgsqlCommand command = source.CreateCommand(sql);
        await command.ExecuteNonQueryAsync();
    }
}
