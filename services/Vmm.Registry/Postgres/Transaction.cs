using Npgsql;
using NpgsqlTypes;

namespace Vmm.Registry.Postgres;

/// <summary>One transaction's statements, with positional parameters.</summary>
internal sealed class Transaction(NpgsqlConnection connection, CancellationToken cancellation)
{
    /// <summary>Runs a statement; gives the number of rows that it changed.</summary>
    public async Task<int> ExecuteAsync(string sql, params object?[] parameters)
    {
        await using NpgsqlCommand command = Prepare(sql, parameters);
        return await command.ExecuteNonQueryAsync(cancellation);
    }

    /// <summary>Every row of a query.</summary>
    public async Task<List<T>> QueryAsync<T>(string sql, Func<NpgsqlDataReader, T> read, params object?[] parameters)
    {
        await using NpgsqlCommand command = Prepare(sql, parameters);
        await using NpgsqlDataReader reader = await command.ExecuteReaderAsync(cancellation);
        var rows = new List<T>();
        while (await reader.ReadAsync(cancellation))
            rows.Add(read(reader));
        return rows;
    }

    /// <summary>The first column of the only row, or default where there is none.</summary>
    public async Task<T?> ScalarAsync<T>(string sql, params object?[] parameters)
    {
        await using NpgsqlCommand command = Prepare(sql, parameters);
        return await command.ExecuteScalarAsync(cancellation) is T value ? value : default;
    }

    private NpgsqlCommand Prepare(string sql, object?[] parameters)
    {
        var command = new NpgsqlCommand(sql, connection);
        foreach (object? value in parameters)
            command.Parameters.Add(value switch
            {
                null => new NpgsqlParameter { Value = DBNull.Value },
                Json json => new NpgsqlParameter { Value = json.Text, NpgsqlDbType = NpgsqlDbType.Jsonb },
                byte[]?[] blobs => new NpgsqlParameter { Value = blobs, NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Bytea },
                _ => new NpgsqlParameter { Value = value },
            });
        return command;
    }
}

/// <summary>A parameter of type jsonb.</summary>
internal readonly record struct Json(string Text);
