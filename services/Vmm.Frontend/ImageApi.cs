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

/// <summary>The public API of images. The contract is in <c>protos/vmm/v1/image_service.proto</c>.</summary>
public sealed class ImageApi(FleetRouter fleet, ImageCopies copies, IAccessRegistry access, IAuthorizer authorizer) : ImageService.ImageServiceBase
{
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
        violations.DisplayName(start.DisplayName, "start.display_name");
        violations.ThrowIfAny();
        string name = ResourceName.Image(start.Parent, start.Sha256);
        await authorizer.AuthorizeAsync(context, name);
        await access.AdmitImageAsync(name, context.CancellationToken);
        try
        {
            Image image = await UploadAsync(name, start, requestStream, context);
            await copies.KeepAsync(image, context.CancellationToken);
            return image;
        }
        finally
        {
            await access.SettleImageAsync(name, CancellationToken.None);
        }
    }

    /// <inheritdoc/>
    public override async Task<QueryImageUploadResponse> QueryImageUpload(QueryImageUploadRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        string parent = violations.Parent(request.Parent);
        violations.Sha256(request.Sha256);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, parent);
        VmHostService.VmHostServiceClient worker = await fleet.UploadTargetAsync(ResourceName.Image(parent, request.Sha256), context.CancellationToken);
        return await worker.QueryImageUploadAsync(new QueryImageUploadRequest { Parent = parent, Sha256 = request.Sha256 }, cancellationToken: context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Image> GetImage(GetImageRequest request, ServerCallContext context)
    {
        await CheckAsync(new Violations(), request.Name, context);
        IReadOnlyList<WorkerAddress> holders = (await fleet.Registry.LocateImageAsync(request.Name, null, context.CancellationToken)).Holders;
        return holders.Count == 0 ? throw ApiError.NotFound(request.Name) : await fleet.Connect(holders[0]).GetImageAsync(request, cancellationToken: context.CancellationToken);
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
        IReadOnlyList<Image> all = await fleet.Registry.ListImagesAsync(parent, context.CancellationToken);
        (List<Image> page, string next) = pager.Take(all.Where(image => matches(image)));
        return new ListImagesResponse { Images = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteImage(DeleteImageRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Change(request.Etag, request.RequestId);
        await CheckAsync(violations, request.Name, context);
        (IReadOnlyList<WorkerAddress> holders, byte[]? answer) = await fleet.Registry.LocateImageAsync(
            request.Name, RequestKeys.Of(nameof(DeleteImage), RequestKeys.ProjectOf(request.Name), request), context.CancellationToken);
        if (answer is not null)
            return new Empty();
        if (holders.Count == 0)
            throw ApiError.NotFound(request.Name);
        // The request is done when the last copy is gone, and its id is noted with that one. A copy that is in use refuses; those
        // that are gone by then come back where they are needed.
        foreach (WorkerAddress holder in holders.Skip(1))
            await fleet.Connect(holder).DeleteImageAsync(new DeleteImageRequest { Name = request.Name, Etag = request.Etag }, cancellationToken: context.CancellationToken);
        return await fleet.Connect(holders[0]).DeleteImageAsync(request, cancellationToken: context.CancellationToken);
    }

    private async Task<Image> UploadAsync(string name, UploadImageStart start, IAsyncStreamReader<UploadImageRequest> requestStream, ServerCallContext context)
    {
        VmHostService.VmHostServiceClient worker = await fleet.UploadTargetAsync(name, context.CancellationToken);
        using AsyncClientStreamingCall<UploadImageRequest, Image> call = worker.UploadImage(cancellationToken: context.CancellationToken);
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
                    await WorkerStreams.SendAsync(call.RequestStream, requestStream.Current, ending);
                }

                await call.RequestStream.CompleteAsync();
            },
            async ending => await call.ResponseAsync.WaitAsync(ending),
            context.CancellationToken);
        return await call.ResponseAsync;
    }

    private async Task CheckAsync(Violations violations, string name, ServerCallContext context)
    {
        violations.ImageName(name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
    }
}
