using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Client;
using Vmm.Hypervisor.Apicv;
using Vmm.Registry;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>Metrics of what is done once in a fleet, however many of its processes have to do with it.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed class FleetMetricsTests : IAsyncLifetime
{
    private const string Project = "projects/default";
    private const string Name = $"{Project}/vms/one";

    private readonly ShiftedTime _time = new();
    private readonly ConcurrentQueue<(string Instrument, double Value)> _measured = new();
    private readonly MeterListener _listener = new();
    private MigrationFleet _fleet = null!;

    public async Task InitializeAsync()
    {
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument.Name is "vmm.fleet.placements" or "vmm.apicv.deferral.duration" or "vmm.apicv.deferral.instructions" or "vmm.apicv.deferral.oldest")
                listener.EnableMeasurementEvents(instrument);
        };
        _listener.SetMeasurementEventCallback<double>((instrument, value, _, _) => _measured.Enqueue((instrument.Name, value)));
        _listener.SetMeasurementEventCallback<long>((instrument, value, _, _) => _measured.Enqueue((instrument.Name, value)));
        _listener.Start();
        _fleet = await MigrationFleet.StartAsync(time: _time);
    }

    public async Task DisposeAsync()
    {
        await _fleet.DisposeAsync();
        _listener.Dispose();
    }

    [Fact]
    public async Task A_creation_that_is_repeated_before_its_vm_is_reported_is_one_placement()
    {
        var reporting = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        int placed = 0;
        _fleet.AroundRegistry = async (method, call) =>
        {
            if (method == nameof(IRegistry.ReportAsync))
                await reporting.Task;
            await call();
            if (method == nameof(IRegistry.PlaceVmAsync))
                Interlocked.Increment(ref placed);
        };
        CreateVmRequest request = Creation();
        request.RequestId = "once";
        Task<Vm> first = _fleet.Vms.CreateVmAsync(request).ResponseAsync;
        await Eventually.HoldsAsync(() => Volatile.Read(ref placed) == 1, "the placement");
        Task<Vm> second = _fleet.Vms.CreateVmAsync(request).ResponseAsync;
        await Eventually.HoldsAsync(() => Volatile.Read(ref placed) == 2, "the registry's second answer");
        reporting.SetResult();
        Assert.Equal((await first).Uid, (await second).Uid);
        Assert.Equal((await first).Uid, (await _fleet.Vms.CreateVmAsync(request)).Uid);
        Assert.Equal(1, Observed("vmm.fleet.placements").Sum());
    }

    [Fact]
    public async Task A_deferral_that_moves_is_measured_once_and_whole()
    {
        FakeMachine source = await StartAsync();
        source.EnterL2(0);
        await _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        _time.Shift(TimeSpan.FromSeconds(20));
        await MigrateAsync();
        Assert.InRange(Observed("vmm.apicv.deferral.oldest").Max(), 20, 39);
        _time.Shift(TimeSpan.FromSeconds(20));
        Assert.Empty(Measured("vmm.apicv.deferral.duration"));
        // Where it has moved, it ends: the fake's vCPU has deferred at its 7th instruction, and applies at its 8th.
        _fleet.B.Last.LeaveL2(0);
        Assert.InRange(Assert.Single(Measured("vmm.apicv.deferral.duration")), 40, 59);
        Assert.Equal(1, Assert.Single(Measured("vmm.apicv.deferral.instructions")));
        Assert.Equal(0, Observed("vmm.apicv.deferral.oldest").Max());
    }

    [Fact]
    public async Task A_deferral_that_a_restored_vm_comes_with_is_measured_from_then_on()
    {
        FakeMachine saved = await StartAsync();
        saved.SavesState = true;
        saved.EnterL2(0);
        await _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        Snapshot snapshot = await _fleet.Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = "now", Snapshot = new Snapshot { Vm = Name } });
        await _fleet.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        _time.Shift(TimeSpan.FromHours(1));
        await _fleet.Connection.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "two" });
        _time.Shift(TimeSpan.FromSeconds(20));
        FakeMachine restored = _fleet.A.Last.RestoredFrom is null ? _fleet.B.Last : _fleet.A.Last;
        restored.RaiseApicv(new Hypervisor.Apicv.ApicvEvent(ApicvEventKind.UpdateApplied, 0, 0, Hypervisor.Apicv.ApicvInhibit.HyperV, 1, false, 100));
        // The one that was stopped has not ended its own.
        Assert.InRange(Assert.Single(Measured("vmm.apicv.deferral.duration")), 20, 39);
        Assert.Equal(91, Assert.Single(Measured("vmm.apicv.deferral.instructions")));
    }

    private CreateVmRequest Creation() => new()
    {
        Parent = Project,
        VmId = "one",
        Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = _fleet.Write("kernel", "kernel"u8.ToArray()) } } },
    };

    /// <summary>Starts the VM on worker a.</summary>
    private async Task<FakeMachine> StartAsync()
    {
        await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        await _fleet.Vms.CreateVmAsync(Creation());
        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = Name });
        return _fleet.A.Last;
    }

    private async Task MigrateAsync() => await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, MaxPause = Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });

    private IEnumerable<double> Measured(string instrument) => _measured.Where(each => each.Instrument == instrument).Select(each => each.Value);

    /// <summary>What an instrument of each process says now.</summary>
    private double[] Observed(string instrument)
    {
        int before = Measured(instrument).Count();
        _listener.RecordObservableInstruments();
        return [.. Measured(instrument).Skip(before)];
    }

    /// <summary>The system's time, and what the test has added to it.</summary>
    private sealed class ShiftedTime : TimeProvider
    {
        private long _shift;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public void Shift(TimeSpan by) => Interlocked.Add(ref _shift, by.Ticks);

        public override DateTimeOffset GetUtcNow() => base.GetUtcNow().AddTicks(Volatile.Read(ref _shift));

        public override long GetTimestamp() => System.GetElapsedTime(0).Ticks + Volatile.Read(ref _shift);
    }
}
