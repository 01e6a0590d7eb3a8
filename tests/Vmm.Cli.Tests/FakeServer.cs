using System.Collections.Concurrent;
using System.Net;
using System.Security.Cryptography.X509Certificates;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <summary>The API over a real connection, with guests that are delegates.</summary>
internal sealed class FakeServer : IAsyncDisposable
{
    private readonly WebApplication _application;

    private FakeServer(WebApplication application, FakeVmService vms, FakeImageService images, FakeSnapshotService snapshots)
    {
        Snapshots = snapshots;
        _application = application;
        Vms = vms;
        Images = images;
    }

    public FakeVmService Vms { get; }

    public FakeImageService Images { get; }

    public FakeSnapshotService Snapshots { get; }

    public FakeWorkerService Workers => _application.Services.GetRequiredService<FakeWorkerService>();

    public string Address =>
        _application.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single();

    public static async Task<FakeServer> StartAsync(X509Certificate2? certificate = null)
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(IPAddress.Loopback, 0, listen =>
        {
            listen.Protocols = HttpProtocols.Http2;
            if (certificate is not null)
                listen.UseHttps(certificate);
        }));
        builder.Services.AddGrpc();
        var vms = new FakeVmService();
        var images = new FakeImageService();
        var snapshots = new FakeSnapshotService(vms);
        builder.Services.AddSingleton(vms).AddSingleton(images).AddSingleton(snapshots).AddSingleton<FakeWorkerService>();
        var application = builder.Build();
        application.MapGrpcService<FakeVmService>();
        application.MapGrpcService<FakeImageService>();
        application.MapGrpcService<FakeSnapshotService>();
        application.MapGrpcService<FakeWorkerService>();
        await application.StartAsync();
        return new FakeServer(application, vms, images, snapshots);
    }

    public async ValueTask DisposeAsync()
    {
        Vms.EndAll();
        await _application.DisposeAsync();
    }
}

/// <summary>Images that are kept in memory.</summary>
internal sealed class FakeImageService : ImageService.ImageServiceBase
{
    public ConcurrentDictionary<string, byte[]> Contents { get; } = new(StringComparer.Ordinal);

    public override Task<QueryImageUploadResponse> QueryImageUpload(QueryImageUploadRequest request, ServerCallContext context)
    {
        var response = new QueryImageUploadResponse();
        if (Contents.TryGetValue(request.Sha256, out var content))
            response.Image = Describe(request.Parent, request.Sha256, content, "");
        return Task.FromResult(response);
    }

    public override async Task<Image> UploadImage(IAsyncStreamReader<UploadImageRequest> requestStream, ServerCallContext context)
    {
        await requestStream.MoveNext(context.CancellationToken);
        var start = requestStream.Current.Start;
        using var content = new MemoryStream();
        while (await requestStream.MoveNext(context.CancellationToken))
            requestStream.Current.Data.WriteTo(content);
        Contents[start.Sha256] = content.ToArray();
        return Describe(start.Parent, start.Sha256, content.ToArray(), start.DisplayName);
    }

    public override Task<ListImagesResponse> ListImages(ListImagesRequest request, ServerCallContext context) =>
        Task.FromResult(new ListImagesResponse { Images = { Contents.Select(image => Describe(request.Parent, image.Key, image.Value, "")) } });

    private static Image Describe(string parent, string sha256, byte[] content, string displayName) =>
        new() { Name = $"{parent}/images/sha256-{sha256}", Sha256 = sha256, SizeBytes = content.Length, DisplayName = displayName };
}
