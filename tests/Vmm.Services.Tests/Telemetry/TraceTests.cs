using System.Diagnostics;
using System.Reflection;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Registry;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.V1;
using Vmm.Worker;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>Spans of a server with the engine's machines, as a listener in its process sees them.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed class TraceTests : NestedGuestTest
{
    private readonly SpanRecorder _spans = new();

    public override async Task DisposeAsync()
    {
        _spans.Dispose();
        await base.DisposeAsync();
    }

    [Fact]
    public void Whatever_is_traced_is_in_the_catalogue_and_the_other_way_round()
    {
        IEnumerable<string> declared = ((Type[])[typeof(RegistryTraces), typeof(WorkerHost).Assembly.GetType("Vmm.Worker.Telemetry.WorkerTraces", throwOnError: true)!]).SelectMany(type =>
        {
            Dictionary<string, string> names = type.GetFields(BindingFlags.Public | BindingFlags.Static).Where(field => field.IsLiteral).ToDictionary(field => field.Name, field => (string)field.GetRawConstantValue()!, StringComparer.Ordinal);
            Assert.True(names.Remove("SourceName", out string? source));
            return names.Values.Select(name => $"{source}, {name}");
        });
        string[][] rows = [.. File.ReadLines(Path.Combine(Repository.Root, "services", "README.md")).SkipWhile(line => line != "## Traces").Where(line => line.StartsWith("| `", StringComparison.Ordinal)).Select(row => row.Split('|'))];
        Assert.Equal(
            declared.Order(StringComparer.Ordinal),
            rows.Where(cells => cells[1].Trim() != "`Vmm.Client`").Select(cells => $"{cells[1].Trim().Trim('`')}, {cells[2].Trim().Trim('`')}").Order(StringComparer.Ordinal));
        Assert.Single(rows, cells => cells[1].Trim() == $"`{Client.VmmConnection.TraceSource}`");
    }

    [Fact]
    public async Task A_deferred_inhibit_is_one_trace_from_the_client_to_its_application_on_the_vcpu()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        Assert.DoesNotContain(_spans.Ended, span => span.OperationName == "apicv.update" && (int)span.GetTagItem("vmm.vcpu")! == 0);
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
        await EventuallyAsync(() => _spans.Ended.Any(span => span.OperationName == "apicv.update" && (int)span.GetTagItem("vmm.vcpu")! == 0), "the span of the update");

        Activity update = _spans.Ended.Single(span => span.OperationName == "apicv.update" && (int)span.GetTagItem("vmm.vcpu")! == 0);
        Assert.Equal("hyper_v", update.GetTagItem("vmm.apicv.reason"));
        Assert.Equal("deferred", update.GetTagItem("vmm.result"));
        Assert.Equal("1", update.GetTagItem("vmm.apicv.generation"));
        Assert.Equal(["deferred", "l2.exit"], update.Events.Select(item => item.Name));
        Dictionary<string, object?> exit = update.Events.Last().Tags.ToDictionary(StringComparer.Ordinal);
        Assert.Equal("vmcall", exit["vmm.exit.reason"]);
        Assert.True((long)exit["vmm.apicv.deferral.instructions"]! > 0);

        // Up to the client, without a gap, and there it begins.
        Activity call = Assert.Single(_spans.Ended, span => span.OperationName == "vmm.v1.VmService/SetApicvInhibit");
        Assert.Equal("OK", call.GetTagItem("rpc.response.status_code"));
        Assert.Equal(["Vmm.Worker", "Microsoft.AspNetCore", "System.Net.Http", "Grpc.Net.Client", "Vmm.Client"], _spans.AncestorsOf(update).Select(span => span.Source.Name));
        Assert.Equal(call.SpanId, _spans.AncestorsOf(update).Last().SpanId);
        Assert.Equal(default, call.ParentSpanId);
        Assert.True(update.StartTimeUtc + update.Duration > call.StartTimeUtc + call.Duration, "the change was applied before the call was answered");
    }

    [Fact]
    public async Task What_a_start_and_a_snapshot_consist_of_is_in_their_traces()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "now", Snapshot = new Snapshot { Vm = Name } });
        await Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = "projects/default/snapshots/now", VmId = "two", Paused = true });
        await EventuallyAsync(() => _spans.Ended.Any(span => span.OperationName == "boot.silent"), "the guest's first output");
        Assert.Equal(["placement"], _spans.PartsOf("vmm.v1.VmService/CreateVm"));
        Assert.Equal(["boot.load", "boot.queue", "boot.silent"], _spans.PartsOf("vmm.v1.VmService/StartVm"));
        Assert.Equal(["snapshot.digest", "snapshot.disks", "snapshot.pause", "snapshot.write"], _spans.PartsOf("vmm.v1.SnapshotService/CreateSnapshot"));
        Assert.Equal(["boot.queue", "placement", "restore.disks", "restore.machine"], _spans.PartsOf("vmm.v1.SnapshotService/RestoreSnapshot"));
        Activity write = _spans.Ended.Single(span => span.OperationName == "snapshot.write");
        Assert.Equal("snapshot.pause", _spans.AncestorsOf(write).ElementAt(1).OperationName);
        // A guest that ends without a word ends what waits for it.
        await Vms.StopVmAsync(new StopVmRequest { Name = "projects/default/vms/two", Force = true });
        await EventuallyAsync(() => _spans.Ended.Any(span => span.OperationName == "boot.silent" && span.Status == ActivityStatusCode.Error), "the end of the silence");
        Assert.Equal(["boot.queue", "boot.silent", "placement", "restore.disks", "restore.machine"], _spans.PartsOf("vmm.v1.SnapshotService/RestoreSnapshot"));
    }

    [Fact]
    public async Task A_call_that_fails_says_so()
    {
        await Assert.ThrowsAsync<RpcException>(async () => await Vms.GetVmAsync(new GetVmRequest { Name = Name }));
        Activity call = Assert.Single(_spans.Ended, span => span.OperationName == "vmm.v1.VmService/GetVm");
        Assert.Equal(("NOT_FOUND", ActivityStatusCode.Error), (call.GetTagItem("rpc.response.status_code"), call.Status));
        Assert.Null(Activity.Current);
    }
}
