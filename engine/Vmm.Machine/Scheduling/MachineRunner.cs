using Vmm.Hypervisor;
using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Snapshots;
using Vmm.Machine.Time;
using Vmm.Processor.SavedState;

namespace Vmm.Machine.Scheduling;

/// <summary>What a <see cref="MachineRunner"/> runs.</summary>
internal interface IRunnableMachine
{
    /// <summary>Whether the vCPUs may execute: the machine is neither held nor at its end.</summary>
    bool MayExecute { get; }

    /// <summary>Does what other threads asked for. Between two instructions.</summary>
    void ServiceRequests();

    /// <summary>A vCPU has had a slice, or a part of one.</summary>
    void AfterSlice(VcpuOutcome outcome);

    /// <summary>Instructions and nanoseconds at which the next replayed input is due, or null.</summary>
    (ulong Instructions, ulong Nanoseconds)? NextReplay { get; }

    /// <summary>The instructions after which it wants to look at its requests, or <see cref="ulong.MaxValue"/>.</summary>
    ulong StopAt { get; }

    /// <summary>Every vCPU waits, until a nanosecond of the machine's clock or, with <see cref="ulong.MaxValue"/>, for something from outside.</summary>
    void Waiting(ulong until);

    /// <summary>The engine failed: the machine must not run again.</summary>
    void Fail(Exception failure);
}

/// <summary>
/// Runs the vCPUs of one machine in turn, a slice each, on a thread of the pool as long as there is something to execute; while
/// every vCPU waits the machine holds no thread. The order of slices and their lengths follow from the machine's state alone,
/// so that a run under the virtual clock is always the same.
/// </summary>
internal sealed class MachineRunner : IExecutionWork, IDisposable
{
    // Long enough to make entry and exit cheap; with several vCPUs short, as they wait for one another's locks and messages.
    private const long SingleSlice = 100_000;
    private const long SharedSlice = 20_000;

    // After so many instructions it is looked at how long the turn has lasted; and what a step without any counts as.
    private const long Stretch = 100_000;
    private const long EmptyStep = 100;

    // What one instruction takes on the host, roughly: by this a slice is cut so that it ends when a timer of real time is due.
    private const ulong NanosecondsPerInstruction = 5;

    // How far virtual time may be ahead of the host's: the resolution of the host's timers.
    private const ulong PacingSlack = 1_000_000;

    private const int Idle = 0, Scheduled = 1, ScheduledAgain = 2;

    private readonly IRunnableMachine _owner;
    private readonly VirtualMachine _machine;
    private readonly MachineClock _clock;
    private readonly ExecutionPool _pool;
    private readonly FairEntry _entry;
    private readonly WakeUpQueue _wakeUps;
    private readonly WakeUp _wakeUp;
    private readonly object _closing = new();
    private bool _closed;
    private int _state;
    private int _threadId;
    private int _turn;
    private long _left;
    private ulong _retired;
    private ulong _processorTime;

    public MachineRunner(IRunnableMachine owner, VirtualMachine machine, MachineClock clock, TimeProvider time, ExecutionPool pool, ProcessorShare share)
    {
        _owner = owner;
        _machine = machine;
        _clock = clock;
        _pool = pool;
        _entry = new FairEntry(this, share);
        _wakeUps = WakeUpQueue.Of(time);
        _wakeUp = new WakeUp(Awaken);
        clock.SliceShortened = () => _machine.Running?.RequestExit();
    }

    /// <summary>Instructions retired by all vCPUs, up to the last slice.</summary>
    public ulong InstructionsRetired => Volatile.Read(ref _retired);

    /// <summary>Processor time of the host that the machine has had, in nanoseconds, up to its last turn.</summary>
    public ulong ProcessorTime => Volatile.Read(ref _processorTime);

    /// <summary>For how long its limit has kept it from executing, in nanoseconds.</summary>
    public ulong ThrottledTime => _entry.ThrottledTime;

    /// <summary>What it has of the host's processors.</summary>
    public ProcessorShare Share
    {
        get => _entry.Share;
        set => _pool.Change(_entry, value);
    }

    /// <summary>Whether the caller is on the thread that runs the machine right now.</summary>
    public bool IsCurrentThread => Volatile.Read(ref _threadId) == Environment.CurrentManagedThreadId;

    /// <summary>Whose turn it is. On the machine's thread, between two slices.</summary>
    public SchedulerState Save() => new() { Turn = _turn, SliceLeft = _left, InstructionsRetired = _retired };

    /// <summary>Takes a saved state, before the machine runs.</summary>
    /// <exception cref="InvalidStateException">There is no such vCPU or slice.</exception>
    public void Load(SchedulerState state)
    {
        InvalidStateException.ThrowUnless(state.Turn >= 0 && state.Turn < _machine.Vcpus.Count, "Scheduler.Turn", "there is no such vCPU.");
        InvalidStateException.ThrowUnless(Math.Abs(state.SliceLeft) <= SingleSlice, "Scheduler.SliceLeft", "no slice is so long.");
        _turn = state.Turn;
        _left = state.SliceLeft;
        _retired = state.InstructionsRetired;
    }

    /// <summary>Makes the machine look at its requests soon, whatever its share. From any thread.</summary>
    public void Kick()
    {
        _pool.Ask(_entry);
        Awaken();
    }

    // Makes the machine look at what it has to do, when its share allows.
    private void Awaken()
    {
        while (true)
        {
            int state = Volatile.Read(ref _state);
            if (state == ScheduledAgain)
                break;
            if (state == Scheduled)
            {
                if (Interlocked.CompareExchange(ref _state, ScheduledAgain, Scheduled) == Scheduled)
                    break;
            }
            else if (Interlocked.CompareExchange(ref _state, Scheduled, Idle) == Idle)
            {
                _pool.Enqueue(_entry);
                return;
            }
        }
        lock (_closing)
        {
            if (_closed)
                return;
            foreach (Vcpu vcpu in _machine.Vcpus)
                vcpu.RequestExit();
        }
    }

    /// <inheritdoc/>
    void IExecutionWork.Execute(ulong length)
    {
        Volatile.Write(ref _threadId, Environment.CurrentManagedThreadId);
        Interlocked.Exchange(ref _state, Scheduled);
        if (_wakeUp.Place >= 0)
            _wakeUps.Cancel(_wakeUp);
        bool more = false;
        ulong began = ThreadTime.Nanoseconds;
        try
        {
            more = RunTurn(began, length);
        }
        catch (Exception failure)
        {
            // Whatever went wrong in the engine ends this one machine, and must not take the process with all others along.
            _owner.Fail(failure);
        }
        ulong used = ThreadTime.Nanoseconds - began;
        Volatile.Write(ref _processorTime, _processorTime + used);
        Volatile.Write(ref _threadId, 0);
        // What was asked of it is the asker's work, and not the guest's.
        if (length > 0)
            _pool.Charge(_entry, used);
        if (more || Interlocked.CompareExchange(ref _state, Idle, Scheduled) != Scheduled)
            _pool.Enqueue(_entry);
    }

    /// <summary>Lets go of the vCPUs, which may be freed afterwards: a late kick does not touch them.</summary>
    public void Dispose()
    {
        _wakeUps.Cancel(_wakeUp);
        lock (_closing)
            _closed = true;
    }

    // Returns whether to go on at once.
    private bool RunTurn(ulong began, ulong length)
    {
        long left = Stretch;
        while (true)
        {
            foreach (Vcpu vcpu in _machine.Vcpus)
                vcpu.ClearExitRequest();
            _owner.ServiceRequests();
            if (!_owner.MayExecute)
                return false;
            if (length == 0)
                return true;
            _clock.RunDueTimers();
            if (Pick() is { } next)
                left -= Math.Max(RunSlice(next), EmptyStep);
            else if (SkipWaiting())
                left -= EmptyStep;
            else
                return false;
            if (left > 0)
                continue;
            if (ThreadTime.Nanoseconds - began >= length)
                return true;
            left = Stretch;
        }
    }

    private Vcpu? Pick()
    {
        IReadOnlyList<Vcpu> vcpus = _machine.Vcpus;
        if (_left > 0 && vcpus[_turn].IsRunnable)
            return vcpus[_turn];
        for (int step = 1; step <= vcpus.Count; step++)
        {
            int index = (_turn + step) % vcpus.Count;
            if (!vcpus[index].IsRunnable)
                continue;
            _turn = index;
            _left = vcpus.Count == 1 ? SingleSlice : SharedSlice;
            return vcpus[index];
        }
        return null;
    }

    private long RunSlice(Vcpu vcpu)
    {
        ulong now = _clock.Nanoseconds;
        ulong until = Math.Max(_clock.NextDeadline, now) - now;
        ulong scale = _clock.Mode == ClockMode.Virtual ? 1 : NanosecondsPerInstruction;
        long budget = (long)Math.Clamp(until / scale, 1, (ulong)_left);
        if (_owner.NextReplay is { } replay && replay.Instructions > _retired)
            budget = (long)Math.Min((ulong)budget, replay.Instructions - _retired);
        if (_owner.StopAt > _retired)
            budget = (long)Math.Min((ulong)budget, _owner.StopAt - _retired);
        _clock.SliceEnd = now + (ulong)budget * scale;
        ulong before = vcpu.InstructionsRetired;
        VcpuOutcome outcome = vcpu.Run(budget);
        ulong executed = vcpu.InstructionsRetired - before;
        _clock.Advance(executed);
        _clock.SliceEnd = 0;
        Volatile.Write(ref _retired, _retired + executed);
        _left -= (long)executed;
        // Whatever ended the slice: a request from outside at this very instruction must not make another order of it.
        if (outcome == VcpuOutcome.Yielded || !vcpu.IsRunnable)
            _left = 0;
        _owner.AfterSlice(outcome);
        return (long)executed;
    }

    // All vCPUs wait. Returns whether time has been skipped and there is something to do; if not, a timer or a kick will come.
    private bool SkipWaiting()
    {
        _left = 0;
        ulong target = _clock.NextDeadline;
        bool replayed = _owner.NextReplay is { } replay && replay.Nanoseconds <= target;
        if (replayed)
            target = _owner.NextReplay!.Value.Nanoseconds;
        _owner.Waiting(target);
        if (target == ulong.MaxValue || !_owner.MayExecute)
            return false;
        if (_clock.Mode == ClockMode.Virtual)
        {
            // Skipping is free as long as virtual time is behind the host's. From there on they go together, so that a guest
            // that only waits for its next tick does not race through the years on a busy thread.
            ulong elapsed = _clock.Elapsed;
            if (replayed || !_clock.IsPaced || target <= elapsed + PacingSlack)
            {
                _clock.SkipTo(target);
                return true;
            }
            WakeUpAfter(target - elapsed);
            return false;
        }
        ulong now = _clock.Nanoseconds;
        if (target <= now)
            return true;
        WakeUpAfter(target - now);
        return false;
    }

    private void WakeUpAfter(ulong nanoseconds) => _wakeUps.Set(_wakeUp, nanoseconds);
}
