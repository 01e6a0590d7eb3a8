namespace Vmm.Machine.Scheduling;

/// <summary>Work for an <see cref="ExecutionPool"/>: a machine that wants to run.</summary>
internal interface IExecutionWork
{
    /// <summary>Answers who has asked it for something, then runs for about so many nanoseconds of processor time at most. Must not throw.</summary>
    void Execute(ulong length);
}

/// <summary>What the machines of a factory have to execute on.</summary>
/// <param name="Threads">Host threads that execute guests, or wait a while for one.</param>
/// <param name="Waiting">Machines that could execute and wait for a thread.</param>
public readonly record struct ExecutionLoad(int Threads, int Waiting);

/// <summary>
/// The host threads on which machines execute: as many as the host has processors, apart from the thread pool, whose threads
/// must stay free for requests. <see cref="FairQueue"/> says whose turn it is. A thread that finds nothing to do for a
/// while goes away.
/// </summary>
internal sealed class ExecutionPool
{
    private static readonly TimeSpan IdleLifetime = TimeSpan.FromSeconds(5);

    private readonly object _lock = new();
    private readonly FairQueue _queue = new();
    private readonly WakeUpQueue _wakeUps;
    private readonly WakeUp _release;
    private readonly int _threads;
    private int _started;
    private int _idle;

    /// <param name="threads">How many threads there may be.</param>
    /// <param name="time">What limits go by.</param>
    public ExecutionPool(int threads, TimeProvider time)
    {
        _threads = threads;
        _wakeUps = WakeUpQueue.Of(time);
        _release = new WakeUp(Release);
    }

    /// <summary>The pool that the machines of this process share, unless their factory has one of its own.</summary>
    public static ExecutionPool Shared { get; } = new(Environment.ProcessorCount, TimeProvider.System);

    /// <summary>Threads, and machines that wait for one.</summary>
    public ExecutionLoad Load
    {
        get
        {
            lock (_lock)
                return new(_started, _queue.Runnable);
        }
    }

    /// <summary>Queues a machine.</summary>
    public void Enqueue(FairEntry entry)
    {
        lock (_lock)
        {
            _queue.Add(entry, _wakeUps.Now);
            Rouse();
        }
    }

    /// <summary>Has a machine answer soon, whatever its share, if it is queued or comes to be.</summary>
    public void Ask(FairEntry entry)
    {
        lock (_lock)
        {
            _queue.Ask(entry, _wakeUps.Now);
            Rouse();
        }
    }

    /// <summary>A machine has executed.</summary>
    public void Charge(FairEntry entry, ulong used)
    {
        lock (_lock)
            _queue.Charge(entry, used, _wakeUps.Now);
    }

    /// <summary>Gives a machine another share.</summary>
    public void Change(FairEntry entry, ProcessorShare share)
    {
        lock (_lock)
        {
            _queue.Change(entry, share, _wakeUps.Now);
            Rouse();
        }
    }

    private void Release()
    {
        lock (_lock)
        {
            _queue.Release(_wakeUps.Now);
            Rouse();
        }
    }

    // Under the lock, after the queue has changed: threads for those that can execute, and a wake-up for those that cannot yet.
    private void Rouse()
    {
        if (_queue.NextRelease != ulong.MaxValue)
            _wakeUps.Set(_release, Math.Max(_queue.NextRelease, _wakeUps.Now) - _wakeUps.Now);
        if (_queue.Runnable == 0)
            return;
        if (_idle > 0)
            Monitor.Pulse(_lock);
        if (_queue.Runnable > _idle && _started < _threads)
        {
            _started++;
            // It serves all machines, and belongs to nothing that its first one's caller was about.
            new Thread(Loop) { IsBackground = true, Name = "vmm execution" }.UnsafeStart();
        }
    }

    private void Loop()
    {
        while (true)
        {
            FairEntry entry;
            ulong length;
            lock (_lock)
            {
                while (!_queue.TryTake(_wakeUps.Now, out entry, out length))
                {
                    _idle++;
                    bool pulsed = Monitor.Wait(_lock, IdleLifetime);
                    _idle--;
                    if (!pulsed && _queue.Runnable == 0)
                    {
                        _started--;
                        return;
                    }
                }
                // One pulse may have been for several.
                if (_idle > 0 && _queue.Runnable > 0)
                    Monitor.Pulse(_lock);
            }
            entry.Work.Execute(length);
        }
    }
}
