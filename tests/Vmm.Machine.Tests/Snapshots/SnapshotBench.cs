using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Iced.Intel;
using Vmm.Machine.Log;
using Vmm.Machine.Tests.Guests;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>What a run came to.</summary>
internal sealed record RunOutcome(string Console, MachineEnd End, ulong Instructions, string Registers, string Memory);

/// <summary>Runs a guest under the virtual clock to its end, straight or by way of a snapshot.</summary>
internal sealed class SnapshotBench : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly TemporaryFolder _folder = new();
    private int _snapshots;

    public SnapshotBench(Action<Assembler> program, int cpus = 1, Func<MachineSpec, MachineSpec>? change = null)
    {
        var spec = new MachineSpec { MemoryBytes = 4 << 20, KernelPath = GuestProgram.Write(_folder, program), Clock = ClockMode.Virtual, Cpus = cpus, Engine = TestMachines.Engine };
        Spec = change?.Invoke(spec) ?? spec;
    }

    public SnapshotBench(byte[] kernel, Func<MachineSpec, MachineSpec>? change = null)
    {
        string path = Path.Combine(_folder.Path, "kernel");
        File.WriteAllBytes(path, kernel);
        var spec = new MachineSpec { MemoryBytes = 16 << 20, KernelPath = path, Clock = ClockMode.Virtual, Engine = TestMachines.Engine };
        Spec = change?.Invoke(spec) ?? spec;
    }

    public MachineSpec Spec { get; }

    /// <summary>What comes from outside.</summary>
    public IReadOnlyList<LoggedInput> Inputs { get; init; } = [];

    /// <summary>A run that is never interrupted.</summary>
    public RunOutcome Run()
    {
        var console = new StringBuilder();
        using Machine machine = Create(console);
        machine.Start();
        return Outcome(machine, console);
    }

    /// <summary>A machine that stands at an instruction. What it prints goes to the console.</summary>
    public Machine RunTo(ulong instructions, StringBuilder console)
    {
        Machine machine = Create(console);
        Task paused = machine.PauseAt(instructions);
        machine.Start();
        Assert.True(paused.Wait(Patience), $"The guest did not come to instruction {instructions}; it printed '{console}'.");
        return machine;
    }

    /// <summary>Runs to an instruction, saves, and runs the restored machine to its end.</summary>
    public RunOutcome RunBySnapshot(ulong instructions)
    {
        var console = new StringBuilder();
        string directory;
        using (Machine machine = RunTo(instructions, console))
        {
            Assert.Equal(instructions, machine.InstructionsRetired);
            directory = Save(machine);
        }
        RunOutcome outcome = Finish(directory, console);
        Directory.Delete(directory, recursive: true);
        return outcome;
    }

    /// <summary>Saves a machine into a directory of the test's.</summary>
    public string Save(Machine machine)
    {
        string directory = NewDirectory();
        machine.SaveSnapshot(directory);
        return directory;
    }

    public string NewDirectory() => Directory.CreateDirectory(Path.Combine(_folder.Path, $"snapshot-{_snapshots++}")).FullName;

    /// <summary>Restores a machine, paused.</summary>
    public Machine Restore(string directory, StringBuilder console)
    {
        var machine = (Machine)TestMachines.Factory.Restore(Spec, directory, TimeProvider.System);
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        Assert.Equal(MachineRunState.Paused, machine.RunState);
        return machine;
    }

    /// <summary>Lets a restored machine run to an instruction.</summary>
    public void ResumeTo(Machine machine, ulong instructions)
    {
        Task paused = machine.PauseAt(instructions);
        machine.Resume();
        Assert.True(paused.Wait(Patience), $"The guest did not come to instruction {instructions}.");
    }

    /// <summary>Restores a machine and runs it to its end.</summary>
    public RunOutcome Finish(string directory, StringBuilder console)
    {
        using Machine machine = Restore(directory, console);
        machine.Resume();
        return Outcome(machine, console);
    }

    /// <summary>Waits for a machine's end.</summary>
    public RunOutcome Outcome(Machine machine, StringBuilder console)
    {
        Assert.True(machine.Completion.Wait(Patience), $"The guest did not end; it printed '{console}'.");
        return new(console.ToString(), machine.Completion.Result, machine.InstructionsRetired,
            JsonSerializer.Serialize(Enumerable.Range(0, machine.VcpuCount).Select(machine.GetRegisters)), DigestOf(machine));
    }

    public string DigestOf(Machine machine)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] block = new byte[64 << 10];
        for (ulong address = 0; address < Spec.MemoryBytes; address += (ulong)block.Length)
        {
            Array.Clear(block);
            machine.ReadMemory(MemoryAddressing.Physical, 0, address, block);
            hash.AppendData(block);
        }
        return Convert.ToHexString(hash.GetHashAndReset());
    }

    /// <summary>The run by way of a snapshot at each of these instructions is the run without.</summary>
    public void AssertSame(RunOutcome straight, IEnumerable<ulong> points)
    {
        foreach (ulong point in points)
        {
            RunOutcome by = RunBySnapshot(point);
            Assert.True(straight.Console == by.Console, $"Saved at {point}: '{by.Console}' instead of '{straight.Console}', {by.End}");
            Assert.True(straight == by, $"Saved at {point}:\n{by}\ninstead of\n{straight}");
        }
    }

    public void Dispose() => _folder.Dispose();

    private Machine Create(StringBuilder console)
    {
        var machine = (Machine)TestMachines.Factory.Create(Spec, TimeProvider.System);
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        machine.Replay(Inputs);
        return machine;
    }
}
