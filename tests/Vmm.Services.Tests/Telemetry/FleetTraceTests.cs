using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Client;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>Spans of what the workers of a fleet do for each other. All are in this process, and reach each other over HTTP/2.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed class FleetTraceTests : IAsyncLifetime
{
    private const string Project = "projects/default";
    private const string Name = $"{Project}/vms/one";

    /// <summary>A call from one process to another, from the inside out.</summary>
    private static readonly string[] Call = ["Microsoft.AspNetCore", "System.Net.Http", "Grpc.Net.Client"];

    private readonly SpanRecorder _spans = new();
    private MigrationFleet _fleet = null!;

    public async Task InitializeAsync() => _fleet = await MigrationFleet.StartAsync();

    public async Task DisposeAsync()
    {
        await _fleet.DisposeAsync();
        _spans.Dispose();
    }

    [Fact]
    public async Task A_move_is_one_trace_from_the_client_to_the_target()
    {
        await StartAsync();
        MigrateVmResponse moved = await MigrateAsync();
        string[] rounds = [.. Enumerable.Repeat("migration.round", moved.Rounds - 1)];
        Assert.Equal(
            ["image.fetch", "migration.accept", "migration.commit", "migration.decide", "migration.go", "migration.hold", "migration.make", "migration.offer", .. rounds, "migration.take"],
            _spans.PartsOf("vmm.v1.VmService/MigrateVm"));
        foreach (string part in (string[])["migration.offer", "migration.round", "migration.hold", "migration.accept", "migration.take", "migration.make", "migration.decide"])
            Assert.Equal(Name, _spans.Of(part).First().GetTagItem("vmm.vm.name"));
        Assert.Equal("workers/b", _spans.Of("migration.offer").Single().GetTagItem("vmm.worker.name"));
        Assert.Equal("workers/a", _spans.Of("migration.accept").Single().GetTagItem("vmm.worker.name"));
        Assert.True((long)_spans.Of("migration.round").First().GetTagItem("vmm.migration.bytes")! > 0);
        Assert.Equal(["migration.hold", "migration.hold"], ((string[])["migration.commit", "migration.go"]).Select(part => _spans.AncestorsOf(_spans.Of(part).Single()).ElementAt(1).OperationName));

        // The source is called by the front end, and that by the client; the target is called by the source.
        Assert.Equal(["Vmm.Worker", .. Call, .. Call, "Vmm.Client"], PathOf("migration.hold"));
        foreach (string part in (string[])["migration.accept", "migration.take", "migration.make", "migration.decide", "image.fetch"])
            Assert.Equal(["Vmm.Worker", .. Call, .. Call, .. Call, "Vmm.Client"], PathOf(part));
        // One after the other, and no longer than what they wait for.
        Assert.Equal(["migration.accept", "migration.take", "migration.make", "migration.decide"], _spans.Ended.Select(span => span.OperationName).Where(name => name is "migration.accept" or "migration.take" or "migration.make" or "migration.decide"));
        Assert.True(EndOf("migration.accept") <= EndOf("migration.offer"));
        Assert.True(EndOf("migration.make") <= EndOf("migration.commit"));
        Assert.True(EndOf("migration.commit") <= EndOf("migration.decide"));
    }

    [Fact]
    public async Task A_move_that_breaks_ends_what_has_begun()
    {
        await StartAsync();
        _fleet.BeforeSend = request =>
        {
            if (request.Round is not null)
                throw new IOException("the connection is gone");
        };
        await Assert.ThrowsAsync<Grpc.Core.RpcException>(MigrateAsync);
        await Eventually.HoldsAsync(() => _spans.Of("migration.take").Any(), "the end at the target");
        // The client tries it more than once.
        Assert.Equal(["image.fetch", "migration.accept", "migration.offer", "migration.round", "migration.take"], _spans.PartsOf("vmm.v1.VmService/MigrateVm").Distinct());
    }

    [Fact]
    public async Task What_a_worker_fetches_from_another_is_in_the_trace_of_the_call_that_needs_it()
    {
        await StartAsync();
        _fleet.A.Last.SavesState = true;
        Snapshot snapshot = await _fleet.Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Project, SnapshotId = "now", Snapshot = new Snapshot { Vm = Name } });
        await CordonAsync("a");
        await _fleet.Connection.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name, VmId = "two", Paused = true });
        Assert.Equal(["boot.queue", "image.fetch", "placement", "restore.disks", "restore.machine", "snapshot.fetch"], _spans.PartsOf("vmm.v1.SnapshotService/RestoreSnapshot"));
        Assert.Equal(snapshot.Name, _spans.Of("snapshot.fetch").Single().GetTagItem("vmm.snapshot.name"));
        Assert.StartsWith($"{Project}/images/", (string)_spans.Of("image.fetch").Single().GetTagItem("vmm.image.name")!, StringComparison.Ordinal);
        // Who has it is called as part of that.
        foreach (string part in (string[])["snapshot.fetch", "image.fetch"])
        {
            Assert.Equal(["Vmm.Worker", .. Call, .. Call, "Vmm.Client"], PathOf(part));
            Assert.Contains(_spans.Ended, span => span.Source.Name == "Microsoft.AspNetCore" && _spans.AncestorsOf(span).Any(parent => parent.OperationName == part));
        }
    }

    /// <summary>Starts the VM, made from an image, on worker a.</summary>
    private async Task StartAsync()
    {
        await CordonAsync("b");
        Image kernel = await _fleet.Connection.PushImageAsync(_fleet.Write("kernel", "kernel"u8.ToArray()), Project);
        await _fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = "one", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Image = kernel.Name } } } });
        await _fleet.Connection.Workers.UncordonWorkerAsync(new UncordonWorkerRequest { Name = "workers/b" });
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = Name });
    }

    private async Task<MigrateVmResponse> MigrateAsync() =>
        await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = Name, MaxPause = Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });

    private async Task CordonAsync(string worker) => await _fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = $"workers/{worker}" });

    /// <summary>The sources of the spans that the only span of a name is in, from its own up.</summary>
    private IEnumerable<string> PathOf(string name) => _spans.AncestorsOf(_spans.Of(name).Single()).Select(span => span.Source.Name);

    private DateTime EndOf(string name)
    {
        Activity span = _spans.Of(name).Single();
        return span.StartTimeUtc + span.Duration;
    }
}
