using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;
using Vmm.Client;
using Vmm.Server;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>A real server in this process, over real HTTP/2, with fake machines.</summary>
public abstract class ServerTest : IAsyncLifetime
{
    protected const string Project = "projects/default";

    private protected FakeFactory Factory { get; } = new();

    protected string Folder { get; } = Directory.CreateTempSubdirectory("vmmd-test-").FullName;

    protected string Kernel { get; private set; } = "";

    protected VmmServer Server { get; private set; } = null!;

    protected VmmConnection Connection { get; private set; } = null!;

    protected VmService.VmServiceClient Vms => Connection.Vms;

    protected ImageService.ImageServiceClient Images => Connection.Images;

    protected SnapshotService.SnapshotServiceClient Snapshots => Connection.Snapshots;

    private protected TestTime Time { get; } = new();

    public virtual async Task InitializeAsync()
    {
        Directory.CreateDirectory(Path.Combine(Folder, "allowed"));
        Kernel = Path.Combine(Folder, "allowed", "kernel");
        await File.WriteAllTextAsync(Kernel, "kernel");
        await OpenAsync();
    }

    public virtual async Task DisposeAsync()
    {
        await CloseAsync();
        Directory.Delete(Folder, recursive: true);
    }

    protected virtual ServerOptions Options => new()
    {
        StateDirectory = Path.Combine(Folder, "state"),
        Listen = "127.0.0.1:0",
        AllowedPaths = [Path.Combine(Folder, "allowed")],
        MaxVmMemoryMib = 4096,
        ScrollbackBytes = 64 << 10,
        WatchHistory = 64,
    };

    protected async Task OpenAsync()
    {
        Server = await StartServerAsync();
        Connection = VmmConnection.Open(Server.Address);
    }

    private protected virtual Task<VmmServer> StartServerAsync() => VmmServer.StartAsync(Options, Factory, Time);

    protected async Task CloseAsync()
    {
        Connection.Dispose();
        await Server.DisposeAsync();
    }

    protected VmSpec Spec() => new() { MemoryMib = 64, Kernel = new FileSource { Path = Kernel } };

    protected CreateVmRequest Creation(string id = "", VmSpec? spec = null) => new() { Parent = Project, VmId = id, Vm = new Vm { Spec = spec ?? Spec() } };

    protected async Task<Vm> CreateAsync(string id = "one", VmSpec? spec = null) => await Vms.CreateVmAsync(Creation(id, spec));

    protected async Task<Vm> StartAsync(string id = "one", VmSpec? spec = null)
    {
        Vm vm = await CreateAsync(id, spec);
        return await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
    }

    /// <summary>Expects the call to fail, and to say why as the API promises.</summary>
    protected static async Task<VmmError> FailsAsync(StatusCode code, string reason, Func<Task> call)
    {
        RpcException exception = await Assert.ThrowsAsync<RpcException>(call);
        VmmError error = VmmError.From(exception);
        Assert.True(exception.StatusCode == code && error.Reason == reason, $"expected {code}/{reason}, got {exception.StatusCode}/{error.Reason}: {error.ToText()}");
        if (code == StatusCode.InvalidArgument && reason != "MALFORMED_MESSAGE")
            Assert.NotEmpty(error.Fields);
        if (code == StatusCode.FailedPrecondition)
            Assert.NotEmpty(error.Preconditions);
        return error;
    }

    protected static Task<VmmError> FailsAsync<T>(StatusCode code, string reason, AsyncUnaryCall<T> call) => FailsAsync(code, reason, async () => await call);

    /// <summary>Waits for a condition, and fails where it does not come about.</summary>
    protected static Task EventuallyAsync(Func<bool> condition, string what) => Eventually.HoldsAsync(condition, what);

    protected static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token;
}

/// <summary>Time that passes only when the test says so, for timers; the clock itself starts at a fixed instant.</summary>
internal sealed class TestTime : TimeProvider
{
    private readonly Lock _lock = new();
    private readonly List<Timer> _timers = [];
    private DateTimeOffset _now = new(2030, 1, 1, 0, 0, 0, TimeSpan.Zero);

    /// <summary>How many timers wait that were set for just so long.</summary>
    public int WaitingFor(TimeSpan dueTime)
    {
        lock (_lock)
            return _timers.Count(timer => timer.Due is not null && timer.DueTime == dueTime);
    }

    public override DateTimeOffset GetUtcNow()
    {
        lock (_lock)
            return _now;
    }

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override long GetTimestamp() => GetUtcNow().UtcTicks;

    public void Advance(TimeSpan time)
    {
        List<Timer> due;
        lock (_lock)
        {
            _now += time;
            due = [.. _timers.Where(timer => timer.Due <= _now)];
            due.ForEach(timer => timer.Due = null);
        }

        due.ForEach(timer => timer.Callback(timer.State));
    }

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new Timer(this, callback, state);
        timer.Change(dueTime, period);
        lock (_lock)
            _timers.Add(timer);
        return timer;
    }

    private sealed class Timer(TestTime time, TimerCallback callback, object? state) : ITimer
    {
        public TimerCallback Callback { get; } = callback;

        public object? State { get; } = state;

        public DateTimeOffset? Due { get; set; }

        public TimeSpan DueTime { get; private set; }

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (time._lock)
            {
                DueTime = dueTime;
                Due = dueTime == Timeout.InfiniteTimeSpan ? null : time._now + dueTime;
            }

            return true;
        }

        public void Dispose()
        {
            lock (time._lock)
                time._timers.Remove(this);
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
