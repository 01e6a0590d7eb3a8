using System.Diagnostics;
using System.Globalization;
using Npgsql;
using Vmm.Registry;
using Vmm.Registry.Postgres;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// What it costs to know how many VMs of a fleet are in which state, with 10,000 workers and 1,000,000 VMs in PostgreSQL: the registry's
/// census next to a look at every VM, by turns; and what keeping the counts adds to a report of four VMs that change their state, with its triggers and
/// without them, by turns. Medians.
/// </summary>
internal static class CensusCost
{
    private const int Workers = 10_000, Vms = 1_000_000, Counts = 15, Blocks = 10, Reports = 200;

    /// <param name="database">A connection string of an empty database.</param>
    public static async Task RunAsync(string database)
    {
        await using PostgresRegistry registry = await PostgresRegistry.OpenAsync(database, new RegistryOptions());
        await using NpgsqlDataSource source = NpgsqlDataSource.Create(database + ";Command Timeout=600");
        await FillAsync(source);
        var census = new List<double>();
        var scan = new List<double>();
        for (int k = 0; k < Counts; k++)
        {
            long total = 0;
            census.Add(await TimeAsync(async () => total = (await registry.CountAsync(CancellationToken.None)).Vms.Values.Sum()));
            if (total != Vms)
                throw new InvalidOperationException($"{total} VMs are counted.");
            scan.Add(await TimeAsync(() => ExecuteAsync(source, "SELECT state, count(*) FROM vms WHERE vm IS NOT NULL GROUP BY 1")));
        }

        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Vms} VMs on {Workers} workers: census {Median(census):0.0} ms, a look at each VM {Median(scan):0.0} ms, {Median(scan) / Median(census):0} times as long"));
        var with = new List<double>();
        var without = new List<double>();
        // Half the workers' VMs are reported with the triggers and half without, so that both find the same.
        for (int block = 0; block < Blocks; block++)
        {
            with.Add(await ReportAsync(source, block * 2));
            await ExecuteAsync(source, "ALTER TABLE vms DISABLE TRIGGER vms_count_update");
            without.Add(await ReportAsync(source, block * 2 + 1));
            await ExecuteAsync(source, "ALTER TABLE vms ENABLE TRIGGER vms_count_update");
        }

        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"a report of four VMs: {Median(with):0.000} ms with the counts, {Median(without):0.000} ms without, {Median(with) / Median(without):0.00} times as long"));
    }

    private static async Task FillAsync(NpgsqlDataSource source)
    {
        await ExecuteAsync(source, $$"""
            INSERT INTO workers (name, directory, address, version, incarnation, labels, engines, state, capacity_vms, capacity_vcpus, capacity_memory_mib, register_time, lease_until)
            SELECT 'workers/w' || i, 'd' || i, 'http://w' || i, '0', i, '{}', '{1}', 1, 1000, 1000, 1000000, now(), now() + interval '1 day' FROM generate_series(0, {{Workers - 1}}) AS i;
            ALTER TABLE vms DISABLE TRIGGER vms_reserve;
            INSERT INTO vms (name, project, generation, worker, vcpus, memory_mib, labels, spec, vm, moves, state)
            SELECT 'projects/p' || i % 100 || '/vms/vm' || i, 'projects/p' || i % 100, 1, 'workers/w' || i % {{Workers}}, 1, 64, '{"app": "ci"}',
                decode(repeat('ab', 150), 'hex'), decode(repeat('cd', 400), 'hex'), true, 1 + i % 5 FROM generate_series(0, {{Vms - 1}}) AS i;
            ALTER TABLE vms ENABLE TRIGGER vms_reserve
            """);
        await ExecuteAsync(source, "VACUUM ANALYZE");
    }

    private static async Task<double> ReportAsync(NpgsqlDataSource source, int block)
    {
        var taken = new List<double>();
        await using NpgsqlConnection connection = await source.OpenConnectionAsync();
        for (int k = 0; k < Reports; k++)
        {
            int first = block * Reports + k;
            string names = string.Join(',', Enumerable.Range(0, 4).Select(j => first + j * Workers).Select(i => $"'projects/p{i % 100}/vms/vm{i}'"));
            await using var report = new NpgsqlCommand($"UPDATE vms SET vm = vm || '', state = 1 + state % 5 WHERE name IN ({names})", connection);
            taken.Add(await TimeAsync(async () => await report.ExecuteNonQueryAsync()));
        }

        return Median(taken);
    }

    private static async Task<double> TimeAsync(Func<Task> what)
    {
        long begin = Stopwatch.GetTimestamp();
        await what();
        return Stopwatch.GetElapsedTime(begin).TotalMilliseconds;
    }

    private static async Task ExecuteAsync(NpgsqlDataSource source, string sql)
    {
        await using NpgsqlCommand command = source.CreateCommand(sql);
        await command.ExecuteNonQueryAsync();
    }

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);
}
