using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Grpc.Core;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend;

/// <content>Clones.</content>
public sealed partial class VmApi
{
    private const int MaxClones = 256;

    /// <summary>Of one call, so that it leaves room for others.</summary>
    private const int ClonesAtOnce = 16;

    /// <inheritdoc/>
    public override async Task<CloneVmResponse> CloneVm(CloneVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        int count = request.Count == 0 ? 1 : request.Count;
        violations.RequestId(request.RequestId);
        violations.Labels(request.Labels, "labels");
        violations.Check(count is >= 1 and <= MaxClones, "count", $"is {request.Count}; from 1 to {MaxClones} clones can be made by a call.");
        violations.NewId(request.VmIdPrefix, "vm_id_prefix");
        violations.Check(
            request.VmIdPrefix.Length == 0 || ResourceName.IsId(string.Create(CultureInfo.InvariantCulture, $"{request.VmIdPrefix}-{MaxClones}")), "vm_id_prefix", "is too long for ids that begin with it.");
        string source = CheckSource(violations, request, parent);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        await authorizer.AuthorizeAsync(context, source);

        string prefix = request.VmIdPrefix.Length > 0 ? request.VmIdPrefix : MadeUpId.For("clone", parent, request.RequestId);
        bool isOfVm = request.SourceCase == CloneVmRequest.SourceOneofCase.Vm;
        string snapshot = isOfVm ? ResourceName.Snapshot(parent, MadeUpId.For("clone", parent, request.RequestId)) : source;
        await ClaimAsync(new CloneVmRequest(request) { Parent = parent, Count = count }, source, isOfVm, context.CancellationToken);
        if (isOfVm)
            await TakeAsync(parent, snapshot, source, PartOf(request.RequestId, "take"), context.CancellationToken);
        var restores = Enumerable.Range(1, count).Select(number => new RestoreSnapshotRequest
        {
            Name = snapshot,
            VmId = string.Create(CultureInfo.InvariantCulture, $"{prefix}-{number}"),
            Labels = { request.Labels },
            Paused = request.Paused,
            RequestId = PartOf(request.RequestId, number.ToString(CultureInfo.InvariantCulture)),
        }).ToArray();
        (CloneVmResponse response, RpcException? failure) = await RestoreAllAsync(parent, restores, context.CancellationToken);
        if (isOfVm)
            await ForgetAsync(snapshot, PartOf(request.RequestId, "forget"), context.CancellationToken);
        if (failure is not null && response.Results.All(result => result.ResultCase == CloneResult.ResultOneofCase.Failure))
            throw failure;
        return response;
    }

    private static string CheckSource(Violations violations, CloneVmRequest request, string parent)
    {
        (string source, string field) = request.SourceCase switch
        {
            CloneVmRequest.SourceOneofCase.Snapshot => (request.Snapshot, "snapshot"),
            CloneVmRequest.SourceOneofCase.Vm => (request.Vm, "vm"),
            _ => ("", ""),
        };
        string? owner = null;
        if (field == "snapshot")
            violations.SnapshotName(source, field);
        else if (field == "vm")
            violations.VmName(source, field);
        else
            violations.Add("snapshot", "or vm must be set.");
        if (ResourceName.TryParseSnapshot(source, out owner, out _) || ResourceName.TryParseVm(source, out owner, out _))
            violations.Check(owner == parent, field, $"is {ApiError.Quote(source)}; it must be of {ApiError.Quote(parent)}, where the clones are to be.");
        return source;
    }

    /// <summary>
    /// Takes the request's id, which the requests that it consists of do not have, unless there is nothing to clone. A repetition may come after its source is gone.
    /// </summary>
    private async Task ClaimAsync(CloneVmRequest request, string source, bool isOfVm, CancellationToken cancellation)
    {
        RequestKey? key = RequestKeys.Of(nameof(CloneVm), request.Parent, request);
        _ = isOfVm ? await fleet.Registry.LocateVmAsync(source, key, cancellation) : await fleet.Registry.LocateSnapshotAsync(source, key, cancellation);
        if (key is not null)
            await fleet.Registry.ClaimRequestAsync(key, cancellation);
    }

    private async Task<(CloneVmResponse Response, RpcException? Failure)> RestoreAllAsync(string parent, RestoreSnapshotRequest[] restores, CancellationToken cancellation)
    {
        var results = new CloneResult[restores.Length];
        RpcException? failure = null;
        await Parallel.ForAsync(0, restores.Length, new ParallelOptions { MaxDegreeOfParallelism = ClonesAtOnce, CancellationToken = cancellation }, async (i, _) =>
        {
            results[i] = new CloneResult { Name = ResourceName.Vm(parent, restores[i].VmId) };
            try
            {
                results[i].Vm = await fleet.RestoreAsync(restores[i], cancellation);
            }
            catch (RpcException exception) when (!cancellation.IsCancellationRequested)
            {
                Interlocked.CompareExchange(ref failure, exception, null);
                results[i].Failure = new CloneFailure { Code = (int)exception.StatusCode, Reason = ApiError.ReasonOf(exception), Message = exception.Status.Detail };
            }
        });
        return (new CloneVmResponse { Results = { results } }, failure);
    }

    private async Task TakeAsync(string parent, string snapshot, string vm, string requestId, CancellationToken cancellation)
    {
        var request = new CreateSnapshotRequest { Parent = parent, SnapshotId = snapshot[(snapshot.LastIndexOf('/') + 1)..], Snapshot = new Snapshot { Vm = vm }, RequestId = requestId };
        await fleet.ChangeVmAsync(
            vm, RequestKeys.Of(nameof(SnapshotApi.CreateSnapshot), parent, request), worker => worker.CreateSnapshotAsync(request, cancellationToken: cancellation), cancellation);
    }

    private async Task ForgetAsync(string snapshot, string requestId, CancellationToken cancellation)
    {
        var request = new DeleteSnapshotRequest { Name = snapshot, RequestId = requestId };
        try
        {
            await fleet.DeleteSnapshotAsync(request, cancellation);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // By somebody else, who has seen it in the list.
        }
    }

    /// <summary>The id of one of the requests that a request consists of; none where that has none.</summary>
    private static string PartOf(string requestId, string part) =>
        requestId.Length == 0 ? "" : Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes($"{requestId} {part}")).AsSpan(0, 20));
}
