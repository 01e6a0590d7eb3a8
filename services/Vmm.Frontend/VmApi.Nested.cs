using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Validation;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <content>The guest's own VMX operation.</content>
public sealed partial class VmApi
{
    private const int MaxVmcsFields = 256;
    private const int MaxNestedStateBytes = 128 + 2 * 4096;
    private const int MaxTraceReasons = 128;
    private const int MaxTraceKinds = 16;
    private static readonly TimeSpan DefaultTrace = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan MaxTrace = TimeSpan.FromMinutes(10);

    /// <inheritdoc/>
    public override async Task<VcpuNested> GetVcpuNested(GetVcpuNestedRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.GetVcpuNestedAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ReadVmcsResponse> ReadVmcs(ReadVmcsRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        violations.Check(
            System.Enum.IsDefined(request.Vmcs) && request.Vmcs != VmcsKind.Unspecified, "vmcs", $"is {(int)request.Vmcs}; it must be VMCS01, VMCS02 or VMCS12.");
        violations.Check(request.Fields.Count <= MaxVmcsFields, "fields", $"has {request.Fields.Count} entries; at most {MaxVmcsFields} are possible.");
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.ReadVmcsAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task TraceExits(TraceExitsRequest request, IServerStreamWriter<TraceExitsResponse> responseStream, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Check(request.Vcpus.Count <= options.MaxVmCpus, "vcpus", $"has {request.Vcpus.Count} entries; at most {options.MaxVmCpus} are possible.");
        for (int i = 0; i < Math.Min(request.Vcpus.Count, options.MaxVmCpus); i++)
            violations.Check(request.Vcpus[i] >= 0, $"vcpus[{i}]", $"is {request.Vcpus[i]}; vCPUs are counted from 0.");
        violations.Check(request.Level is >= 0 and <= 2, "level", $"is {request.Level}; it must be 1 or 2, or 0 for both.");
        violations.Check(request.Reasons.Count <= MaxTraceReasons, "reasons", $"has {request.Reasons.Count} entries; at most {MaxTraceReasons} are possible.");
        violations.Check(System.Enum.IsDefined(request.Owner), "owner", $"is {(int)request.Owner}; it must be L0 or L1.");
        violations.Check(request.Kinds.Count <= MaxTraceKinds, "kinds", $"has {request.Kinds.Count} entries; at most {MaxTraceKinds} are possible.");
        for (int i = 0; i < Math.Min(request.Kinds.Count, MaxTraceKinds); i++)
            violations.Check(
                System.Enum.IsDefined(request.Kinds[i]) && request.Kinds[i] != ExitTraceKind.Unspecified, $"kinds[{i}]", $"is {(int)request.Kinds[i]}, which this server does not know.");
        violations.Check(request.Limit >= 0, "limit", $"is {request.Limit}; it must not be negative.");
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        using AsyncServerStreamingCall<TraceExitsResponse> call = worker.TraceExits(request, cancellationToken: context.CancellationToken);
        while (await call.ResponseStream.MoveNext(context.CancellationToken))
            await responseStream.WriteAsync(call.ResponseStream.Current, context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<TraceVmResponse> TraceVm(TraceVmRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Duration(request.Duration, MaxTrace, "duration");
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        var resolved = new TraceVmRequest { Name = request.Name, Duration = request.Duration ?? Duration.FromTimeSpan(DefaultTrace) };
        return await worker.TraceVmAsync(resolved, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<NestedState> GetNestedState(GetNestedStateRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        VmHostService.VmHostServiceClient worker = await FindAsync(violations, request.Name, context);
        return await worker.GetNestedStateAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<SetNestedStateResponse> SetNestedState(SetNestedStateRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Vcpu(request.Vcpu);
        CheckNestedState(violations, request.State.Length);
        return await ChangeAsync(nameof(SetNestedState), request, request.Name, "", context, static (worker, change, token) => worker.SetNestedStateAsync(change, cancellationToken: token), violations);
    }

    /// <inheritdoc/>
    public override async Task<DecodedNestedState> DecodeNestedState(DecodeNestedStateRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        CheckNestedState(violations, request.State.Length);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        // Any worker can: nothing of a VM is looked at.
        VmHostService.VmHostServiceClient worker = await fleet.AnyAsync(context.CancellationToken);
        return await worker.DecodeNestedStateAsync(request, cancellationToken: context.CancellationToken);
    }

    // What else is wrong with it, whoever has the engine says.
    private static void CheckNestedState(Violations violations, int bytes) =>
        violations.Check(bytes is > 0 and <= MaxNestedStateBytes, "state", $"has {bytes} bytes; at most {MaxNestedStateBytes} are possible.");
}
