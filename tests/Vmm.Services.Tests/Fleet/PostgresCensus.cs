using Npgsql;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>What a registry in PostgreSQL keeps to count VMs by.</summary>
internal static class PostgresCensus
{
    /// <summary>It says what a look at each VM says.</summary>
    public static async Task AssertIsTrueAsync(string database)
    {
        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database);
        await using NpgsqlCommand compare = source.CreateCommand(
            """
            SELECT coalesce(kept.worker, there.worker), coalesce(kept.state, there.state), coalesce(kept.vms, 0), coalesce(there.vms, 0)
            FROM (SELECT * FROM vm_counts WHERE vms <> 0) AS kept
            FULL JOIN (SELECT worker, coalesce(state, 0) AS state, count(*) AS vms FROM vms WHERE vm IS NOT NULL AND worker IS NOT NULL GROUP BY 1, 2) AS there USING (worker, state)
            WHERE kept.vms IS DISTINCT FROM there.vms
            """);
        await using NpgsqlDataReader wrong = await compare.ExecuteReaderAsync();
        while (await wrong.ReadAsync())
            Assert.Fail($"{wrong.GetString(0)} in state {wrong.GetInt32(1)}: {wrong.GetInt64(2)} are counted, {wrong.GetInt64(3)} are there");
    }
}
