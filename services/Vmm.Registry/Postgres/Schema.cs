using System.Globalization;
using Npgsql;

namespace Vmm.Registry.Postgres;

/// <summary>
/// The numbered migrations in <c>Migrations/</c>: each is applied once, in order, in a transaction of its own. A database remembers which
/// programs it can still serve, so that one that is older than it knows whether it may.
/// </summary>
internal static class Schema
{
    /// <summary>Any number will do that nobody else takes in the database of a fleet.</summary>
    private const long MigrationLock = 0x766D_6D72_6567;

    /// <summary>
    /// Migrations that leave programs as they are which know the schema up to the second number only: that add what those neither read
    /// nor have to write. Any other needs programs that know it.
    /// </summary>
    private static readonly Dictionary<int, int> OldestPrograms = new() { [4] = 3, [5] = 3, [6] = 3, [7] = 3, [8] = 3 };

    /// <summary>Brings a database up to this program's version, and leaves one of a later version as it is. Several processes may do so at once.</summary>
    /// <exception cref="InvalidOperationException">The database is of a later version, which cannot serve this program.</exception>
    public static async Task MigrateAsync(NpgsqlDataSource database, CancellationToken cancellation)
    {
        await using NpgsqlConnection connection = await database.OpenConnectionAsync(cancellation);
        await ExecuteAsync($"SELECT pg_advisory_lock({MigrationLock})");
        try
        {
            await ExecuteAsync("CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL, apply_time timestamptz NOT NULL DEFAULT clock_timestamp())");
            await ExecuteAsync("ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS oldest_program integer");
            IReadOnlyList<(int Number, string Name)> migrations = All();
            (int reached, int oldest) = await ReachedAsync();
            if (oldest > migrations[^1].Number)
                throw new InvalidOperationException(
                    $"The registry's database is of version {reached}, which serves programs that know version {oldest}, and this one knows versions up to {migrations[^1].Number}: start a later one, or restore the dump that was taken before the upgrade.");
            foreach ((int number, string name) in migrations.Where(migration => migration.Number > reached))
            {
                await using NpgsqlTransaction transaction = await connection.BeginTransactionAsync(cancellation);
                await ExecuteAsync(Read(name));
                await using var note = new NpgsqlCommand("INSERT INTO schema_migrations (number, name, oldest_program) VALUES ($1, $2, $3)", connection)
                {
                    Parameters = { new() { Value = number }, new() { Value = name }, new() { Value = OldestPrograms.GetValueOrDefault(number, number) } },
                };
                await note.ExecuteNonQueryAsync(cancellation);
                await transaction.CommitAsync(cancellation);
            }
        }
        finally
        {
            await ExecuteAsync($"SELECT pg_advisory_unlock({MigrationLock})");
        }

        async Task<(int Reached, int Oldest)> ReachedAsync()
        {
            await using var query = new NpgsqlCommand("SELECT coalesce(max(number), 0), coalesce(max(coalesce(oldest_program, number)), 0) FROM schema_migrations", connection);
            await using NpgsqlDataReader reader = await query.ExecuteReaderAsync(cancellation);
            await reader.ReadAsync(cancellation);
            return (reader.GetInt32(0), reader.GetInt32(1));
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
