using System.Collections.Concurrent;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <summary>Snapshots of <see cref="FakeVmService"/>'s VMs; every request is kept.</summary>
internal sealed class FakeSnapshotService(FakeVmService vms) : SnapshotService.SnapshotServiceBase
{
    public ConcurrentDictionary<string, Snapshot> All { get; } = new(StringComparer.Ordinal);

    public ConcurrentQueue<IMessage> Requests { get; } = new();

    public override Task<Snapshot> CreateSnapshot(CreateSnapshotRequest request, ServerCallContext context)
    {
        Requests.Enqueue(request);
        var snapshot = new Snapshot
        {
            Name = $"{request.Parent}/snapshots/{(request.SnapshotId.Length == 0 ? "made-up" : request.SnapshotId)}",
            Vm = request.Snapshot.Vm,
            Spec = new VmSpec { MemoryMib = 64 },
            SizeBytes = 5 << 20,
            InstructionsRetired = 1234,
            GuestTime = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(1500)),
            CreateTime = Timestamp.FromDateTime(new DateTime(2030, 1, 2, 3, 4, 5, DateTimeKind.Utc)),
        };
        All[snapshot.Name] = snapshot;
        return Task.FromResult(snapshot);
    }

    public override Task<Snapshot> GetSnapshot(GetSnapshotRequest request, ServerCallContext context) => Task.FromResult(Find(request.Name));

    public override Task<ListSnapshotsResponse> ListSnapshots(ListSnapshotsRequest request, ServerCallContext context)
    {
        Requests.Enqueue(request);
        // One snapshot a page, whatever was asked for: a client must follow the tokens.
        var all = All.Values.OrderBy(snapshot => snapshot.Name, StringComparer.Ordinal).ToList();
        var at = request.PageToken.Length == 0 ? 0 : int.Parse(request.PageToken, System.Globalization.CultureInfo.InvariantCulture);
        return Task.FromResult(new ListSnapshotsResponse
        {
            Snapshots = { all.Skip(at).Take(1) },
            NextPageToken = at + 1 < all.Count ? $"{at + 1}" : "",
        });
    }

    public override Task<Empty> DeleteSnapshot(DeleteSnapshotRequest request, ServerCallContext context)
    {
        All.TryRemove(Find(request.Name).Name, out _);
        return Task.FromResult(new Empty());
    }

    public override async Task<Vmm.V1.Vm> RestoreSnapshot(RestoreSnapshotRequest request, ServerCallContext context)
    {
        Requests.Enqueue(request);
        var snapshot = Find(request.Name);
        var parent = request.Name[..request.Name.IndexOf("/snapshots/", StringComparison.Ordinal)];
        var creation = new CreateVmRequest { Parent = parent, VmId = request.VmId, Vm = new Vmm.V1.Vm { Spec = snapshot.Spec, Labels = { request.Labels } } };
        var vm = await vms.CreateVm(creation, context);
        return request.Paused ? vm : await vms.StartVm(new StartVmRequest { Name = vm.Name }, context);
    }

    private Snapshot Find(string name) => All.TryGetValue(name, out var snapshot)
        ? snapshot
        : throw new RpcException(new Status(StatusCode.NotFound, $"'{name}' does not exist."));
}
