using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>The public API of snapshots. The contract is in <c>protos/vmm/v1/snapshot_service.proto</c>.</summary>
public sealed class SnapshotApi(FleetRouter fleet, IAuthorizer authorizer) : SnapshotService.SnapshotServiceBase
{
    /// <inheritdoc/>
    public override async Task<Snapshot> CreateSnapshot(CreateSnapshotRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.RequestId(request.RequestId);
        violations.NewId(request.SnapshotId, "snapshot_id");
        if (violations.Check(request.Snapshot is not null, "snapshot", "is required."))
        {
            violations.VmName(request.Snapshot!.Vm, "snapshot.vm");
            violations.Check(
                !ResourceName.TryParseVm(request.Snapshot.Vm, out string? owner, out _) || owner == parent,
                "snapshot.vm",
                $"is {ApiError.Quote(request.Snapshot.Vm)}; it must be a VM of {ApiError.Quote(parent)}, where the snapshot is to be.");
        }

        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        await authorizer.AuthorizeAsync(context, request.Snapshot!.Vm);
        var resolved = new CreateSnapshotRequest
        {
            Parent = parent,
            SnapshotId = request.SnapshotId.Length > 0 ? request.SnapshotId : MadeUpId.For("snapshot", parent, request.RequestId),
            // Output-only fields are the server's to fill.
            Snapshot = new Snapshot { Vm = request.Snapshot.Vm },
            RequestId = request.RequestId,
        };
        return await fleet.ChangeVmAsync(
            resolved.Snapshot.Vm,
            RequestKeys.Of(nameof(CreateSnapshot), parent, resolved),
            worker => worker.CreateSnapshotAsync(resolved, cancellationToken: context.CancellationToken),
            context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Snapshot> GetSnapshot(GetSnapshotRequest request, ServerCallContext context)
    {
        await CheckAsync(new Violations(), request.Name, context);
        return (await fleet.Registry.LocateSnapshotAsync(request.Name, null, context.CancellationToken)).Snapshot!;
    }

    /// <inheritdoc/>
    public override async Task<ListSnapshotsResponse> ListSnapshots(ListSnapshotsRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.PageToken(request.PageToken);
        violations.ThrowIfAny();
        Predicate<Snapshot> matches = ResourceFields.SnapshotFilter(request.Filter);
        var pager = new Pager<Snapshot>(
            $"snapshots {parent} {request.Filter}",
            request.PageSize,
            request.PageToken,
            request.OrderBy,
            ResourceFields.SnapshotOrders,
            static snapshot => new Snapshot { Name = snapshot.Name, Vm = snapshot.Vm, CreateTime = snapshot.CreateTime, SizeBytes = snapshot.SizeBytes });
        await authorizer.AuthorizeAsync(context, parent);
        IReadOnlyList<Snapshot> all = await fleet.Registry.ListSnapshotsAsync(parent, context.CancellationToken);
        (List<Snapshot> page, string next) = pager.Take(all.Where(snapshot => matches(snapshot)));
        return new ListSnapshotsResponse { Snapshots = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteSnapshot(DeleteSnapshotRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Change(request.Etag, request.RequestId);
        await CheckAsync(violations, request.Name, context);
        await fleet.DeleteSnapshotAsync(request, context.CancellationToken);
        return new Empty();
    }

    /// <inheritdoc/>
    public override async Task<Vmm.V1.Vm> RestoreSnapshot(RestoreSnapshotRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.RequestId(request.RequestId);
        violations.NewId(request.VmId, "vm_id");
        violations.Labels(request.Labels, "labels");
        await CheckAsync(violations, request.Name, context);
        string parent = ParentOf(request.Name);
        await authorizer.AuthorizeAsync(context, parent);
        RestoreSnapshotRequest resolved = request.Clone();
        if (resolved.VmId.Length == 0)
            resolved.VmId = MadeUpId.For("vm", parent, request.RequestId);
        return await fleet.RestoreAsync(resolved, context.CancellationToken);
    }

    private async Task CheckAsync(Violations violations, string name, ServerCallContext context)
    {
        violations.SnapshotName(name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
    }

    private static string ParentOf(string name) => name[..name.IndexOf("/snapshots/", StringComparison.Ordinal)];
}
