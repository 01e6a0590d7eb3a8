using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>The public API of workers, for operators. The contract is in <c>protos/vmm/v1/worker_service.proto</c>.</summary>
public sealed class WorkersApi(FleetRouter fleet, IAuthorizer authorizer) : WorkerService.WorkerServiceBase
{
    private const string Collection = "workers";

    /// <inheritdoc/>
    public override async Task<V1.Worker> GetWorker(GetWorkerRequest request, ServerCallContext context)
    {
        await AuthorizeAsync(request.Name, context);
        return (await fleet.Registry.ListWorkersAsync(context.CancellationToken)).FirstOrDefault(worker => worker.Name == request.Name) ?? throw ApiError.NotFound(request.Name);
    }

    /// <inheritdoc/>
    public override async Task<ListWorkersResponse> ListWorkers(ListWorkersRequest request, ServerCallContext context)
    {
        var pager = new Pager<V1.Worker>(
            Collection, request.PageSize, request.PageToken, "", ResourceFields.WorkerOrders, static worker => new V1.Worker { Name = worker.Name });
        await authorizer.AuthorizeAsync(context, Collection);
        (List<V1.Worker> page, string next) = pager.Take(await fleet.Registry.ListWorkersAsync(context.CancellationToken));
        return new ListWorkersResponse { Workers = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override Task<V1.Worker> CordonWorker(CordonWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Cordoned, context);

    /// <inheritdoc/>
    public override Task<V1.Worker> UncordonWorker(UncordonWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Ready, context);

    /// <inheritdoc/>
    public override async Task<V1.Worker> DrainWorker(DrainWorkerRequest request, ServerCallContext context)
    {
        V1.Worker worker = await SetAsync(request.Name, WorkerState.Draining, context);
        try
        {
            await fleet.Connect(new WorkerAddress(worker.Name, worker.Address, worker.Incarnation)).CheckInAsync(new CheckInRequest(), cancellationToken: context.CancellationToken);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable || WorkerFailure.IsOfConnection(exception))
        {
            // The state is what counts: the worker sees it when it next renews its lease.
        }

        return worker;
    }

    private async Task<V1.Worker> SetAsync(string name, WorkerState state, ServerCallContext context)
    {
        await AuthorizeAsync(name, context);
        return await fleet.Registry.SetWorkerStateAsync(name, state, context.CancellationToken);
    }

    private async Task AuthorizeAsync(string name, ServerCallContext context)
    {
        var violations = new Violations();
        violations.WorkerName(name, "name");
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
    }
}
