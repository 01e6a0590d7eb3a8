using System.Diagnostics;
using System.Text;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Machine;
using Vmm.Registry;
using Vmm.Registry.InMemory;
using Vmm.Server;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// How long a running Linux of 1 GiB stands while it moves between two workers on one machine, how much is sent for it, and how often its
/// memory is gone through. The guest has half of its memory filled with what is not zero, writes 4 MiB of it again and again, and prints a line again and again: the longest
/// silence of its console during the moves is what somebody notices, next to the longest one before.
/// </summary>
internal static class MigrationPause
{
    private const int MemoryMib = 1024;
    private const int Moves = 10;
    private const double BudgetMilliseconds = 300;

    /// <summary>Fills half of the memory, and then writes a part of it again and again.</summary>
    private const string Script = """
        mount -t tmpfs -o size=90% tmpfs /tmp
        yes | head -c 1048576 > /tmp/one
        for i in $(seq 512); do cat /tmp/one; done > /tmp/half
        while :; do cat /tmp/one /tmp/one /tmp/one /tmp/one > /tmp/again; done &
        wc -c /tmp/half
        while :; do echo tick; done
        """;
    private const string FilledLine = "536870912 /tmp/half";
    private const string Name = "projects/default/vms/linux";

    public static async Task RunAsync()
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("vmm-bench-");
        try
        {
            DebianGuests guests = DebianGuests.Default;
            DebianKernel kernel = await guests.GetKernelAsync(null, CancellationToken.None);
            string initrd = await guests.BuildInitramfsAsync(
                new Initramfs { Script = Script }, null, CancellationToken.None);
            await using var registry = new InMemoryRegistry(new RegistryOptions(), TimeProvider.System);
            await using VmmServer a = await StartAsync(ServerRole.Worker, "a"), b = await StartAsync(ServerRole.Worker, "b"), frontend = await StartAsync(ServerRole.Frontend, "frontend");
            using VmmConnection connection = VmmConnection.Open(frontend.Address);
            var spec = new VmSpec { MemoryMib = MemoryMib, Kernel = new FileSource { Path = kernel.KernelPath }, Initrd = new FileSource { Path = initrd }, CommandLine = "console=ttyS0 quiet" };
            await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = "linux", Vm = new Vm { Spec = spec } });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = Name });
            using VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = Name });
            var silence = new Silence();
            _ = silence.ListenAsync(console);
            await silence.Filled;
            silence.Take();
            await Task.Delay(TimeSpan.FromSeconds(5));
            double before = silence.Take();
            var pauses = new List<double>();
            for (int move = 0; move < Moves; move++)
            {
                long begun = Stopwatch.GetTimestamp();
                MigrateVmResponse moved = await connection.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, MaxPause = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMilliseconds(BudgetMilliseconds)) });
                double took = Stopwatch.GetElapsedTime(begun).TotalSeconds;
                await Task.Delay(TimeSpan.FromSeconds(1));
                pauses.Add(moved.Pause.ToTimeSpan().TotalMilliseconds);
                Console.WriteLine(
                    $"{moved.SourceWorker} to {moved.Vm.Status.Worker}: pause {pauses[^1]:F0} ms, longest silence {silence.Take():F0} ms (before {before:F0} ms), {moved.Rounds} rounds, {moved.TransferredBytes >> 20} MiB in {took:F1} s");
            }

            pauses.Sort();
            Console.WriteLine($"pause of {Moves} moves: median {pauses[Moves / 2]:F0} ms, longest {pauses[^1]:F0} ms; longest : bar of {BudgetMilliseconds:F0} ms = {pauses[^1] / BudgetMilliseconds:F2}");
            await connection.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });

            Task<VmmServer> StartAsync(ServerRole role, string id) => VmmServer.StartAsync(
                new ServerOptions { Role = role, StateDirectory = Path.Combine(folder.FullName, id), WorkerId = role == ServerRole.Worker ? id : null, Listen = $"unix:{folder.FullName}/{id}.socket", AllowedPaths = null },
                new MachineFactory(),
                TimeProvider.System,
                registry,
                null);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    /// <summary>The longest time in which nothing came from a console.</summary>
    private sealed class Silence
    {
        private readonly TaskCompletionSource _filled = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly Lock _lock = new();
        private long _last = Stopwatch.GetTimestamp();
        private double _longest;

        public Task Filled => _filled.Task;

        public async Task ListenAsync(VmConsole console)
        {
            var text = new StringBuilder();
            try
            {
                await foreach (ConsoleResponse response in console.ReadAsync())
                {
                    lock (_lock)
                    {
                        _longest = Math.Max(_longest, Stopwatch.GetElapsedTime(_last).TotalMilliseconds);
                        _last = Stopwatch.GetTimestamp();
                    }

                    if (_filled.Task.IsCompleted)
                        continue;
                    text.Append(response.Output?.Data.ToStringUtf8());
                    if (text.ToString().Contains(FilledLine, StringComparison.Ordinal))
                        _filled.TrySetResult();
                }
            }
            catch (Grpc.Core.RpcException exception)
            {
                _filled.TrySetException(exception);
            }
        }

        public double Take()
        {
            lock (_lock)
            {
                double longest = _longest;
                _longest = 0;
                return longest;
            }
        }
    }
}
