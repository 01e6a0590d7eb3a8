using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.Extensions.Logging;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>From names to the workers that have them, by the registry; keeps nothing. Thread-safe.</summary>
public sealed class FleetRouter(IRegistry registry, IWorkerConnector connector, FleetMeter meter, TimeProvider time, ILogger<FleetRouter> log)
{
    // A worker answers at once what a VM is, or is short of processors, or hangs, which pings find out a little later than this.
    private static readonly TimeSpan PatienceForState = TimeSpan.FromSeconds(5);

    /// <summary>For waiting.</summary>
    public TimeProvider Time => time;

    /// <summary>The registry.</summary>
    public IRegistry Registry => registry;

    /// <summary>The worker of a VM.</summary>
    /// <exception cref="RpcException">NOT_FOUND, or UNAVAILABLE where it has none that can be reached.</exception>
    public async Task<VmHostService.VmHostServiceClient> VmAsync(string name, CancellationToken cancellation) =>
        ClientOf(name, await registry.LocateVmAsync(name, null, cancellation));

    /// <summary>What a VM is, by its worker; or as the registry has it, with the reason why, where that does not answer.</summary>
    /// <exception cref="RpcException">NOT_FOUND.</exception>
    public async Task<Vm> GetVmAsync(GetVmRequest request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        Located there = await registry.LocateVmAsync(request.Name, null, cancellation);
        bool asked = there is { Worker: not null, IsLost: false };
        if (asked)
        {
            using var patience = new CancellationTokenSource(PatienceForState, time);
            using var ending = CancellationTokenSource.CreateLinkedTokenSource(patience.Token, cancellation);
            try
            {
                return await connector.Connect(there.Worker!).GetVmAsync(request, cancellationToken: ending.Token);
            }
            catch (RpcException broken) when (WorkerFailure.IsOfConnection(broken) && !cancellation.IsCancellationRequested)
            {
                log.WorkerUnreachable(nameof(VmService.VmServiceBase.GetVm), patience.IsCancellationRequested ? "it did not answer in time." : WorkerFailure.ReasonOf(broken));
            }
        }

        Vm vm = await registry.FindVmAsync(request.Name, cancellation);
        if (asked && vm.Status.WorkerCondition == WorkerCondition.Unspecified)
        {
            // The registry in memory gives out what it has.
            vm = vm.Clone();
            vm.Status.WorkerCondition = WorkerCondition.Unreachable;
        }

        return vm;
    }

    /// <summary>Changes a VM on its worker, or gives the answer of the request where it is done already.</summary>
    public async Task<TResponse> ChangeVmAsync<TResponse>(string name, RequestKey? request, Func<VmHostService.VmHostServiceClient, AsyncUnaryCall<TResponse>> call, CancellationToken cancellation)
        where TResponse : class, IMessage<TResponse>, new() =>
        await AnswerOrCallAsync(name, await registry.LocateVmAsync(name, request, cancellation), call);

    /// <summary>Deletes a snapshot on its worker, or in the registry where that is lost.</summary>
    /// <exception cref="RpcException">NOT_FOUND; ABORTED (etag).</exception>
    public async Task DeleteSnapshotAsync(DeleteSnapshotRequest request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        RequestKey? key = RequestKeys.Of(nameof(VmHostService.VmHostServiceBase.DeleteSnapshot), RequestKeys.ProjectOf(request.Name), request);
        Located there = await registry.LocateSnapshotAsync(request.Name, key, cancellation);
        if (there is { Answer: null, IsLost: true })
            await registry.DeleteLostSnapshotAsync(request.Name, request.Etag, key, cancellation);
        else
            await AnswerOrCallAsync(request.Name, there, worker => worker.DeleteSnapshotAsync(request, cancellationToken: cancellation));
    }

    /// <summary>Places a new VM and has its worker make it.</summary>
    /// <exception cref="RpcException">RESOURCE_EXHAUSTED, reason NO_WORKER; or what the worker says.</exception>
    public async Task<Vm> MakeVmAsync(NewVm vm, Func<VmHostService.VmHostServiceClient, AsyncUnaryCall<Vm>> call, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(vm);
        Located placed = await PlaceAsync(vm, cancellation);
        try
        {
            return await AnswerOrCallAsync(vm.Name, placed, call);
        }
        catch (RpcException exception) when (IsRefusal(exception.StatusCode))
        {
            await registry.AbandonVmAsync(vm.Name, placed.Generation, CancellationToken.None);
            throw;
        }
    }

    /// <summary>Places a VM that goes on where a snapshot was taken, and has its worker make it.</summary>
    /// <param name="request">Complete: with the new VM's id.</param>
    /// <param name="cancellation">The caller went away.</param>
    /// <exception cref="RpcException">As <see cref="MakeVmAsync"/>; NOT_FOUND.</exception>
    public async Task<Vm> RestoreAsync(RestoreSnapshotRequest request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        string parent = RequestKeys.ProjectOf(request.Name);
        RequestKey? key = RequestKeys.Of(nameof(VmHostService.VmHostServiceBase.RestoreSnapshot), parent, request);
        // A repetition may come after the snapshot is gone.
        Located there = await registry.LocateSnapshotAsync(request.Name, key, cancellation);
        if (there.Answer is not null)
            return Vm.Parser.ParseFrom(there.Answer);
        var placed = new NewVm { Name = ResourceName.Vm(parent, request.VmId), Spec = there.Snapshot!.Spec, Labels = request.Labels, Request = key, Snapshot = request.Name };
        return await MakeVmAsync(placed, worker => worker.RestoreSnapshotAsync(request, cancellationToken: cancellation), cancellation);
    }

    /// <summary>
    /// The workers that have an image and can be reached, and those that may take it, the one that an upload goes to first. They are the same
    /// for every front end and every part of an upload as long as the fleet is the same.
    /// </summary>
    public async Task<(IReadOnlyList<WorkerAddress> Holders, IReadOnlyList<WorkerAddress> Others)> ImageWorkersAsync(string image, CancellationToken cancellation)
    {
        HashSet<string> holders = [.. (await registry.LocateImageAsync(image, null, cancellation)).Holders.Select(holder => holder.Name)];
        ILookup<bool, V1.Worker> workers = (await registry.ListWorkersAsync(cancellation)).Where(worker => worker.State != WorkerState.Lost).ToLookup(worker => holders.Contains(worker.Name));
        return (
            [.. workers[true].Select(AddressOf)],
            [.. workers[false].Where(worker => worker.State == WorkerState.Ready).OrderBy(worker => Weight(worker.Name, image), StringComparer.Ordinal).Select(AddressOf)]);
    }

    /// <summary>A worker that has an image, or, where none has, the one that an upload of it goes to.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: there is no worker.</exception>
    public async Task<VmHostService.VmHostServiceClient> UploadTargetAsync(string image, CancellationToken cancellation)
    {
        (IReadOnlyList<WorkerAddress> holders, IReadOnlyList<WorkerAddress> others) = await ImageWorkersAsync(image, cancellation);
        return connector.Connect(holders.Concat(others).FirstOrDefault() ?? throw NoWorker());
    }

    /// <summary>Any worker that can be reached: for what none in particular has.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: there is no worker.</exception>
    public async Task<VmHostService.VmHostServiceClient> AnyAsync(CancellationToken cancellation) => connector.Connect(AddressOf(
        (await registry.ListWorkersAsync(cancellation)).FirstOrDefault(worker => worker.State != WorkerState.Lost) ?? throw NoWorker()));

    /// <summary>Calls a worker.</summary>
    public VmHostService.VmHostServiceClient Connect(WorkerAddress worker) => connector.Connect(worker);

    private async Task<Located> PlaceAsync(NewVm vm, CancellationToken cancellation)
    {
        using Activity? span = RegistryTraces.Source.Start(RegistryTraces.Placement, vm.Name);
        try
        {
            Located placed = await registry.PlaceVmAsync(vm, cancellation);
            span?.SetTag("vmm.worker.name", placed.Worker?.Name);
            // A repeated request finds the placement that was made for it.
            if (placed.IsNew)
                meter.NotePlacement();
            return placed;
        }
        catch (RpcException exception)
        {
            meter.NoteRefusal(exception);
            _ = span.Fails(exception);
            throw;
        }
        catch (Exception exception) when (span.Fails(exception))
        {
            throw;
        }
    }

    private async Task<TResponse> AnswerOrCallAsync<TResponse>(string name, Located located, Func<VmHostService.VmHostServiceClient, AsyncUnaryCall<TResponse>> call)
        where TResponse : class, IMessage<TResponse>, new()
    {
        if (located.Answer is null)
            return await call(ClientOf(name, located));
        var answer = new TResponse();
        answer.MergeFrom(located.Answer);
        return answer;
    }

    /// <summary>The worker that something is on.</summary>
    /// <exception cref="RpcException">UNAVAILABLE: there is none, or it cannot be reached.</exception>
    internal VmHostService.VmHostServiceClient ClientOf(string name, Located located) => located switch
    {
        { Worker: null } => throw ApiError.Unavailable("VM_MOVING", $"{name} waits for a worker, because its own was lost."),
        { IsLost: true } => throw ApiError.Unavailable("WORKER_LOST", $"{located.Worker.Name}, where {name} is, cannot be reached."),
        _ => connector.Connect(located.Worker),
    };

    /// <summary>Whether a worker has said no, or is of a version that does not know the method, so that nothing was made and nothing will be.</summary>
    private static bool IsRefusal(StatusCode code) => code is StatusCode.InvalidArgument or StatusCode.FailedPrecondition or StatusCode.NotFound or StatusCode.AlreadyExists
        or StatusCode.ResourceExhausted or StatusCode.OutOfRange or StatusCode.PermissionDenied or StatusCode.DataLoss or StatusCode.Aborted or StatusCode.Unimplemented;

    // Rendezvous hashing: when a worker comes or goes, only its share of the images changes its place.
    private static string Weight(string worker, string image) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes($"{worker} {image}")));

    private static WorkerAddress AddressOf(V1.Worker worker) => new(worker.Name, worker.Address, worker.Incarnation);

    private static RpcException NoWorker() => ApiError.Unavailable("NO_WORKER", "No worker can be reached.");
}
