using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Net;
using Vmm.Server;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>A server that nobody has told where metrics and traces go has nobody listening to them, so that they cost nothing.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed class UnconfiguredTests : ServerTest
{
    private bool _hasPage;

    protected override ServerOptions Options => base.Options with { Metrics = _hasPage ? new IPEndPoint(IPAddress.Loopback, 0) : null };

    [Theory]
    [InlineData("Vmm.Registry", "Vmm.Fleet")]
    [InlineData("Vmm.Worker", "Vmm.Worker")]
    [InlineData("Microsoft.AspNetCore", "Vmm.Engine")]
    public async Task Nobody_listens(string source, string meter)
    {
        await StartAsync();
        using var activities = new ActivitySource(source);
        Assert.False(activities.HasListeners());
        Assert.False(IsMeasured(meter));

        // With a page somebody does.
        _hasPage = true;
        await CloseAsync();
        await OpenAsync();
        Assert.True(IsMeasured(meter));
    }

    private static bool IsMeasured(string meter)
    {
        using var measured = new Meter(meter);
        return measured.CreateCounter<long>("vmm.test.measured").Enabled;
    }
}
