using Grpc.Core;
using Microsoft.Extensions.Logging;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>A second copy of every image that is uploaded, so that its VMs can be brought up elsewhere when the worker is lost that took it. Thread-safe.</summary>
public sealed class ImageCopies(FleetRouter fleet, ILogger<ImageCopies> log)
{
    /// <summary>More would not take it either: the network is down, or the image too large for all.</summary>
    private const int MaxTargets = 3;

    /// <summary>
    /// Copies an image to a second worker where only one has it. That no worker takes it, or that there is no other, is no fault of the
    /// upload, and is only logged.
    /// </summary>
    /// <param name="image">On at least one worker.</param>
    /// <param name="cancellation">The caller went away: what was copied is kept for whoever copies it later.</param>
    public async Task KeepAsync(Image image, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(image);
        (IReadOnlyList<WorkerAddress> holders, IReadOnlyList<WorkerAddress> others) = await fleet.ImageWorkersAsync(image.Name, cancellation);
        if (holders.Count != 1)
            return;
        foreach (WorkerAddress target in others.Take(MaxTargets))
            try
            {
                await CopyAsync(image, fleet.Connect(holders[0]), fleet.Connect(target), cancellation);
                return;
            }
            catch (RpcException exception) when (!cancellation.IsCancellationRequested)
            {
                log.ImageNotCopied(image.Name, target.Name, exception.Status.Detail);
            }
    }

    private static async Task CopyAsync(Image image, VmHostService.VmHostServiceClient source, VmHostService.VmHostServiceClient target, CancellationToken cancellation)
    {
        var start = new UploadImageStart { Sha256 = image.Sha256, SizeBytes = image.SizeBytes, DisplayName = image.DisplayName, Parent = RequestKeys.ProjectOf(image.Name) };
        QueryImageUploadResponse there = await target.QueryImageUploadAsync(new QueryImageUploadRequest { Parent = start.Parent, Sha256 = start.Sha256 }, cancellationToken: cancellation);
        if (there.Image is not null)
            return;
        start.Offset = there.ReceivedBytes;
        using AsyncServerStreamingCall<ImageContent> content = source.ReadImage(new ReadImageRequest { Name = image.Name, Offset = start.Offset }, cancellationToken: cancellation);
        using AsyncClientStreamingCall<UploadImageRequest, Image> upload = target.UploadImage(cancellationToken: cancellation);
        await WorkerStreams.RunAsync(
            async ending =>
            {
                await WorkerStreams.SendAsync(upload.RequestStream, new UploadImageRequest { Start = start }, ending);
                while (await content.ResponseStream.MoveNext(ending))
                    await WorkerStreams.SendAsync(upload.RequestStream, new UploadImageRequest { Data = content.ResponseStream.Current.Data }, ending);
                await upload.RequestStream.CompleteAsync();
            },
            async ending => await upload.ResponseAsync.WaitAsync(ending),
            cancellation);
    }
}
