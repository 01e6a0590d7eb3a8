using Grpc.Core;
using Vmm.V1;
using Vmm.Worker.Machines;

namespace Vmm.Worker;

/// <content>The guest's own VMX operation.</content>
public sealed partial class WorkerApi
{
    /// <inheritdoc/>
    public override Task<VcpuNested> GetVcpuNested(GetVcpuNestedRequest request, ServerCallContext context) => host.Require(request.Name).GetVcpuNestedAsync(request.Vcpu);

    /// <inheritdoc/>
    public override Task<ReadVmcsResponse> ReadVmcs(ReadVmcsRequest request, ServerCallContext context) => host.Require(request.Name).ReadVmcsAsync(request);

    /// <inheritdoc/>
    public override Task<TraceVmResponse> TraceVm(TraceVmRequest request, ServerCallContext context) =>
        host.Require(request.Name).TraceFullyAsync(Required(request.Duration, "duration").ToTimeSpan());

    /// <inheritdoc/>
    public override async Task TraceExits(TraceExitsRequest request, IServerStreamWriter<TraceExitsResponse> responseStream, ServerCallContext context)
    {
        using ExitTraceReader trace = await host.Require(request.Name).TraceExitsAsync(request);
        await responseStream.WriteAsync(new TraceExitsResponse(), context.CancellationToken);
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, host.Closing);
        long left = request.Limit > 0 ? request.Limit : long.MaxValue;
        while (left > 0)
        {
            TraceExitsResponse part;
            try
            {
                part = await trace.ReadAsync(left, ending.Token);
            }
            catch (OperationCanceledException) when (!context.CancellationToken.IsCancellationRequested)
            {
                throw ShuttingDown();
            }

            await responseStream.WriteAsync(part, context.CancellationToken);
            if (part.RunEnded is not null)
                return;
            left -= part.Records.Count;
        }
    }

    /// <inheritdoc/>
    public override Task<NestedState> GetNestedState(GetNestedStateRequest request, ServerCallContext context) => host.Require(request.Name).GetNestedStateAsync(request.Vcpu);

    /// <inheritdoc/>
    public override Task<SetNestedStateResponse> SetNestedState(SetNestedStateRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(SetNestedState), request.Name, (vm, scope) => vm.SetNestedStateAsync(request, scope));

    /// <inheritdoc/>
    public override Task<DecodedNestedState> DecodeNestedState(DecodeNestedStateRequest request, ServerCallContext context) =>
        Task.FromResult(NestedMessages.Decode(request.State.Span));
}
