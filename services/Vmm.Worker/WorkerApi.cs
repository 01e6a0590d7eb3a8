using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Consoles;
using Vmm.Worker.Machines;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <summary>The worker's side of the internal API: see <c>protos/vmm/worker/v1/worker.proto</c>.</summary>
public sealed partial class WorkerApi(WorkerHost host) : VmHostService.VmHostServiceBase
{
    private const int ImageChunkBytes = 1 << 20;

    /// <summary>A part of a request without which it means nothing. Front ends have looked at what the parts say.</summary>
    /// <exception cref="RpcException">INVALID_ARGUMENT: it is missing.</exception>
    private static T Required<T>(T? part, string field) where T : class => part ?? throw ApiError.InvalidField(field, "must be set.");

    /// <inheritdoc/>
    public override Task<Vm> CreateVm(CreateVmRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(request.Parent, nameof(CreateVm), request, scope =>
        {
            Required(Required(request.Vm, "vm").Spec, "vm.spec");
            return host.CreateAsync(request, scope);
        });

    /// <inheritdoc/>
    public override Task<Vm> GetVm(GetVmRequest request, ServerCallContext context) => Task.FromResult(host.Get(request.Name));

    /// <inheritdoc/>
    public override Task<Vm> UpdateVm(UpdateVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(UpdateVm), Required(request.Vm, "vm").Name, (vm, scope) => vm.UpdateAsync(request, scope));

    /// <inheritdoc/>
    public override Task<Empty> DeleteVm(DeleteVmRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(ParentOf(request.Name), nameof(DeleteVm), request, async scope =>
        {
            await host.DeleteAsync(request, scope);
            return new Empty();
        });

    /// <inheritdoc/>
    public override Task<Vm> StartVm(StartVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(StartVm), request.Name, (vm, scope) => vm.StartAsync(request.Etag, scope));

    /// <inheritdoc/>
    public override Task<Vm> StopVm(StopVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(StopVm), request.Name, (vm, scope) => vm.StopAsync(request, scope));

    /// <inheritdoc/>
    public override Task<Vm> PauseVm(PauseVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(PauseVm), request.Name, (vm, scope) => vm.PauseAsync(request.Etag, scope));

    /// <inheritdoc/>
    public override Task<Vm> ResumeVm(ResumeVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(ResumeVm), request.Name, (vm, scope) => vm.ResumeAsync(request.Etag, scope));

    /// <inheritdoc/>
    public override Task<Vm> ResetVm(ResetVmRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(ResetVm), request.Name, (vm, scope) => vm.ResetAsync(request.Etag, scope));

    /// <inheritdoc/>
    public override Task<InjectNmiResponse> InjectNmi(InjectNmiRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(InjectNmi), request.Name, (vm, scope) => vm.InjectNmiAsync(request.Vcpu, scope));

    /// <inheritdoc/>
    public override Task<Vm> AddVcpu(AddVcpuRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(AddVcpu), request.Name, (vm, scope) => vm.AddVcpuAsync(request.Etag, scope));

    /// <inheritdoc/>
    public override async Task Console(HostConsoleAttach request, IServerStreamWriter<HostConsoleResponse> responseStream, ServerCallContext context)
    {
        ConsoleHub console = host.Require(Required(request.Attach, "attach").Name).Console;
        ConsoleReader reader = console.Attach(request);
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, host.Closing);
        try
        {
            var response = new ConsoleResponse { Attached = new ConsoleAttached { Offset = reader.StartOffset, Writer = reader.IsWriter } };
            do
                // A write that is cancelled resets the stream, and the status is lost: only the client's own leaving does that.
                await responseStream.WriteAsync(new HostConsoleResponse { Response = response, NextRun = reader.NextRun }, context.CancellationToken);
            while ((response = await reader.ReadAsync(ending.Token)) is not null);
        }
        catch (OperationCanceledException) when (host.Closing.IsCancellationRequested && !context.CancellationToken.IsCancellationRequested)
        {
            throw ShuttingDown();
        }
        finally
        {
            console.Detach(reader);
        }
    }

    /// <inheritdoc/>
    public override async Task<WriteConsoleResponse> WriteConsole(WriteConsoleRequest request, ServerCallContext context)
    {
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, host.Closing);
        try
        {
            await host.Require(request.Name).Console.WriteInputAsync(request.Session, request.Position, request.Data.Memory, ending.Token);
            return new WriteConsoleResponse();
        }
        catch (OperationCanceledException) when (host.Closing.IsCancellationRequested && !context.CancellationToken.IsCancellationRequested)
        {
            throw ShuttingDown();
        }
    }

    /// <inheritdoc/>
    public override Task<ReadMemoryResponse> ReadMemory(ReadMemoryRequest request, ServerCallContext context) => host.Require(request.Name).ReadMemoryAsync(request);

    /// <inheritdoc/>
    public override Task<WriteMemoryResponse> WriteMemory(WriteMemoryRequest request, ServerCallContext context) =>
        ChangeAsync(request, nameof(WriteMemory), request.Name, (vm, scope) => vm.WriteMemoryAsync(request, scope));

    /// <inheritdoc/>
    public override Task<VcpuRegisters> GetRegisters(GetRegistersRequest request, ServerCallContext context) => host.Require(request.Name).GetRegistersAsync(request.Vcpu);

    /// <inheritdoc/>
    public override async Task<Image> UploadImage(IAsyncStreamReader<UploadImageRequest> requestStream, ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken) || requestStream.Current.RequestCase != UploadImageRequest.RequestOneofCase.Start)
            throw ApiError.InvalidField("start", "must be set in the first request.");
        UploadImageStart start = requestStream.Current.Start;
        // Where an upload goes on is not part of what is asked for.
        UploadImageStart asked = start.Clone();
        asked.Offset = 0;
        RequestScope scope = host.Requests.Begin(start.Parent, nameof(UploadImage), asked);
        Image image = await host.Images.UploadAsync(start, requestStream, scope.Completed, context.CancellationToken);
        await host.Requests.ReportAsync(scope, image);
        return image;
    }

    /// <inheritdoc/>
    public override Task<QueryImageUploadResponse> QueryImageUpload(QueryImageUploadRequest request, ServerCallContext context) => Task.FromResult(host.Images.Query(request));

    /// <inheritdoc/>
    public override Task<Image> GetImage(GetImageRequest request, ServerCallContext context) => Task.FromResult(host.Store.FindImage(request.Name) ?? throw ApiError.NotFound(request.Name));

    /// <inheritdoc/>
    public override async Task ReadImage(ReadImageRequest request, IServerStreamWriter<ImageContent> responseStream, ServerCallContext context)
    {
        if (host.Store.FindImage(request.Name) is null)
            throw ApiError.NotFound(request.Name);
        await using var file = new FileStream(host.Store.ImagePath(request.Name), FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, ImageChunkBytes, useAsync: true);
        file.Position = Math.Clamp(request.Offset, 0, file.Length);
        byte[] buffer = new byte[ImageChunkBytes];
        while (await file.ReadAtLeastAsync(buffer, buffer.Length, throwOnEndOfStream: false, context.CancellationToken) is > 0 and int count)
            await responseStream.WriteAsync(new ImageContent { Data = ByteString.CopyFrom(buffer, 0, count) }, context.CancellationToken);
    }

    /// <inheritdoc/>
    public override Task<CheckInResponse> CheckIn(CheckInRequest request, ServerCallContext context)
    {
        host.CheckIn?.Invoke();
        return Task.FromResult(new CheckInResponse());
    }

    /// <inheritdoc/>
    public override Task<Empty> DeleteImage(DeleteImageRequest request, ServerCallContext context) =>
        host.Requests.OnceAsync(ImageParentOf(request.Name), nameof(DeleteImage), request, async scope =>
        {
            await host.Images.DeleteAsync(request, scope.Completed(new Empty()));
            return new Empty();
        });

    private Task<TResponse> ChangeAsync<TResponse>(IMessage request, string method, string name, Func<HostedVm, RequestScope, Task<TResponse>> change)
        where TResponse : class, IMessage<TResponse>, new() =>
        host.Requests.OnceAsync(ParentOf(name), method, request, scope => change(host.Require(name), scope));

    private static RpcException ShuttingDown() => ApiError.Unavailable("SHUTTING_DOWN", "The server is shutting down.");

    private static string ParentOf(string vmName) =>
        ResourceName.TryParseVm(vmName, out string? parent, out _) ? parent : throw ApiError.InvalidField("name", "is not a VM's name.");

    private static string ImageParentOf(string imageName) =>
        ResourceName.TryParseImage(imageName, out string? parent, out _) ? parent : throw ApiError.InvalidField("name", "is not an image's name.");
}
