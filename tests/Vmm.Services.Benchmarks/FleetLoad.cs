using System.Diagnostics;
using Vmm.Client;
using Vmm.Machine;
using Vmm.Server;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// How many lifecycle calls a second one front end takes, with one worker and PostgreSQL on the same machine: clients that each
/// create, label and delete VMs in turn, every call with a request id, every change in the worker's journal and in the database before
/// it is acknowledged. Kernels are never loaded. What counts is a service that has been up for a minute.
/// </summary>
internal static class FleetLoad
{
    private const int Clients = 64;
    // The runtime instruments and compiles again what is called often: for half a minute that takes a third of the processors.
    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan Measured = TimeSpan.FromSeconds(20);

    /// <summary>What the VMs of this run are called: a database that was used before may have those of a run that was broken off.</summary>
    private static readonly string Run = $"r{Guid.NewGuid():n}"[..12];

    /// <param name="registry">A connection string of a database without workers that live.</param>
    public static async Task RunAsync(string registry)
    {
        string folder = Directory.CreateTempSubdirectory("vmm-bench-").FullName;
        try
        {
            string kernel = Path.Combine(folder, "kernel");
            await File.WriteAllTextAsync(kernel, "kernel");
            await using VmmServer worker = await VmmServer.StartAsync(
                new ServerOptions { Role = ServerRole.Worker, StateDirectory = Path.Combine(folder, "state"), Listen = $"unix:{folder}/worker", Registry = registry, AllowedPaths = null, MaxVcpus = 1_000_000 },
                new MachineFactory());
            await using VmmServer frontend = await VmmServer.StartAsync(
                new ServerOptions { Role = ServerRole.Frontend, StateDirectory = folder, Listen = $"unix:{folder}/frontend", Registry = registry }, new MachineFactory());
            using VmmConnection connection = VmmConnection.Open(frontend.Address);
            var taken = new List<double>();
            long begin = Stopwatch.GetTimestamp();
            TimeSpan used = Process.GetCurrentProcess().TotalProcessorTime;
            await Task.WhenAll(Enumerable.Range(0, Clients).Select(client => Task.Run(() => CallAsync(connection, kernel, client, begin, taken))));
            used = Process.GetCurrentProcess().TotalProcessorTime - used;
            taken.Sort();
            Console.WriteLine(
                $"{taken.Count / Measured.TotalSeconds:F0} calls/s by {Clients} clients   median {taken[taken.Count / 2]:F1} ms   99 % {taken[taken.Count * 99 / 100]:F1} ms   {used / (WarmUp + Measured) * 100:F0} % of a processor, without the database");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task CallAsync(VmmConnection connection, string kernel, int client, long begin, List<double> taken)
    {
        string name = $"projects/default/vms/{Run}-{client}";
        // Whole rounds, so that none leaves a VM.
        for (int call = 0; call % 3 != 0 || Stopwatch.GetElapsedTime(begin) < WarmUp + Measured; call++)
        {
            long start = Stopwatch.GetTimestamp();
            switch (call % 3)
            {
                case 0:
                    await connection.Vms.CreateVmAsync(new CreateVmRequest
                    {
                        VmId = $"{Run}-{client}",
                        Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } },
                    });
                    break;
                case 1:
                    await connection.Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = name, Labels = { ["call"] = $"{call}" } } });
                    break;
                default:
                    await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = name });
                    break;
            }

            if (Stopwatch.GetElapsedTime(begin, start) is var at && (at < WarmUp || at >= WarmUp + Measured))
                continue;
            lock (taken)
                taken.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
    }
}
