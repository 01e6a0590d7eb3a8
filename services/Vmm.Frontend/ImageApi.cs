using System.Text;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Fleet;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>The public API of images. The contract is in <c>protos/vmm/v1/image_service.proto</c>.</summary>
public sealed class ImageApi(IFleetRegistry fleet, IAuthorizer authorizer) : ImageService.ImageServiceBase
{
    private const int MaxDisplayNameBytes = 255;
    private const int MaxChunkBytes = 2 << 20;

    /// <inheritdoc/>
    public override async Task<Image> UploadImage(IAsyncStreamReader<UploadImageRequest> requestStream, ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken) || requestStream.Current.RequestCase != UploadImageRequest.RequestOneofCase.Start)
            throw ApiError.InvalidField("start", "must be set in the first request.");
        UploadImageStart start = requestStream.Current.Start.Clone();
        var violations = new Violations();
        start.Parent = violations.Parent(start.Parent);
        violations.Sha256(start.Sha256, "start.sha256");
        violations.Check(start.SizeBytes >= 1, "start.size_bytes", $"is {start.SizeBytes}; an image has at least one byte.");
        violations.Check(start.Offset >= 0 && start.Offset <= Math.Max(0, start.SizeBytes), "start.offset", $"is {start.Offset}; it must be from 0 to size_bytes.");
        violations.RequestId(start.RequestId, "start.request_id");
        violations.Check(
            Encoding.UTF8.GetByteCount(start.DisplayName) <= MaxDisplayNameBytes && !start.DisplayName.Any(char.IsControl),
            "start.display_name",
            $"must be at most {MaxDisplayNameBytes} bytes without control characters.");
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, start.Parent);
        WorkerEndpoint worker = await fleet.LocateImagesAsync(start.Parent, context.CancellationToken);
        using AsyncClientStreamingCall<UploadImageRequest, Image> call = worker.Client.UploadImage(cancellationToken: context.CancellationToken);
        await call.RequestStream.WriteAsync(new UploadImageRequest { Start = start }, context.CancellationToken);
        await WorkerStreams.RunAsync(
            async ending =>
            {
                while (await requestStream.MoveNext(ending))
                {
                    if (requestStream.Current.RequestCase != UploadImageRequest.RequestOneofCase.Data)
                        throw ApiError.InvalidField("data", "must be set in every request but the first.");
                    if (requestStream.Current.Data.Length > MaxChunkBytes)
                        throw ApiError.InvalidField("data", $"has {requestStream.Current.Data.Length} bytes; at most {MaxChunkBytes} fit into a message.");
                    await call.RequestStream.WriteAsync(requestStream.Current, ending);
                }

                await call.RequestStream.CompleteAsync();
            },
            async ending => await call.ResponseAsync.WaitAsync(ending),
            context.CancellationToken);
        return await call.ResponseAsync;
    }

    /// <inheritdoc/>
    public override async Task<QueryImageUploadResponse> QueryImageUpload(QueryImageUploadRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.Sha256(request.Sha256);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        WorkerEndpoint worker = await fleet.LocateImagesAsync(parent, context.CancellationToken);
        return await worker.Client.QueryImageUploadAsync(new QueryImageUploadRequest { Parent = parent, Sha256 = request.Sha256 }, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Image> GetImage(GetImageRequest request, ServerCallContext context)
    {
        WorkerEndpoint worker = await FindAsync(new Violations(), request.Name, context);
        return await worker.Client.GetImageAsync(request, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<ListImagesResponse> ListImages(ListImagesRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.ThrowIfAny();
        Predicate<Image> matches = ResourceFields.ImageFilter(request.Filter);
        var pager = new Pager<Image>(
            $"images {parent} {request.Filter}", request.PageSize, request.PageToken, request.OrderBy, ResourceFields.ImageOrders, static image => image);
        await authorizer.AuthorizeAsync(context, parent);
        WorkerEndpoint worker = await fleet.LocateImagesAsync(parent, context.CancellationToken);
        List<Image> all = await WorkerStreams.CollectAsync(
            worker.Client.ListImages(new ListWorkerImagesRequest { Parent = parent }, cancellationToken: context.CancellationToken), context.CancellationToken);
        (List<Image> page, string next) = pager.Take(all.Where(image => matches(image)));
        return new ListImagesResponse { Images = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteImage(DeleteImageRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Change(request.Etag, request.RequestId);
        WorkerEndpoint worker = await FindAsync(violations, request.Name, context);
        return await worker.Client.DeleteImageAsync(request, cancellationToken: context.CancellationToken);
    }

    private async Task<WorkerEndpoint> FindAsync(Violations violations, string name, ServerCallContext context)
    {
        violations.ImageName(name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
        return await fleet.LocateImagesAsync(name[..name.IndexOf("/images/", StringComparison.Ordinal)], context.CancellationToken);
    }
}
