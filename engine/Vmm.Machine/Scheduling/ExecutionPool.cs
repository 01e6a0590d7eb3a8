namespace Vmm.Machine.Scheduling;

/// <summary>Work for an <see cref="ExecutionPool"/>: a machine that wants to run.</summary>
internal interface IExecutionWork
{
    /// <summary>Runs for a few milliseconds at most. Must not throw.</summary>
    void Execute();
}

/// <summary>What the machines of this process have to execute on.</summary>
/// <param name="Threads">Host threads that execute guests, or wait a while for one.</param>
/// <param name="Waiting">Machines that could execute and wait for a thread.</param>
public readonly record struct ExecutionLoad(int Threads, int Waiting)
{
    /// <summary>As it is.</summary>
    public static ExecutionLoad Now => ExecutionPool.Shared.Load;
}

/// <summary>
/// The host threads on which machines execute: as many as the host has processors, apart from the thread pool, whose threads
/// must stay free for requests. Machines wait in one queue, first come first served. A thread that finds nothing to do for a
/// while goes away.
/// </summary>
internal sealed class ExecutionPool(int threads)
{
    private static readonly TimeSpan IdleLifetime = TimeSpan.FromSeconds(5);

    private readonly object _lock = new();
    private readonly Queue<IExecutionWork> _queue = [];
    private int _started;
    private int _idle;

    /// <summary>The pool that all machines of this process share.</summary>
    public static ExecutionPool Shared { get; } = new(Environment.ProcessorCount);

    /// <summary>Threads, and machines that wait for one.</summary>
    public ExecutionLoad Load
    {
        get
        {
            lock (_lock)
                return new(_started, _queue.Count);
        }
    }

    /// <summary>Queues a machine.</summary>
    public void Enqueue(IExecutionWork work)
    {
        lock (_lock)
        {
            _queue.Enqueue(work);
            if (_idle >= _queue.Count)
            {
                Monitor.Pulse(_lock);
            }
            else if (_started < threads)
            {
                _started++;
                // It serves all machines, and belongs to nothing that its first one's caller was about.
                new Thread(Loop) { IsBackground = true, Name = "vmm execution" }.UnsafeStart();
            }
        }
    }

    private void Loop()
    {
        while (true)
        {
            IExecutionWork? work;
            lock (_lock)
            {
                while (!_queue.TryDequeue(out work))
                {
                    _idle++;
                    bool pulsed = Monitor.Wait(_lock, IdleLifetime);
                    _idle--;
                    if (!pulsed && _queue.Count == 0)
                    {
                        _started--;
                        return;
                    }
                }
            }
            work.Execute();
        }
    }
}
