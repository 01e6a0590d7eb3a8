using Grpc.Core;
using Vmm.Client;
using Vmm.Frontend;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

public sealed class AdmissionTests
{
    [Fact]
    public async Task Beyond_what_may_be_under_way_a_call_is_refused_at_once_and_health_is_not()
    {
        var admission = new AdmissionInterceptor(new FrontendOptions { MaxConcurrentCalls = 2 });
        var held = new TaskCompletionSource<Vm>();
        Task<Vm>[] under = [.. Enumerable.Range(0, 2).Select(_ => CallAsync(held.Task))];
        RpcException refused = await Assert.ThrowsAsync<RpcException>(() => CallAsync(Task.FromResult(new Vm())));
        Assert.Equal((StatusCode.ResourceExhausted, "OVERLOADED"), (refused.StatusCode, VmmError.From(refused).Reason));
        await admission.UnaryServerHandler(new Grpc.Health.V1.HealthCheckRequest(), null!, static (_, _) => Task.FromResult(new Grpc.Health.V1.HealthCheckResponse()));
        held.SetException(new InvalidOperationException("a call that fails leaves its place, too"));
        foreach (Task<Vm> call in under)
            await Assert.ThrowsAsync<InvalidOperationException>(() => call);
        await CallAsync(Task.FromResult(new Vm()));

        Task<Vm> CallAsync(Task<Vm> answer) => admission.UnaryServerHandler(new GetVmRequest(), null!, (_, _) => answer);
    }
}
