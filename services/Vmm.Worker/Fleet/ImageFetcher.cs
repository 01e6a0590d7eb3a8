using System.Diagnostics;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.V1;
using Vmm.Worker.Images;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker.Fleet;

/// <summary>Brings images here that VMs of this worker need and other workers have.</summary>
internal sealed class ImageFetcher(IRegistry registry, IWorkerConnector connector, WorkerStore store, ImageStore images)
{
    private static readonly TimeSpan UploadPoll = TimeSpan.FromMilliseconds(50);

    /// <summary>Sees to it that every image of a spec is here, as far as a worker has it that can be reached.</summary>
    public async Task FetchAsync(VmSpec spec, CancellationToken cancellation)
    {
        foreach (string name in SpecImages.Of(spec))
        {
            if (store.FindImage(name) is not null)
                continue;
            using Activity? span = WorkerTraces.Source.StartActivity(WorkerTraces.ImageFetch);
            span?.SetTag("vmm.image.name", name);
            foreach (WorkerAddress holder in (await registry.LocateImageAsync(name, null, cancellation)).Holders)
                if (await TryFetchAsync(name, holder, cancellation))
                    break;
        }
    }

    private async Task<bool> TryFetchAsync(string name, WorkerAddress holder, CancellationToken cancellation)
    {
        if (!ResourceName.TryParseImage(name, out string? parent, out string? sha256))
            return false;
        try
        {
            VmHostService.VmHostServiceClient client = connector.Connect(holder);
            Image image = await client.GetImageAsync(new GetImageRequest { Name = name }, cancellationToken: cancellation);
            var start = new UploadImageStart { Parent = parent, Sha256 = sha256, SizeBytes = image.SizeBytes, DisplayName = image.DisplayName, Offset = images.Query(new QueryImageUploadRequest { Parent = parent, Sha256 = sha256 }).ReceivedBytes };
            using AsyncServerStreamingCall<ImageContent> call = client.ReadImage(new ReadImageRequest { Name = name, Offset = start.Offset }, cancellationToken: cancellation);
            await images.UploadAsync(start, new ContentReader(call.ResponseStream), static _ => null, cancellation);
            return true;
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.Aborted && images.IsUploading(name))
        {
            // Another VM of the same image comes here at the same time.
            while (images.IsUploading(name))
                await Task.Delay(UploadPoll, cancellation);
            return store.FindImage(name) is not null;
        }
        catch (RpcException)
        {
            // The next holder may be better. Where none is, the VM is refused because of the missing image.
            return false;
        }
    }

    /// <summary>An image's content as the requests of an upload.</summary>
    private sealed class ContentReader(IAsyncStreamReader<ImageContent> content) : IAsyncStreamReader<UploadImageRequest>
    {
        public UploadImageRequest Current { get; private set; } = new();

        public async Task<bool> MoveNext(CancellationToken cancellationToken)
        {
            if (!await content.MoveNext(cancellationToken))
                return false;
            Current = new UploadImageRequest { Data = content.Current.Data };
            return true;
        }
    }
}
