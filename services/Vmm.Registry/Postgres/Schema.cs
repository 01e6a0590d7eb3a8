using System.Globalization;
using Npgsql;

namespace Vmm.Registry.Postgres;

/// <summary>The numbered migrations in <c>Migrations/</c>: each is applied once, in order, in a transaction of its own.</summary>
internal static class Schema
{
    /// <summary>Any number will do that nobody else takes in the database of a fleet.</summary>
    private const long MigrationLock = 0x766D_6D72_6567;

    /// <summary>Brings a database up to this program's version. Several processes may do so at once.</summary>
    /// <exception cref="InvalidOperationException">The database is of a later version, which this program does not know.</exception>
    public static async Task MigrateAsync(NpgsqlDataSource database, CancellationToken cancellation)
    {
        await using NpgsqlConnection connection = await database.OpenConnectionAsync(cancellation);
        await ExecuteAsync($"SELECT pg_advisory_lock({MigrationLock})");
        try
        {
            await ExecuteAsync("CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL, apply_time timestamptz NOT NULL DEFAULT clock_timestamp())");
            await using var query = new NpgsqlCommand("SELECT coalesce(max(number), 0) FROM schema_migrations", connection);
            int reached = (int)(await query.ExecuteScalarAsync(cancellation))!;
            IReadOnlyList<(int Number, string Name)> migrations = All();
            if (reached > migrations[^1].Number)
                throw new InvalidOperationException($"The registry's database is of version {reached}, and this program knows versions up to {migrations[^1].Number}.");
            foreach ((int number, string name) in migrations.Where(migration => migration.Number > reached))
            {
                await using NpgsqlTransaction transaction = await connection.BeginTransactionAsync(cancellation);
                await ExecuteAsync(Read(name));
                await using var note = new NpgsqlCommand("INSERT INTO schema_migrations (number, name) VALUES ($1, $2)", connection) { Parameters = { new() { Value = number }, new() { Value = name } } };
                await note.ExecuteNonQueryAsync(cancellation);
                await transaction.CommitAsync(cancellation);
            }
        }
        finally
        {
            await ExecuteAsync($"SELECT pg_advisory_unlock({MigrationLock})");
        }

        async Task ExecuteAsync(string sql)
        {
            await using var command = new NpgsqlCommand(sql, connection);
            await command.ExecuteNonQueryAsync(cancellation);
        }
    }

    /// <summary>Number and name of each, in order.</summary>
    public static IReadOnlyList<(int Number, string Name)> All() =>
        [.. typeof(Schema).Assembly.GetManifestResourceNames()
            .Where(name => name.EndsWith(".sql", StringComparison.Ordinal))
            .Select(name => (int.Parse(name.AsSpan(0, 4), CultureInfo.InvariantCulture), name))
            .Order()];

    private static string Read(string name)
    {
        using var reader = new StreamReader(typeof(Schema).Assembly.GetManifestResourceStream(name)!);
        return reader.ReadToEnd();
    }
}
