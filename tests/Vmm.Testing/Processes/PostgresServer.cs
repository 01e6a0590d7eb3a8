using System.Diagnostics;
using Npgsql;

namespace Vmm.Testing.Processes;

/// <summary>
/// A PostgreSQL server of Debian's packages, in a temporary folder, on a unix socket. It ends with this process, however that ends.
/// </summary>
public sealed class PostgresServer : IAsyncDisposable
{
    private static int _schemas;

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-pg-").FullName;

    private string Data => Path.Combine(_folder, "data");

    /// <summary>Where it listens.</summary>
    public string Socket => Path.Combine(_folder, ".s.PGSQL.5432");

    /// <summary>Starts one with an empty database.</summary>
    public static async Task<PostgresServer> StartAsync()
    {
        var server = new PostgresServer();
        if (Environment.IsPrivilegedProcess)
            await RunAsync("chown", "postgres", server._folder);
        await RunAsUserAsync(DebianTool.PostgresProgram("initdb"), "-D", server.Data, "-A", "trust", "-U", "vmm", "--no-sync", "-E", "UTF8", "--locale=C");
        await server.ContinueAsync();
        return server;
    }

    /// <summary>A connection string for a new, empty schema.</summary>
    public async Task<string> NewSchemaAsync()
    {
        string name = $"test{Interlocked.Increment(ref _schemas)}";
        await using NpgsqlDataSource database = NpgsqlDataSource.Create(ConnectionString(""));
        await using NpgsqlCommand create = database.CreateCommand($"CREATE SCHEMA {name}");
        await create.ExecuteNonQueryAsync();
        return ConnectionString(name);
    }

    /// <summary>Starts the server again after <see cref="StopAsync"/>.</summary>
    public async Task ContinueAsync()
    {
        // What asks the kernel to end the server with its parent means the parent's thread, which therefore stays.
        var started = new TaskCompletionSource<Process>(TaskCreationOptions.RunContinuationsAsynchronously);
        new Thread(() =>
        {
            // Nothing here has to outlive the host's crash.
            using Process process = Launch(AsUser(
                ["--pdeathsig", "QUIT"],
                DebianTool.PostgresProgram("postgres"),
                "-D", Data, "-k", _folder, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-c", "unix_socket_permissions=0777"));
            started.SetResult(process);
            process.WaitForExit();
        })
        { IsBackground = true }.Start();
        await started.Task;
        for (int i = 0; ; i++)
        {
            try
            {
                await using NpgsqlDataSource database = NpgsqlDataSource.Create(ConnectionString("") + ";Pooling=false");
                await using NpgsqlCommand probe = database.CreateCommand("SELECT 1");
                await probe.ExecuteScalarAsync();
                return;
            }
            catch (NpgsqlException) when (i < 600)
            {
                await Task.Delay(50);
            }
        }
    }

    /// <summary>Ends the server as an operator would in a hurry: connections are cut.</summary>
    public Task StopAsync() => RunAsUserAsync(DebianTool.PostgresProgram("pg_ctl"), "-D", Data, "stop", "-m", "fast", "-w");

    /// <summary>Ends every connection but the one that says so.</summary>
    public async Task CutConnectionsAsync()
    {
        await using NpgsqlDataSource database = NpgsqlDataSource.Create(ConnectionString("") + ";Pooling=false");
        await using NpgsqlCommand cut = database.CreateCommand("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'");
        await cut.ExecuteScalarAsync();
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (File.Exists(Path.Combine(Data, "postmaster.pid")))
            await RunAsUserAsync(DebianTool.PostgresProgram("pg_ctl"), "-D", Data, "stop", "-m", "immediate", "-w");
        Directory.Delete(_folder, recursive: true);
    }

    private string ConnectionString(string schema) => $"Host={_folder};Username=vmm;Database=postgres;Search Path={schema};Maximum Pool Size=30";

    /// <summary>The server refuses to be root's.</summary>
    private static string[] AsUser(string[] options, params string[] command) => Environment.IsPrivilegedProcess
        ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", .. options, .. command]
        : ["setpriv", .. options, .. command];

    private static Task RunAsUserAsync(params string[] command) => RunAsync(AsUser([], command));

    private static async Task RunAsync(params string[] command)
    {
        using Process process = Launch(command);
        Task<string> errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        if (process.ExitCode != 0)
            throw new InvalidOperationException($"{string.Join(' ', command)} ended with {process.ExitCode}: {await errors}");
    }

    private static Process Launch(string[] command)
    {
        var start = new ProcessStartInfo(command[0], command[1..]) { RedirectStandardError = true, RedirectStandardOutput = true, WorkingDirectory = "/" };
        Process process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        return process;
    }
}
