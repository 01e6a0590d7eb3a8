using Google.Protobuf;
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

/// <summary>
/// The public API of VMs: validates, authorises, finds the worker, passes on. Keeps nothing between calls. The contract is in
/// <c>protos/vmm/v1/vm_service.proto</c>.
/// </summary>
public sealed partial class VmApi(FleetRouter fleet, IAuthorizer authorizer, FrontendOptions options) : VmService.VmServiceBase
{
    // The paths of UpdateVm's mask; the first is what an empty mask means.
    private static readonly string[] UpdatablePaths = ["labels", "spec.cpu_weight", "spec.cpu_limit_millicpus"];

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
        var placed = new NewVm
        {
            Name = ResourceName.Vm(parent, resolved.VmId),
            Spec = resolved.Vm.Spec,
            Labels = resolved.Vm.Labels,
            Request = RequestKeys.Of(nameof(CreateVm), parent, resolved),
        };
        return await fleet.MakeVmAsync(placed, worker => worker.CreateVmAsync(resolved, cancellationToken: context.CancellationToken), context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Vm> GetVm(GetVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.VmName(request.Name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, request.Name);
        return await fleet.GetVmAsync(request, context.CancellationToken);
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
        IReadOnlyList<Vm> all = await fleet.Registry.ListVmsAsync(parent, context.CancellationToken);
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
            if (path != "*" && !UpdatablePaths.Contains(path))
                violations.Add("update_mask", $"has {ApiError.Quote(path)}; what can be changed after a VM was created is {string.Join(", ", UpdatablePaths)}.");
        }

        string[] taken = [.. request.UpdateMask is not { Paths.Count: > 0 } mask ? [UpdatablePaths[0]] : mask.Paths.Contains("*") ? UpdatablePaths : UpdatablePaths.Intersect(mask.Paths)];

        if (violations.Check(request.Vm is not null, "vm", "is required."))
        {
            violations.Labels(request.Vm!.Labels, "vm.labels");
            VmSpecRules.ProcessorShare(request.Vm.Spec ?? new VmSpec(), violations);
        }

        violations.VmName(request.Vm?.Name ?? "", "vm.name");
        violations.ThrowIfAny();
        var resolved = new UpdateVmRequest
        {
            Vm = new Vm
            {
                Name = request.Vm!.Name,
                Etag = request.Vm.Etag,
                Labels = { request.Vm.Labels },
            },
            RequestId = request.RequestId,
        };
        // Labels alone are changed as workers of the minor version before know it.
        if (!taken.SequenceEqual([UpdatablePaths[0]]))
            (resolved.UpdateMask, resolved.Vm.Spec) = (new FieldMask { Paths = { taken } }, VmSpecRules.ShareOf(request.Vm.Spec ?? new VmSpec()));
        return await ChangeAsync(nameof(UpdateVm), resolved, resolved.Vm.Name, resolved.Vm.Etag, context, static (worker, change, token) => worker.UpdateVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteVm(DeleteVmRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(DeleteVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.DeleteVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<Vm> StartVm(StartVmRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(StartVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.StartVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<Vm> StopVm(StopVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Duration(request.GracePeriod, MaxGracePeriod, "grace_period");
        violations.Check(!request.Force || request.GracePeriod is null, "grace_period", "must not be set together with force.");
        return await ChangeAsync(nameof(StopVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.StopVmAsync(change, cancellationToken: token), violations);
    }

    /// <inheritdoc/>
    public override async Task<Vm> PauseVm(PauseVmRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(PauseVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.PauseVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<Vm> ResumeVm(ResumeVmRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(ResumeVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.ResumeVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<Vm> ResetVm(ResetVmRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(ResetVm), request, request.Name, request.Etag, context, static (worker, change, token) => worker.ResetVmAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task<InjectNmiResponse> InjectNmi(InjectNmiRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        return await ChangeAsync(nameof(InjectNmi), request, request.Name, "", context, static (worker, change, token) => worker.InjectNmiAsync(change, cancellationToken: token), violations);
    }

    /// <inheritdoc/>
    public override async Task<Vm> AddVcpu(AddVcpuRequest request, ServerCallContext context)
    {
        return await ChangeAsync(nameof(AddVcpu), request, request.Name, request.Etag, context, static (worker, change, token) => worker.AddVcpuAsync(change, cancellationToken: token));
    }

    /// <inheritdoc/>
    public override async Task Console(IAsyncStreamReader<ConsoleRequest> requestStream, IServerStreamWriter<ConsoleResponse> responseStream, ServerCallContext context)
    {
        var violations = new Violations();
        if (!await requestStream.MoveNext(context.CancellationToken) || requestStream.Current.RequestCase != ConsoleRequest.RequestOneofCase.Attach)
            throw ApiError.InvalidField("attach", "must be set in the first request.");
        ConsoleAttach attach = requestStream.Current.Attach;
        violations.Check(System.Enum.IsDefined(attach.Until), "attach.until", $"is {(int)attach.Until}, which this server does not know.");
        violations.Check(!attach.HasScrollbackBytes || attach.ScrollbackBytes >= 0, "attach.scrollback_bytes", "must not be negative.");
        violations.Check(!attach.HasScrollbackBytes || !attach.HasResumeOffset, "attach.resume_offset", "must not be set together with scrollback_bytes.");
        violations.Check(!attach.TakeOver || attach.Write, "attach.take_over", "needs write.");
        violations.VmName(attach.Name, "attach.name");
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, attach.Name);
        var relay = new ConsoleRelay(fleet, attach);
        await WorkerStreams.RunAsync(
            async ending =>
            {
                while (await requestStream.MoveNext(ending))
                {
                    if (requestStream.Current.RequestCase != ConsoleRequest.RequestOneofCase.Input)
                        throw ApiError.InvalidField("input", "must be set in every request but the first.");
                    if (requestStream.Current.Input.Length > MaxInputBytes)
                        throw ApiError.InvalidField("input", $"has {requestStream.Current.Input.Length} bytes; at most {MaxInputBytes} fit into a message.");
                    await relay.WriteInputAsync(requestStream.Current.Input, ending);
                }
            },
            // A write to a client that is cancelled resets the stream, and the status is lost: only the client's own leaving does that.
            ending => relay.CopyOutputAsync(response => responseStream.WriteAsync(response, context.CancellationToken), ending),
            context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ReadMemoryResponse> ReadMemory(ReadMemoryRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckMemory(violations, request.AddressSpace, request.Vcpu, request.Address, request.Length, "length");
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.ReadMemoryAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<WriteMemoryResponse> WriteMemory(WriteMemoryRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        CheckMemory(violations, request.AddressSpace, request.Vcpu, request.Address, request.Data.Length, "data");
        return await ChangeAsync(nameof(WriteMemory), request, request.Name, "", context, static (worker, change, token) => worker.WriteMemoryAsync(change, cancellationToken: token), violations);
    }

    /// <inheritdoc/>
    public override async Task<VcpuRegisters> GetRegisters(GetRegistersRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.GetRegistersAsync(request, cancellationToken: context.CancellationToken);
    }

    private static void CheckMemory(Violations violations, AddressSpace space, int vcpu, ulong address, int length, string lengthField)
    {
        violations.Check(System.Enum.IsDefined(space), "address_space", $"is {(int)space}, which this server does not know.");
        violations.Vcpu(vcpu);
        violations.Check(space == AddressSpace.Virtual || vcpu == 0, "vcpu", "must not be set for physical addresses.");
        if (violations.Check(length is >= 1 and <= MaxMemoryTransfer, lengthField, $"has {length} bytes; from 1 to {MaxMemoryTransfer} are possible."))
            violations.Check(address <= ulong.MaxValue - (ulong)(length - 1), "address", "and length go beyond the end of the address space.");
    }

    private async Task<TResponse> ChangeAsync<TRequest, TResponse>(
        string method,
        TRequest request,
        string name,
        string etag,
        ServerCallContext context,
        Func<VmHostService.VmHostServiceClient, TRequest, CancellationToken, AsyncUnaryCall<TResponse>> call,
        Violations? violations = null)
        where TRequest : IMessage
        where TResponse : class, IMessage<TResponse>, new()
    {
        violations ??= new Violations();
        violations.VmName(name);
        violations.Change(etag, RequestKeys.IdOf(request));
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
        RequestKey? key = RequestKeys.Of(method, RequestKeys.ProjectOf(name), request);
        return await fleet.ChangeVmAsync(name, key, worker => call(worker, request, context.CancellationToken), context.CancellationToken);
    }

    private async Task<VmHostService.VmHostServiceClient> FindAsync(Violations violations, string name, ServerCallContext context, string field = "name")
    {
        violations.VmName(name, field);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
        return await fleet.VmAsync(name, context.CancellationToken);
    }
}
