using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>
/// The public API of VMs: validates, authorises, finds the worker, passes on. Keeps nothing between calls. The contract is in
/// <c>protos/vmm/v1/vm_service.proto</c>.
/// </summary>
public sealed partial class VmApi(IFleetRegistry fleet, IAuthorizer authorizer, FrontendOptions options) : VmService.VmServiceBase
{
    private const int MaxMemoryTransfer = 1 << 20;
    private const int MaxInputBytes = 64 << 10;
    private static readonly TimeSpan MaxGracePeriod = TimeSpan.FromHours(1);

    /// <inheritdoc/>
    public override async Task<Vm> CreateVm(CreateVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.RequestId(request.RequestId);
        violations.NewId(request.VmId, "vm_id");
        if (violations.Check(request.Vm is not null, "vm", "is required."))
        {
            violations.Labels(request.Vm!.Labels, "vm.labels");
            violations.Etag(request.Vm.Etag, "vm.etag");
            if (violations.Check(request.Vm.Spec is not null, "vm.spec", "is required."))
                VmSpecRules.Check(request.Vm.Spec!, parent, options, violations);
        }

        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        var resolved = new CreateVmRequest
        {
            Parent = parent,
            VmId = request.VmId.Length > 0 ? request.VmId : MadeUpId.For("vm", parent, request.RequestId),
            RequestId = request.RequestId,
            // Output-only fields are the server's to fill.
            Vm = new Vm { Spec = VmSpecRules.WithDefaults(request.Vm!.Spec!), Labels = { request.Vm.Labels } },
        };
        WorkerEndpoint worker = await fleet.PlaceAsync(ResourceName.Vm(parent, resolved.VmId), resolved.Vm.Spec, context.CancellationToken);
        return await worker.Client.CreateVmAsync(resolved, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> GetVm(GetVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindAsync(new Violations(), request.Name, context);
        return await worker.Client.GetVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ListVmsResponse> ListVms(ListVmsRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.PageToken(request.PageToken);
        violations.ThrowIfAny();
        Predicate<Vm> matches = ResourceFields.VmFilter(request.Filter);
        var pager = new Pager<Vm>(
            $"vms {parent} {request.Filter}",
            request.PageSize,
            request.PageToken,
            request.OrderBy,
            ResourceFields.VmOrders,
            static vm => new Vm { Name = vm.Name, CreateTime = vm.CreateTime, UpdateTime = vm.UpdateTime, Status = new VmStatus { State = vm.Status.State } });
        await authorizer.AuthorizeAsync(context, parent);
        var all = new List<Vm>();
        foreach (WorkerEndpoint worker in fleet.Workers)
            all.AddRange(await WorkerStreams.CollectAsync(
                worker.Client.ListVms(new ListWorkerVmsRequest { Parent = parent }, cancellationToken: context.CancellationToken), context.CancellationToken));
        (List<Vm> page, string next) = pager.Take(all.Where(vm => matches(vm)));
        return new ListVmsResponse { Vms = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Vm> UpdateVm(UpdateVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Change(request.Vm?.Etag ?? "", request.RequestId, "vm.etag");
        foreach (string path in request.UpdateMask?.Paths.Take(16) ?? [])
        {
            if (path is not ("labels" or "*"))
                violations.Add("update_mask", $"has {ApiError.Quote(path)}; only labels can be changed after a VM was created.");
        }

        if (violations.Check(request.Vm is not null, "vm", "is required."))
            violations.Labels(request.Vm!.Labels, "vm.labels");

        WorkerEndpoint worker = await FindAsync(violations, request.Vm?.Name ?? "", context, "vm.name");
        var resolved = new UpdateVmRequest
        {
            Vm = new Vm { Name = request.Vm!.Name, Etag = request.Vm.Etag, Labels = { request.Vm.Labels } },
            RequestId = request.RequestId,
        };
        return await worker.Client.UpdateVmAsync(resolved, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteVm(DeleteVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.DeleteVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> StartVm(StartVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.StartVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> StopVm(StopVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Duration(request.GracePeriod, MaxGracePeriod, "grace_period");
        violations.Check(!request.Force || request.GracePeriod is null, "grace_period", "must not be set together with force.");
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context, violations);
        return await worker.Client.StopVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> PauseVm(PauseVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.PauseVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> ResumeVm(ResumeVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.ResumeVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> ResetVm(ResetVmRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.ResetVmAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<InjectNmiResponse> InjectNmi(InjectNmiRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, "", request.RequestId, context, violations);
        return await worker.Client.InjectNmiAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> AddVcpu(AddVcpuRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, request.Etag, request.RequestId, context);
        return await worker.Client.AddVcpuAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task Console(IAsyncStreamReader<ConsoleRequest> requestStream, IServerStreamWriter<ConsoleResponse> responseStream, ServerCallContext context)
    {
        var violations = new Violations();
        if (!await requestStream.MoveNext(context.CancellationToken) || requestStream.Current.RequestCase != ConsoleRequest.RequestOneofCase.Attach)
            throw ApiError.InvalidField("attach", "must be set in the first request.");
        ConsoleRequest first = requestStream.Current;
        ConsoleAttach attach = first.Attach;
        violations.Check(System.Enum.IsDefined(attach.Until), "attach.until", $"is {(int)attach.Until}, which this server does not know.");
        violations.Check(!attach.HasScrollbackBytes || attach.ScrollbackBytes >= 0, "attach.scrollback_bytes", "must not be negative.");
        violations.Check(!attach.HasScrollbackBytes || !attach.HasResumeOffset, "attach.resume_offset", "must not be set together with scrollback_bytes.");
        violations.Check(!attach.TakeOver || attach.Write, "attach.take_over", "needs write.");
        WorkerEndpoint worker = await FindAsync(violations, attach.Name, context, "attach.name");
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> call = worker.Client.Console(cancellationToken: context.CancellationToken);
        await call.RequestStream.WriteAsync(first, context.CancellationToken);
        await WorkerStreams.RunAsync(
            async ending =>
            {
                while (await requestStream.MoveNext(ending))
                {
                    if (requestStream.Current.RequestCase != ConsoleRequest.RequestOneofCase.Input)
                        throw ApiError.InvalidField("input", "must be set in every request but the first.");
                    if (requestStream.Current.Input.Length > MaxInputBytes)
                        throw ApiError.InvalidField("input", $"has {requestStream.Current.Input.Length} bytes; at most {MaxInputBytes} fit into a message.");
                    await call.RequestStream.WriteAsync(requestStream.Current, ending);
                }

                await call.RequestStream.CompleteAsync();
            },
            async ending =>
            {
                // A write to a client that is cancelled resets the stream, and the status is lost: only the client's own leaving does that.
                while (await call.ResponseStream.MoveNext(ending))
                    await responseStream.WriteAsync(call.ResponseStream.Current, context.CancellationToken);
            },
            context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ReadMemoryResponse> ReadMemory(ReadMemoryRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckMemory(violations, request.AddressSpace, request.Vcpu, request.Address, request.Length, "length");
        WorkerEndpoint worker = await FindAsync(violations, request.Name, context);
        return await worker.Client.ReadMemoryAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<WriteMemoryResponse> WriteMemory(WriteMemoryRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckMemory(violations, request.AddressSpace, request.Vcpu, request.Address, request.Data.Length, "data");
        WorkerEndpoint worker = await FindForChangeAsync(request.Name, "", request.RequestId, context, violations);
        return await worker.Client.WriteMemoryAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<VcpuRegisters> GetRegisters(GetRegistersRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        WorkerEndpoint worker = await FindAsync(violations, request.Name, context);
        return await worker.Client.GetRegistersAsync(request, cancellationToken: context.CancellationToken);
    }

    private static void CheckMemory(Violations violations, AddressSpace space, int vcpu, ulong address, int length, string lengthField)
    {
        violations.Check(System.Enum.IsDefined(space), "address_space", $"is {(int)space}, which this server does not know.");
        violations.Vcpu(vcpu);
        violations.Check(space == AddressSpace.Virtual || vcpu == 0, "vcpu", "must not be set for physical addresses.");
        if (violations.Check(length is >= 1 and <= MaxMemoryTransfer, lengthField, $"has {length} bytes; from 1 to {MaxMemoryTransfer} are possible."))
            violations.Check(address <= ulong.MaxValue - (ulong)(length - 1), "address", "and length go beyond the end of the address space.");
    }

    private Task<WorkerEndpoint> FindForChangeAsync(string name, string etag, string requestId, ServerCallContext context, Violations? violations = null)
    {
        violations ??= new Violations();
        violations.Change(etag, requestId);
        return FindAsync(violations, name, context);
    }

    private async Task<WorkerEndpoint> FindAsync(Violations violations, string name, ServerCallContext context, string field = "name")
    {
        violations.VmName(name, field);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
        return await fleet.LocateAsync(name, context.CancellationToken);
    }
}
