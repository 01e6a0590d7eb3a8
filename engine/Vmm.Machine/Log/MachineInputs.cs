using System.Collections.Concurrent;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Snapshots;
using Vmm.Processor.SavedState;

namespace Vmm.Machine.Log;

/// <summary>Takes bytes for the guest. Returns how many it took.</summary>
public delegate int ReceiveConsole(ReadOnlySpan<byte> bytes);

/// <summary>
/// The one way by which anything from outside reaches a machine. Other threads post; the machine's thread takes, between two
/// instructions, and under the virtual clock notes when. With the machine's spec the log determines the whole run.
/// </summary>
public sealed class MachineInputs
{
    /// <summary>How much input for COM1 waits at most.</summary>
    public const int ConsoleCapacity = 4096;

    private readonly ConcurrentQueue<Action> _requests = new();
    private readonly object _consoleLock = new();
    private readonly byte[] _console = new byte[ConsoleCapacity];
    private readonly List<LoggedInput>? _log;
    private IReadOnlyList<LoggedInput> _replay = [];
    private int _replayed;
    private int _consoleCount;
    private bool _consoleFellShort;

    /// <summary>Creates an empty queue.</summary>
    /// <param name="logged">Whether inputs are kept in the log: under the virtual clock.</param>
    public MachineInputs(bool logged)
    {
        _log = logged ? [] : null;
    }

    /// <summary>What has come so far, or nothing where it is not kept. For the machine's thread, or when it is at rest.</summary>
    public IReadOnlyList<LoggedInput> Log => _log ?? (IReadOnlyList<LoggedInput>)[];

    /// <summary>Inputs of an earlier run, to be given again when their time has come.</summary>
    public void Replay(IReadOnlyList<LoggedInput> log)
    {
        _replay = log;
        _replayed = 0;
    }

    /// <summary>Everything that waits or is kept, but for requests of other threads.</summary>
    /// <param name="consoleOffered">Whether the console's input is to be offered to the port.</param>
    public InputsState Save(bool consoleOffered)
    {
        byte[] console;
        lock (_consoleLock)
            console = _console.AsSpan(0, _consoleCount).ToArray();
        return new InputsState
        {
            Console = console,
            IsConsoleOffered = consoleOffered,
            Log = [.. Log.Select(StateOf)],
            Replay = [.. _replay.Skip(_replayed).Select(StateOf)],
        };
    }

    /// <summary>Takes a saved state, before the machine runs.</summary>
    /// <param name="state">What was saved.</param>
    /// <param name="cpus">The machine's vCPUs.</param>
    /// <exception cref="InvalidStateException">It is none of such a machine.</exception>
    public void Load(InputsState state, int cpus)
    {
        InvalidStateException.ThrowUnless(state.Console.Length <= ConsoleCapacity, "Inputs.Console", "that is more than waits.");
        InvalidStateException.ThrowUnless(_log != null || state.Log.Length + state.Replay.Length == 0, "Inputs.Log", "the real-time clock keeps none.");
        lock (_consoleLock)
        {
            state.Console.CopyTo(_console, 0);
            _consoleCount = state.Console.Length;
        }
        _log?.AddRange(state.Log.Select(input => InputOf(input, cpus)));
        Replay([.. state.Replay.Select(input => InputOf(input, cpus))]);
    }

    private static LoggedInputState StateOf(LoggedInput logged) => new()
    {
        Instructions = logged.Instructions,
        Nanoseconds = logged.Nanoseconds,
        Kind = logged.Input.Kind,
        Vcpu = logged.Input.Vcpu,
        Address = logged.Input.Address,
        Data = logged.Input.Data.ToArray(),
        Inhibit = logged.Input.Inhibit,
    };

    private static LoggedInput InputOf(LoggedInputState state, int cpus)
    {
        InvalidStateException.ThrowUnless(state is not null, "Inputs.Log", "an input is missing.");
        InvalidStateException.ThrowUnless(Enum.IsDefined(state!.Kind), "Inputs.Log.Kind", $"{state.Kind} is none.");
        InvalidStateException.ThrowUnless(state.Vcpu >= 0 && state.Vcpu < cpus, "Inputs.Log.Vcpu", "there is no such vCPU.");
        bool changesApicv = state.Kind is MachineInputKind.ApicvInhibitSet or MachineInputKind.ApicvInhibitCleared;
        InvalidStateException.ThrowUnless(!changesApicv || ApicvInhibits.IsChangeable(state.Inhibit), "Inputs.Log.Inhibit", "it is not changeable.");
        return new(state.Instructions, state.Nanoseconds, new(state.Kind, state.Vcpu, state.Address, state.Data, state.Inhibit));
    }

    /// <summary>The next input to be replayed, or null.</summary>
    public LoggedInput? NextReplayed => _replayed < _replay.Count ? _replay[_replayed] : null;

    /// <summary>Goes on to the replayed input after this one.</summary>
    public void TookReplayed() => _replayed++;

    /// <summary>Posts something to be done on the machine's thread between two instructions. From any thread.</summary>
    public void Post(Action request) => _requests.Enqueue(request);

    /// <summary>Takes the next request.</summary>
    public bool TryTake(out Action request) => _requests.TryDequeue(out request!);

    /// <summary>Notes an input that takes effect now.</summary>
    public void Note(ulong instructions, ulong nanoseconds, MachineInput input) => _log?.Add(new(instructions, nanoseconds, input));

    /// <summary>Takes bytes for COM1 as far as there is room. From any thread.</summary>
    public int WriteConsole(ReadOnlySpan<byte> bytes)
    {
        lock (_consoleLock)
        {
            int count = Math.Min(bytes.Length, ConsoleCapacity - _consoleCount);
            bytes[..count].CopyTo(_console.AsSpan(_consoleCount));
            _consoleCount += count;
            _consoleFellShort |= count < bytes.Length;
            return count;
        }
    }

    /// <summary>Passes waiting console bytes on to the serial port, as many as it takes.</summary>
    /// <param name="receive">The serial port: takes bytes and says how many.</param>
    /// <param name="taken">The bytes that it took, or null for none.</param>
    /// <returns>Whether a writer that fell short should try again.</returns>
    public bool PassConsole(ReceiveConsole receive, out byte[]? taken)
    {
        taken = null;
        if (Volatile.Read(ref _consoleCount) == 0)
            return false;
        lock (_consoleLock)
        {
            int count = receive(_console.AsSpan(0, _consoleCount));
            if (count == 0)
                return false;
            taken = _console.AsSpan(0, count).ToArray();
            _console.AsSpan(count, _consoleCount - count).CopyTo(_console);
            _consoleCount -= count;
            bool drained = _consoleFellShort;
            _consoleFellShort = false;
            return drained;
        }
    }
}
