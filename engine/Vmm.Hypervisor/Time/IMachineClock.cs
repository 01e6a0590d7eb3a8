using Vmm.Hypervisor.SavedState;

namespace Vmm.Hypervisor.Time;

/// <summary>
/// The one notion of time inside a virtual machine. Devices and local APICs read it and set timers on it; they never read the
/// host's. With the virtual clock it is a function of the instructions executed, with the real-time clock it follows an
/// injected <see cref="TimeProvider"/>. All calls, and all timer callbacks, are on the thread that runs the machine.
/// </summary>
public interface IMachineClock
{
    /// <summary>Nanoseconds since the machine was powered on, never decreasing.</summary>
    ulong Nanoseconds { get; }

    /// <summary>The wall clock that the real-time clock chip shows, in UTC. Deterministic under the virtual clock.</summary>
    DateTimeOffset UtcNow { get; }

    /// <summary>Creates a disarmed timer whose callback runs on the machine's thread once its deadline has passed.</summary>
    IMachineTimer CreateTimer(Action callback);
}

/// <summary>A one-shot timer on the machine's clock.</summary>
public interface IMachineTimer
{
    /// <summary>Fires once when <see cref="IMachineClock.Nanoseconds"/> reaches <paramref name="deadline"/>; replaces an earlier deadline. A deadline in the past fires at the next opportunity.</summary>
    void Arm(ulong deadline);

    /// <summary>Cancels the deadline, if any.</summary>
    void Disarm();

    /// <summary>Whether a deadline is pending.</summary>
    bool IsArmed { get; }

    /// <summary>The deadline and its rank among equal ones, or null where none is pending.</summary>
    TimerState? Save();

    /// <summary>Takes a saved deadline instead of its own, or none. Timers that are armed later come after it where their deadlines are the same.</summary>
    void Load(TimerState? state);
}
