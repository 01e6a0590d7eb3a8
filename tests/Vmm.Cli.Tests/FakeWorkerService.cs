using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <summary>One worker.</summary>
internal sealed class FakeWorkerService : WorkerService.WorkerServiceBase
{
    private readonly V1.Worker _worker = new()
    {
        Name = "workers/a",
        Address = "http://127.0.0.1:1",
        Version = "0.1.0",
        State = WorkerState.Ready,
        Labels = { ["disk"] = "fast" },
        Capacity = new WorkerResources { Vms = 100, Vcpus = 32, MemoryMib = 4096 },
        Reserved = new WorkerResources { Vms = 2, Vcpus = 3, MemoryMib = 512 },
        RunningVms = 1,
    };

    public override Task<ListWorkersResponse> ListWorkers(ListWorkersRequest request, ServerCallContext context) => Task.FromResult(new ListWorkersResponse { Workers = { _worker } });

    public override Task<V1.Worker> GetWorker(GetWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Ready);

    public override Task<V1.Worker> CordonWorker(CordonWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Cordoned);

    public override Task<V1.Worker> UncordonWorker(UncordonWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Ready);

    public override Task<V1.Worker> DrainWorker(DrainWorkerRequest request, ServerCallContext context) => SetAsync(request.Name, WorkerState.Draining);

    /// <summary>The answers of GetWorkerDrain in turn, the last of them again and again.</summary>
    public Queue<WorkerDrain> Drains { get; } = new();

    /// <summary>What happens before each of them.</summary>
    public Action? Asked { get; set; }

    public override Task<WorkerDrain> GetWorkerDrain(GetWorkerDrainRequest request, ServerCallContext context)
    {
        Asked?.Invoke();
        return Task.FromResult(Drains.Count > 1 ? Drains.Dequeue() : Drains.Peek());
    }

    private Task<V1.Worker> SetAsync(string name, WorkerState state)
    {
        if (name != _worker.Name)
            throw new RpcException(new Status(StatusCode.NotFound, name));
        _worker.State = state;
        return Task.FromResult(_worker);
    }
}
