using System.Text;
using Iced.Intel;
using Vmm.Processor.Translation;

namespace Vmm.Machine.Tests.Guests;

/// <summary>A machine with a small guest, and what it prints.</summary>
internal sealed class MachineBench : IDisposable
{
    /// <summary>A guest that takes longer than this has hung.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    private readonly TemporaryFolder _folder = new();
    private readonly StringBuilder _console = new();
    private readonly object _lock = new();

    public MachineBench(Action<Assembler> program, ClockMode clock = ClockMode.Virtual, int cpus = 1, TimeProvider? time = null, Func<MachineSpec, MachineSpec>? change = null,
        TranslationOptions? translation = null)
    {
        var spec = new MachineSpec { MemoryBytes = 4 << 20, KernelPath = GuestProgram.Write(_folder, program), Clock = clock, Cpus = cpus, Engine = TestMachines.Engine };
        Spec = change?.Invoke(spec) ?? spec;
        MachineFactory factory = translation == null ? TestMachines.Factory : new MachineFactory { Translation = translation };
        Machine = (Machine)factory.Create(Spec, time ?? TimeProvider.System);
        Machine.ConsoleOutput += bytes =>
        {
            lock (_lock)
            {
                _console.Append(Encoding.Latin1.GetString(bytes));
                Monitor.PulseAll(_lock);
            }
        };
    }

    public MachineSpec Spec { get; }

    public Machine Machine { get; }

    public string Console
    {
        get
        {
            lock (_lock)
                return _console.ToString();
        }
    }

    /// <summary>Starts the machine and waits for its end.</summary>
    public MachineEnd Run()
    {
        Machine.Start();
        return WaitForEnd();
    }

    public MachineEnd WaitForEnd()
    {
        Assert.True(Machine.Completion.Wait(Patience), $"The guest did not end; it printed '{Console}'.");
        return Machine.Completion.Result;
    }

    /// <summary>Waits until the guest has printed a text.</summary>
    public void WaitForConsole(string text)
    {
        DateTime end = DateTime.UtcNow + Patience;
        lock (_lock)
        {
            while (!_console.ToString().Contains(text, StringComparison.Ordinal))
            {
                TimeSpan left = end - DateTime.UtcNow;
                Assert.True(left > TimeSpan.Zero && Monitor.Wait(_lock, left), $"The guest did not print '{text}' but '{_console}'.");
            }
        }
    }

    /// <summary>Waits until a vCPU waits in HLT.</summary>
    public void WaitForHalt(int vcpu = 0)
    {
        DateTime end = DateTime.UtcNow + Patience;
        while (Machine.GetRegisters(vcpu).Activity != "hlt")
            Assert.True(DateTime.UtcNow < end, "The guest did not halt.");
    }

    public void Dispose()
    {
        Machine.Dispose();
        _folder.Dispose();
    }
}

/// <summary>A host whose time a test moves by hand, timers included.</summary>
internal sealed class ManualTimeProvider : TimeProvider
{
    private readonly object _lock = new();
    private readonly List<Timer> _timers = [];
    private long _now;

    public override long TimestampFrequency => 1_000_000_000;

    public override long GetTimestamp() => Interlocked.Read(ref _now);

    public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch.AddTicks(GetTimestamp() / 100);

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new Timer(this, () => callback(state));
        lock (_lock)
            _timers.Add(timer);
        timer.Change(dueTime, period);
        return timer;
    }

    /// <summary>When the earliest timer is due, in nanoseconds, or null where none is.</summary>
    public long? NextDue
    {
        get
        {
            lock (_lock)
                return _timers.Min(t => t.Due);
        }
    }

    public void Advance(long nanoseconds)
    {
        long end = Interlocked.Add(ref _now, nanoseconds);
        List<Timer> due;
        lock (_lock)
            due = [.. _timers.Where(t => t.Due <= end)];
        foreach (Timer timer in due)
            timer.Fire();
    }

    private sealed class Timer(ManualTimeProvider owner, Action callback) : ITimer
    {
        public long? Due { get; private set; }

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (owner._lock)
                Due = dueTime == Timeout.InfiniteTimeSpan ? null : owner.GetTimestamp() + dueTime.Ticks * 100;
            return true;
        }

        public void Fire()
        {
            lock (owner._lock)
                Due = null;
            callback();
        }

        public void Dispose()
        {
            lock (owner._lock)
                owner._timers.Remove(this);
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return default;
        }
    }
}
