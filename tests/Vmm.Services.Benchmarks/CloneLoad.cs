using System.Diagnostics;
using System.Globalization;
using System.Text;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Server;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// Clones of Debian's kernel at its shell prompt, on one server over a unix socket: how long it is from the call to the answer of a
/// command on the clone's console, and what many clones that wait at their prompts take of the host's memory and processors.
/// </summary>
internal static class CloneLoad
{
    private const int Rounds = 50;
    private const int PerCall = 64;
    private const int MemoryMib = 128;
    private static readonly TimeSpan Settling = TimeSpan.FromSeconds(15);
    private static readonly TimeSpan Measured = TimeSpan.FromSeconds(30);

    // What Debian's kernel wakes for while nothing is to be done: the check for lockups, compaction in advance, pressure statistics, those of memory
    // cgroups, IPv6's neighbours, and virtual-memory counters.
    private const string Quiet = " nowatchdog psi=0 cgroup_disable=memory ipv6.disable=1 sysctl.vm.compaction_proactiveness=0 sysctl.vm.stat_interval=3600";

    /// <param name="count">Clones that are to be there at once.</param>
    /// <param name="quiet">Whether the kernel is told on its command line to do without what it wakes for regularly.</param>
    public static async Task RunAsync(int count, bool quiet)
    {
        DebianGuests guests = DebianGuests.Default;
        DebianKernel kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        string initrd = await guests.BuildInitramfsAsync(new Initramfs(), null, CancellationToken.None);
        await using EmbeddedServer server = await EmbeddedServer.StartAsync();
        using VmmConnection connection = VmmConnection.Open(server.Address);
        Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest
        {
            VmId = "linux",
            Vm = new Vm
            {
                Spec = new VmSpec
                {
                    MemoryMib = MemoryMib,
                    Kernel = new FileSource { Path = kernel.KernelPath },
                    Initrd = new FileSource { Path = initrd },
                    CommandLine = "console=ttyS0 panic=-1" + (quiet ? Quiet : ""),
                },
            },
        });
        using (VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = vm.Name, Write = true }))
        {
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
            await ReadUntilAsync(console, Initramfs.Prompt);
            await AskAsync(console);
        }

        Snapshot snapshot = await connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "prompt", Snapshot = new Snapshot { Vm = vm.Name } });
        await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name, Force = true });
        Console.WriteLine($"a snapshot of {snapshot.SizeBytes >> 20} MiB, of a VM of {MemoryMib} MiB");
        await MeasureAnswersAsync(connection, snapshot.Name);
        await MeasureIdleAsync(connection, snapshot.Name, count);
    }

    private static async Task MeasureAnswersAsync(VmmConnection connection, string snapshot)
    {
        var called = new double[Rounds];
        var answered = new double[Rounds];
        for (int round = -5; round < Rounds; round++)
        {
            long start = Stopwatch.GetTimestamp();
            CloneVmResponse response = await connection.Vms.CloneVmAsync(new CloneVmRequest { Snapshot = snapshot });
            double call = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            Vm clone = response.Results[0].Vm;
            using (VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = clone.Name, Write = true }))
                await AskAsync(console);
            if (round >= 0)
                (called[round], answered[round]) = (call, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = clone.Name, Force = true });
        }

        Print("clone made", called);
        Print("clone answers", answered);
    }

    private static async Task MeasureIdleAsync(VmmConnection connection, string snapshot, int count)
    {
        Memory before = Memory.Now();
        long start = Stopwatch.GetTimestamp();
        for (int made = 0; made < count; made += PerCall)
        {
            CloneVmResponse response = await connection.Vms.CloneVmAsync(new CloneVmRequest { Snapshot = snapshot, Count = Math.Min(PerCall, count - made), VmIdPrefix = $"idle{made}" });
            if (response.Results.FirstOrDefault(result => result.Failure is not null) is { } missing)
                throw new InvalidOperationException($"{missing.Name}: {missing.Failure.Message}");
        }

        TimeSpan took = Stopwatch.GetElapsedTime(start);
        await Task.Delay(Settling);
        GC.Collect();
        Memory after = Memory.Now();
        using Process self = Process.GetCurrentProcess();
        using var engine = new EngineReading();
        IReadOnlyDictionary<string, double> counted = engine.Read();
        TimeSpan used = self.TotalProcessorTime;
        start = Stopwatch.GetTimestamp();
        await Task.Delay(Measured);
        self.Refresh();
        double busy = (self.TotalProcessorTime - used) / Stopwatch.GetElapsedTime(start);
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{count} idle clones in {took.TotalSeconds:F1} s ({count / took.TotalSeconds:F0} a second)   {(after.Resident - before.Resident) / (double)count:F0} KiB resident each, of it {(after.Managed - before.Managed) / (double)count:F0} KiB managed   {after.Resident >> 10} MiB in all   {busy * 100:F1} % of a processor, {busy * 100 / Environment.ProcessorCount:F1} % of {Environment.ProcessorCount}"));
        IReadOnlyDictionary<string, double> counts = engine.Read();
        double Rate(string name) => (counts[name] - counted[name]) / count / Measured.TotalSeconds;
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"each had {Rate("vmm.timer.expirations"):F2} timers, {Rate("vmm.interrupts"):F2} interrupts, {Rate("vmm.exits"):F2} exits, {Rate("vmm.page_walks"):F1} page walks and {Rate("vmm.traces.decoded"):F2} traces decoded a second, and executed {Rate("vmm.instructions"):F0} instructions in {Rate("vmm.cpu.time") * 1e6:F0} µs of one"));
        using VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = $"projects/default/vms/idle{(count - 1) / PerCall * PerCall}-1", Write = true });
        start = Stopwatch.GetTimestamp();
        await AskAsync(console);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"one of them answers after {Stopwatch.GetElapsedTime(start).TotalMilliseconds:F1} ms"));
    }

    private static async Task AskAsync(VmConsole console)
    {
        await console.WriteAsync("echo $((6 * 7))\n"u8.ToArray());
        await ReadUntilAsync(console, "42\r\n");
    }

    private static async Task ReadUntilAsync(VmConsole console, string text)
    {
        var seen = new StringBuilder();
        await foreach (ConsoleResponse response in console.ReadAsync())
        {
            seen.Append(response.Output?.Data.ToStringUtf8());
            if (response.RunEnded is not null)
                throw new InvalidOperationException($"The run ended after '{seen}'.");
            if (seen.ToString().Contains(text, StringComparison.Ordinal))
                return;
        }
    }

    private static void Print(string what, double[] taken)
    {
        Array.Sort(taken);
        Console.WriteLine($"{what,-14} median {taken[Rounds / 2],6:F1} ms   90 % {taken[Rounds * 9 / 10],6:F1} ms");
    }

    /// <summary>What this process takes, in KiB: its share of pages that it has in common with itself only counts once.</summary>
    private readonly record struct Memory(long Resident, long Managed)
    {
        public static Memory Now()
        {
            string line = File.ReadLines("/proc/self/smaps_rollup").First(line => line.StartsWith("Pss:", StringComparison.Ordinal));
            return new Memory(long.Parse(line["Pss:".Length..^"kB".Length], CultureInfo.InvariantCulture), GC.GetTotalMemory(forceFullCollection: true) >> 10);
        }
    }
}
