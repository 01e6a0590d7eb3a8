using System.Text.Json;
using Npgsql;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Registry.Postgres;

/// <summary>A registry in a PostgreSQL database, for any number of front ends and workers. Time is the database's.</summary>
public sealed partial class PostgresRegistry : IRegistry
{
    private const int MaxAttempts = 8;
    private const int MaxConnectSeconds = 5;
    private const int LeaseIdleDivisor = 6;
    private const int MaxLostConnections = 3;
    private static readonly TimeSpan ShortestIdle = TimeSpan.FromSeconds(5);

    /// <summary>The SQLSTATE of a session that was ended because of that.</summary>
    private const string IdleInTransactionTimeout = "25P03";
    private static readonly TimeSpan FirstPoll = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan LongestPoll = TimeSpan.FromMilliseconds(200);

    private const int PlacementConnections = 2;

    private readonly NpgsqlDataSource _database;

    /// <summary>
    /// For placements, which do not wait for the database's disk: nobody has been told of one, and if a crash of the database loses it, the
    /// report of the VM that came of it makes it again.
    /// </summary>
    private readonly NpgsqlDataSource _placements;
    private readonly PlacementQueue _queue;
    private readonly RegistryOptions _options;
    private readonly TimeProvider _time;
    private readonly string _epoch;

    private PostgresRegistry(NpgsqlDataSource database, NpgsqlDataSource placements, RegistryOptions options, TimeProvider time, string epoch)
    {
        _database = database;
        _placements = placements;
        _queue = new PlacementQueue(PlaceAsync);
        _options = options;
        _time = time;
        _epoch = epoch;
    }

    /// <summary>Connects, and brings the database's schema up to this program's version.</summary>
    /// <param name="connectionString">As Npgsql has them: <c>Host=...;Database=...;Username=...</c>.</param>
    /// <param name="options">What is remembered and for how long. The lease's duration should be the same in all processes.</param>
    /// <param name="time">For waiting between looks; null for the system's.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="Grpc.Core.RpcException">UNAVAILABLE: there is no database to be reached.</exception>
    /// <exception cref="InvalidOperationException">The database is of a later version, or refuses: there is none of that name, or the user may not use it.</exception>
    /// <exception cref="ArgumentException">This is no connection string.</exception>
    public static async Task<PostgresRegistry> OpenAsync(string connectionString, RegistryOptions options, TimeProvider? time = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var settings = Parse(connectionString);
        settings.MaxAutoPrepare = 64;
        settings.ApplicationName = "vmmd";
        settings.Timeout = Math.Min(settings.Timeout, MaxConnectSeconds);
        // A process that is stopped in the middle of a transaction must not keep its locks: they would hold up the loss of its own lease.
        TimeSpan idle = options.LeaseDuration / LeaseIdleDivisor;
        settings.Options = FormattableString.Invariant(
            $"{settings.Options} -c idle_in_transaction_session_timeout={(idle < ShortestIdle ? ShortestIdle : idle).TotalMilliseconds:0}").TrimStart();
        NpgsqlDataSource database = new NpgsqlDataSourceBuilder(settings.ConnectionString).Build();
        settings.Options += " -c synchronous_commit=off";
        settings.MaxPoolSize = PlacementConnections;
        settings.MinPoolSize = Math.Min(settings.MinPoolSize, PlacementConnections);
        NpgsqlDataSource placements = new NpgsqlDataSourceBuilder(settings.ConnectionString).Build();
        try
        {
            await Schema.MigrateAsync(database, cancellation);
            await using NpgsqlCommand epoch = database.CreateCommand("SELECT epoch FROM registry");
            return new PostgresRegistry(database, placements, options, time ?? TimeProvider.System, (string)(await epoch.ExecuteScalarAsync(cancellation))!);
        }
        catch (Exception exception)
        {
            await database.DisposeAsync();
            await placements.DisposeAsync();
            // Whoever starts the process hears what the matter is: there are no clients yet.
            if (IsUnreachable(exception))
                throw ApiError.Unavailable("REGISTRY_UNAVAILABLE", $"The fleet's registry cannot be reached: {exception.Message}");
            if (exception is PostgresException refusal)
                throw new InvalidOperationException($"The fleet's registry refuses: {refusal.MessageText}", refusal);
            throw;
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _placements.DisposeAsync();
        await _database.DisposeAsync();
    }

    /// <summary>
    /// Runs one transaction. A conflict with another that the database cannot resolve is tried again, and so is a connection that was
    /// lost before the commit: the database was restarted, or took this process for stopped.
    /// </summary>
    private Task<T> TransactAsync<T>(CancellationToken cancellation, Func<Transaction, Task<T>> work) => TransactAsync(_database, cancellation, work);

    private async Task<T> TransactAsync<T>(NpgsqlDataSource database, CancellationToken cancellation, Func<Transaction, Task<T>> work)
    {
        for (int attempt = 1; ; attempt++)
        {
            bool committing = false;
            try
            {
                await using NpgsqlConnection connection = await database.OpenConnectionAsync(cancellation);
                await using NpgsqlTransaction transaction = await connection.BeginTransactionAsync(cancellation);
                var sql = new Transaction(connection, cancellation);
                T result = await work(sql);
                await sql.FlushAsync();
                committing = true;
                await transaction.CommitAsync(cancellation);
                return result;
            }
            catch (PostgresException exception) when (exception.SqlState is PostgresErrorCodes.DeadlockDetected or PostgresErrorCodes.SerializationFailure && attempt < MaxAttempts)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(Random.Shared.Next(1, 5 << attempt)), _time, cancellation);
            }
            catch (Exception exception) when (!committing && attempt < MaxLostConnections && IsUnreachable(exception))
            {
                // Nothing was done. A pool of dead connections gives out a live one sooner or later.
            }
            catch (Exception exception) when (IsUnreachable(exception))
            {
                throw Unreachable(exception);
            }
        }
    }

    private static NpgsqlConnectionStringBuilder Parse(string connectionString)
    {
        try
        {
            return new NpgsqlConnectionStringBuilder(connectionString);
        }
        catch (ArgumentException exception)
        {
            throw new ArgumentException($"--registry is no connection string: {exception.Message}", exception);
        }
    }

    /// <summary>A single query needs no transaction of its own, which would be two more round trips.</summary>
    private async Task<T> ReadAsync<T>(CancellationToken cancellation, Func<Transaction, Task<T>> query)
    {
        try
        {
            await using NpgsqlConnection connection = await _database.OpenConnectionAsync(cancellation);
            return await query(new Transaction(connection, cancellation));
        }
        catch (Exception exception) when (IsUnreachable(exception))
        {
            throw Unreachable(exception);
        }
    }

    /// <summary>Whether the database is away, shutting down or overloaded, and not at odds with what was asked.</summary>
    private static bool IsUnreachable(Exception exception) => exception switch
    {
        PostgresException refused => refused.IsTransient || refused.SqlState is PostgresErrorCodes.AdminShutdown or IdleInTransactionTimeout or PostgresErrorCodes.CrashShutdown or PostgresErrorCodes.CannotConnectNow,
        NpgsqlException or System.Net.Sockets.SocketException or TimeoutException => true,
        _ => false,
    };

    // What the database says of itself and of the way to it is for the operator's log, and not for clients.
    private static Exception Unreachable(Exception exception) =>
        ApiError.Unavailable("REGISTRY_UNAVAILABLE", $"The fleet's registry cannot be reached at the moment ({exception.GetType().Name}).");

    private static Json ToJson(IEnumerable<KeyValuePair<string, string>> labels) => new(ToJsonText(labels));

    private static string ToJsonText(IEnumerable<KeyValuePair<string, string>> labels) => JsonSerializer.Serialize(labels.ToDictionary(label => label.Key, label => label.Value, StringComparer.Ordinal));

    private static Dictionary<string, string> FromJson(string text) => JsonSerializer.Deserialize<Dictionary<string, string>>(text)!;

    private static string ProjectOf(string name) => name[..name.IndexOf('/', "projects/".Length)];

    private static Vm? ReadVm(NpgsqlDataReader row, int column) => row.IsDBNull(column) ? null : Vm.Parser.ParseFrom(row.GetFieldValue<byte[]>(column));
}
