using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using Vmm.Machine;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>What a guest came to that powered off.</summary>
internal sealed record GuestRun(string Console, ulong Instructions, string Memory);

/// <summary>A machine under the virtual clock that can move into another one by way of a snapshot.</summary>
internal sealed class MovingMachine : IAsyncDisposable
{
    private readonly MachineSpec _spec;
    private readonly ITestOutputHelper _log;
    private readonly StringBuilder _console = new();
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("vmm-snapshot-");
    private readonly List<(string Text, Action Act)> _awaited = [];
    private int _moves;

    public MovingMachine(MachineSpec spec, ITestOutputHelper log)
    {
        _spec = spec;
        _log = log;
        Machine = Listen(new MachineFactory().Create(spec, TimeProvider.System));
    }

    public Machine.Machine Machine { get; private set; }

    /// <summary>Has something done, on the machine's thread, as soon as the guest has printed a text.</summary>
    public void WhenPrinted(string text, Action act) => _awaited.Add((text, act));

    /// <summary>Runs to an instruction, and stands there.</summary>
    public async Task RunToAsync(ulong instructions, TimeSpan patience)
    {
        Task there = Machine.PauseAt(instructions);
        Go();
        await there.WaitAsync(patience);
        Assert.Null(Machine.End);
    }

    /// <summary>Saves the machine, and goes on with one that is restored from that.</summary>
    public void Move()
    {
        string directory = _folder.CreateSubdirectory($"{_moves++}").FullName;
        var watch = Stopwatch.StartNew();
        var saved = Machine.SaveSnapshot(directory);
        TimeSpan save = watch.Elapsed;
        Machine.Dispose();
        watch.Restart();
        Machine = Listen(new MachineFactory().Restore(_spec, directory, TimeProvider.System));
        _log.WriteLine($"{saved}, saved in {save.TotalMilliseconds:f0} ms, restored in {watch.Elapsed.TotalMilliseconds:f0} ms");
    }

    /// <summary>Runs until the guest powers off.</summary>
    public async Task<GuestRun> FinishAsync(TimeSpan patience)
    {
        Go();
        MachineEnd end = await Machine.Completion.WaitAsync(patience);
        Assert.True(end.Reason == MachineEndReason.PowerOff, $"{end}; {_console}");
        return new(_console.ToString(), Machine.InstructionsRetired, DigestOfMemory());
    }

    public ValueTask DisposeAsync()
    {
        Machine.Dispose();
        _folder.Delete(recursive: true);
        return default;
    }

    private void Go()
    {
        if (Machine.RunState == MachineRunState.Created)
            Machine.Start();
        else
            Machine.Resume();
    }

    private Machine.Machine Listen(IMachine machine)
    {
        machine.ConsoleOutput += bytes =>
        {
            _console.Append(Encoding.Latin1.GetString(bytes));
            if (_awaited.Count == 0)
                return;
            string all = _console.ToString();
            foreach ((string text, Action act) awaited in _awaited.Where(awaited => all.Contains(awaited.Text, StringComparison.Ordinal)).ToArray())
            {
                _awaited.Remove(awaited);
                awaited.act();
            }
        };
        return (Machine.Machine)machine;
    }

    private string DigestOfMemory()
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] block = new byte[64 << 10];
        for (ulong address = 0; address < _spec.MemoryBytes; address += (ulong)block.Length)
        {
            Array.Clear(block);
            Machine.ReadMemory(MemoryAddressing.Physical, 0, address, block);
            hash.AppendData(block);
        }
        return Convert.ToHexString(hash.GetHashAndReset());
    }
}
