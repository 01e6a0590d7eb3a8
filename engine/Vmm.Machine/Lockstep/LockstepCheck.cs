using Vmm.Machine.Log;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Translation;

namespace Vmm.Machine.Lockstep;

/// <summary>
/// Compares a machine with another of the same spec that only interprets and gets the same inputs: every so many instructions
/// everything that a snapshot would hold, and the pages of RAM that either has written. On the machine's thread, which waits for the other.
/// </summary>
internal sealed class LockstepCheck : IDisposable
{
    /// <summary>Instructions between two checks: a prime, so that checks fall into every part of a scheduling slice.</summary>
    public const ulong Interval = 1_000_003;

    private readonly Machine _machine;
    private readonly Machine _reference;
    private readonly MachineSpec _spec;
    private readonly TimeProvider _time;
    private readonly TranslationOptions _translation;
    private readonly AgreedMoment _agreed;
    private int _inputsSeen;

    /// <summary>Makes the other machine.</summary>
    /// <param name="machine">The machine that is checked, whole but not started.</param>
    /// <param name="spec">Its spec.</param>
    /// <param name="time">The host's time.</param>
    /// <param name="translation">How its code is compiled.</param>
    /// <param name="snapshot">What it was restored from, or null.</param>
    /// <exception cref="IOException">There is no room for the copy of its memory.</exception>
    public LockstepCheck(Machine machine, MachineSpec spec, TimeProvider time, TranslationOptions translation, ISavedMachine? snapshot)
    {
        (_machine, _spec, _time, _translation) = (machine, spec, time, translation);
        // Threads of its own: those that machines share may all be waiting for a machine like it.
        _reference = new Machine(spec with { Engine = ExecutionEngine.Interpreter }, time, new ExecutionPool(1, TimeProvider.System), translation, snapshot);
        try
        {
            _agreed = new AgreedMoment(_reference);
        }
        catch
        {
            _reference.Dispose();
            throw;
        }
        _inputsSeen = machine.LoggedInputs.Count;
        machine.Package.StartDirtyLog();
        _reference.StartDirtyLog();
        NextCheck = machine.InstructionsRetired + Interval;
    }

    /// <summary>The instructions after which the next check is due.</summary>
    public ulong NextCheck { get; private set; }

    /// <summary>Puts the check off by an instruction.</summary>
    public void Postpone() => NextCheck = _machine.InstructionsRetired + 1;

    /// <summary>Lets the other machine come as far, and compares. While no vCPU of the machine executes.</summary>
    /// <param name="end">How the guest has ended the machine, or null where it goes on.</param>
    /// <returns>How it ends where the two differ; null where they do not.</returns>
    public MachineEnd? Check(MachineEnd? end)
    {
        MachineState state = _machine.Capture();
        ulong[] pages = _machine.Package.TakeDirtyPages();
        ulong retired = state.Scheduler.InstructionsRetired;
        LoggedInput[] inputs = [.. _machine.LoggedInputs.Skip(_inputsSeen)];
        // At the end the other gets the chance to end too, and to go on where it should not.
        var stretch = new Stretch(retired + (end == null ? 0UL : 1), state.Nanoseconds, inputs);
        _reference.RunTo(stretch.Instructions, stretch.Nanoseconds, inputs);
        (MachineState expected, ulong[] expectedPages) = _reference.Observe();
        var found = MachineComparison.Compare(
            new(state, _machine.Memory, pages, end),
            new(expected, _reference.Memory, expectedPages, _reference.End));
        if (found.Count == 0)
        {
            _agreed.Advance(expected, _reference.Memory, pages, expectedPages);
            _inputsSeen += inputs.Length;
            NextCheck = retired + Interval;
            return null;
        }
        string report = new DifferenceSearch(_spec, _time, _translation, _agreed, stretch).Report(found);
        return new(MachineEndReason.Failed, 125,
            $"Lockstep: compiled code and interpreter differ between instructions {_agreed.Instructions} and {retired}: {found[0]}", report);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NextCheck = ulong.MaxValue;
        _reference.Dispose();
        _agreed.Dispose();
    }
}

/// <summary>What two machines run that agree at its beginning.</summary>
/// <param name="Instructions">The count at its end.</param>
/// <param name="Nanoseconds">The latest moment until which the guest may wait in it.</param>
/// <param name="Inputs">What comes from outside in it.</param>
internal sealed record Stretch(ulong Instructions, ulong Nanoseconds, IReadOnlyList<LoggedInput> Inputs);
