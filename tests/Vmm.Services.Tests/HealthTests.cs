using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Grpc.Reflection.V1Alpha;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class HealthTests : ServerTest
{
    [Fact]
    public async Task Server_reflection_tells_of_every_service()
    {
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        using var call = new ServerReflection.ServerReflectionClient(channel).ServerReflectionInfo(cancellationToken: Soon);
        await call.RequestStream.WriteAsync(new ServerReflectionRequest { ListServices = "" });
        Assert.True(await call.ResponseStream.MoveNext(Soon));
        IEnumerable<string> services = call.ResponseStream.Current.ListServicesResponse.Service.Select(service => service.Name);
        Assert.Superset(new HashSet<string> { "vmm.v1.VmService", "vmm.v1.ImageService", "vmm.v1.SnapshotService", "vmm.v1.WorkerService", "grpc.health.v1.Health" }, services.ToHashSet());
    }

    [Fact]
    public async Task The_standard_health_check_answers()
    {
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        var health = new Health.HealthClient(channel);
        foreach (string service in (string[])["", "vmm.v1.VmService", "vmm.v1.ImageService"])
            Assert.Equal(HealthCheckResponse.Types.ServingStatus.Serving, (await health.CheckAsync(new HealthCheckRequest { Service = service })).Status);
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", health.CheckAsync(new HealthCheckRequest { Service = "other" }));
        using var watch = health.Watch(new HealthCheckRequest());
        Assert.True(await watch.ResponseStream.MoveNext(Soon));
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.Serving, watch.ResponseStream.Current.Status);
        Task closing = Server.DisposeAsync().AsTask();
        Assert.True(await watch.ResponseStream.MoveNext(Soon));
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.NotServing, watch.ResponseStream.Current.Status);
        await closing;
    }
}
