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
        return await FindAsync(request.Name, context);
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
            await fleet.Connect(AddressOf(worker)).CheckInAsync(new CheckInRequest(), cancellationToken: context.CancellationToken);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable || WorkerFailure.IsOfConnection(exception))
        {
            // The state is what counts: the worker sees it when it next renews its lease.
        }

        return worker;
    }

    /// <inheritdoc/>
    public override async Task<WorkerDrain> GetWorkerDrain(GetWorkerDrainRequest request, ServerCallContext context)
    {
        await AuthorizeAsync(request.Name, context);
        V1.Worker worker = await FindAsync(request.Name, context);
        return worker.State switch
        {
            WorkerState.Draining => await fleet.Connect(AddressOf(worker)).GetWorkerDrainAsync(request, cancellationToken: context.CancellationToken),
            WorkerState.Lost => throw ApiError.Unavailable("WORKER_LOST", $"{worker.Name} cannot be reached."),
            _ => throw ApiError.FailedPrecondition("NOT_DRAINING", "WORKER", worker.Name, $"{worker.Name} is not draining."),
        };
    }

    private static WorkerAddress AddressOf(V1.Worker worker) => new(worker.Name, worker.Address, worker.Incarnation);

    private async Task<V1.Worker> FindAsync(string name, ServerCallContext context) =>
        (await fleet.Registry.ListWorkersAsync(context.CancellationToken)).FirstOrDefault(worker => worker.Name == name) ?? throw ApiError.NotFound(name);

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
