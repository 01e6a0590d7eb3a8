using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Vmm.Machine;
using Vmm.Machine.Migration;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Server;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// This assembly as a program: a <c>vmmd worker</c> whose machines are stubs. One that runs writes to the witness, files
/// that all workers share, again and again: which VM, which process, when, and how often
/// it has done so. Snapshots are shared with the workers of the same folder. A last argument names the certificate that it shows.
/// </summary>
internal static class StubWorker
{
    private static async Task<int> Main(string[] arguments)
    {
        if (arguments is not [var witness, var state, var registry, var id, var lease, .. var certificate])
            return 64;
        using var ending = new CancellationTokenSource();
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, signal =>
        {
            signal.Cancel = true;
            ending.Cancel();
        });
        var options = new ServerOptions
        {
            Role = ServerRole.Worker,
            StateDirectory = state,
            SharedSnapshotDirectory = Path.Combine(Path.GetDirectoryName(state)!, "shared"),
            Listen = "127.0.0.1:0",
            Registry = registry,
            WorkerId = id,
            WorkerLabels = new Dictionary<string, string> { ["id"] = id },
            FleetTls = certificate is [var files] ? LabCertificates.At(files) : null,
            LeaseDuration = TimeSpan.FromSeconds(int.Parse(lease, CultureInfo.InvariantCulture)),
            AllowedPaths = null,
            MaxVms = 1000,
            MaxVcpus = 1000,
            MaxRunningMemoryMib = 64_000,
            Verbose = true,
        };
        string? phases = Environment.GetEnvironmentVariable(MovePhase.Variable);
        await using VmmServer server = phases is null
            ? await VmmServer.StartAsync(options, new WitnessFactory(witness))
            : await VmmServer.StartAsync(
                options,
                new WitnessFactory(witness),
                TimeProvider.System,
                await MovePhase.OpenRegistryAsync(phases, id, registry, options.LeaseDuration),
                new MovePhase.Connector(phases, id));
        await Console.Out.WriteLineAsync($"vmmd listens on {server.Address}; stub");
        await Task.Delay(Timeout.Infinite, ending.Token).ContinueWith(static _ => { }, TaskScheduler.Default);
        return 0;
    }

    private sealed class WitnessFactory(string witness) : IMachineFactory
    {
        private readonly FakeFactory _fakes = new();
        private int _machines;

        public IMachine Create(MachineSpec spec, TimeProvider time)
        {
            var machine = (FakeMachine)_fakes.Create(spec, time);
            machine.InstructionsRetired = 0;
            return Begin(machine);
        }

        public IMachine Restore(MachineSpec spec, string directory, TimeProvider time) => Begin((FakeMachine)_fakes.Restore(spec, directory, time));

        public IMachineReceiver Receive(MachineSpec spec, TimeProvider time) => new WitnessReceiver(_fakes.Receive(spec, time), this);

        public ExecutionLoad Load => default;

        private FakeMachine Begin(FakeMachine machine)
        {
            machine.SavesState = true;
            new Thread(() => Write(machine)) { IsBackground = true }.Start();
            return machine;
        }

        private void Write(FakeMachine machine)
        {
            // A file for each machine: .NET appends where the file ended when it was opened, over what others have written since.
            string path = string.Create(CultureInfo.InvariantCulture, $"{witness}.{Environment.ProcessId}.{Interlocked.Increment(ref _machines)}");
            using var file = new FileStream(path, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, Share = FileShare.ReadWrite, BufferSize = 0 });
            while (machine.End is null && !machine.Disposed)
            {
                if (machine.RunState == MachineRunState.Running)
                    file.Write(System.Text.Encoding.ASCII.GetBytes(
                        string.Create(CultureInfo.InvariantCulture, $"{Path.GetFileName(machine.Spec.KernelPath)} {Environment.ProcessId} {Stopwatch.GetTimestamp()} {++machine.InstructionsRetired}\n")));
                Thread.Sleep(2);
            }
        }

        private sealed class WitnessReceiver(IMachineReceiver receiver, WitnessFactory factory) : IMachineReceiver
        {
            public int PageCount => receiver.PageCount;

            public void LoadPages(IReadOnlyList<PageRun> runs, ReadOnlySpan<byte> data) => receiver.LoadPages(runs, data);

            public void Check(SavedMachine saved) => receiver.Check(saved);

            public IMachine Complete(SavedMachine saved) => factory.Begin((FakeMachine)receiver.Complete(saved));

            public void Dispose() => receiver.Dispose();
        }
    }
}

/// <summary>What the witness saw: a VM ran in a process at a time, for the how manieth time in its life as it knows it.</summary>
internal readonly record struct Sighting(string Vm, int Process, long Time, ulong Count)
{
    /// <summary>All of them, in the order of time. A line that a killed process left unfinished is none.</summary>
    public static List<Sighting> Read(string witness) =>
        [.. Directory.GetFiles(Path.GetDirectoryName(witness)!, $"{Path.GetFileName(witness)}.*").SelectMany(ReadFile).OrderBy(sighting => sighting.Time)];

    private static List<Sighting> ReadFile(string path)
    {
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using var reader = new StreamReader(file);
        string text = reader.ReadToEnd();
        return [.. text[..(text.LastIndexOf('\n') + 1)].Split('\n').Select(line => line.Split(' ')).Where(parts => parts.Length == 4)
            .Select(parts => new Sighting(parts[0], int.Parse(parts[1], CultureInfo.InvariantCulture), long.Parse(parts[2], CultureInfo.InvariantCulture), ulong.Parse(parts[3], CultureInfo.InvariantCulture)))];
    }

    /// <summary>Whether any VM was seen in one process between two sightings in another.</summary>
    public static bool AnyRanTwice(IEnumerable<Sighting> sightings) => sightings.GroupBy(sighting => sighting.Vm).Any(vm =>
    {
        var spans = vm.GroupBy(sighting => sighting.Process).Select(run => (First: run.Min(s => s.Time), Last: run.Max(s => s.Time))).OrderBy(span => span.First).ToList();
        return spans.Zip(spans.Skip(1)).Any(pair => pair.First.Last >= pair.Second.First);
    });
}
