using Npgsql;
using NpgsqlTypes;

namespace Vmm.Registry.Postgres;

/// <summary>One transaction's statements, with positional parameters.</summary>
internal sealed class Transaction(NpgsqlConnection connection, CancellationToken cancellation)
{
    private readonly List<(string Sql, object?[] Parameters)> _deferred = [];

    /// <summary>
    /// Leaves a statement of which no result is wanted for later: it is sent with others, in one round trip, before the next one that is
    /// waited for or before the commit.
    /// </summary>
    public void Defer(string sql, params object?[] parameters) => _deferred.Add((sql, parameters));

    /// <summary>Sends what was left for later.</summary>
    public async Task FlushAsync()
    {
        if (_deferred.Count == 0)
            return;
        await using var batch = new NpgsqlBatch(connection);
        foreach ((string sql, object?[] parameters) in _deferred)
        {
            var command = new NpgsqlBatchCommand(sql);
            Add(command.Parameters, parameters);
            batch.BatchCommands.Add(command);
        }

        _deferred.Clear();
        await batch.ExecuteNonQueryAsync(cancellation);
    }

    /// <summary>Runs a statement; gives the number of rows that it changed.</summary>
    public async Task<int> ExecuteAsync(string sql, params object?[] parameters)
    {
        await using NpgsqlCommand command = await PrepareAsync(sql, parameters);
        return await command.ExecuteNonQueryAsync(cancellation);
    }

    /// <summary>Every row of a query.</summary>
    public async Task<List<T>> QueryAsync<T>(string sql, Func<NpgsqlDataReader, T> read, params object?[] parameters)
    {
        await using NpgsqlCommand command = await PrepareAsync(sql, parameters);
        await using NpgsqlDataReader reader = await command.ExecuteReaderAsync(cancellation);
        var rows = new List<T>();
        while (await reader.ReadAsync(cancellation))
            rows.Add(read(reader));
        return rows;
    }

    /// <summary>The first column of the only row, or default where there is none.</summary>
    public async Task<T?> ScalarAsync<T>(string sql, params object?[] parameters)
    {
        await using NpgsqlCommand command = await PrepareAsync(sql, parameters);
        return await command.ExecuteScalarAsync(cancellation) is T value ? value : default;
    }

    private async Task<NpgsqlCommand> PrepareAsync(string sql, object?[] parameters)
    {
        await FlushAsync();
        var command = new NpgsqlCommand(sql, connection);
        Add(command.Parameters, parameters);
        return command;
    }

    private static void Add(NpgsqlParameterCollection target, object?[] parameters)
    {
        foreach (object? value in parameters)
            target.Add(value switch
            {
                null => new NpgsqlParameter { Value = DBNull.Value },
                Json json => new NpgsqlParameter { Value = json.Text, NpgsqlDbType = NpgsqlDbType.Jsonb },
                byte[]?[] blobs => new NpgsqlParameter { Value = blobs, NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Bytea },
                _ => new NpgsqlParameter { Value = value },
            });
    }
}

/// <summary>A parameter of type jsonb.</summary>
internal readonly record struct Json(string Text);
