using Vmm.Client;
using Vmm.Registry;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Whoever repeats a deletion is answered by the registry alone: no name leads to a worker any more.</summary>
public sealed class DeletionReportTests
{
    [Fact]
    public async Task A_deletion_is_reported_together_with_its_request()
    {
        const int count = 40;
        int alone = 0, together = 0;
        await using MigrationFleet fleet = await MigrationFleet.StartAsync(static (_, _) => null, (_, method, arguments) =>
        {
            if (method != nameof(IRegistry.ReportAsync))
                return;
            var reports = (IReadOnlyList<WorkerReport>)arguments[1]!;
            foreach (VmDeletedReport deleted in reports.OfType<VmDeletedReport>())
                Interlocked.Increment(ref reports.OfType<RequestReport>().Any(request => request.Request.Id == $"delete-{deleted.Name.Split('/')[^1]}") ? ref together : ref alone);
        });
        string kernel = fleet.Write("kernel", "kernel"u8.ToArray());
        for (int i = 0; i < count; i++)
        {
            Vm vm = await fleet.Vms.CreateVmAsync(new CreateVmRequest { VmId = $"vm{i}", Vm = new Vm { Spec = new VmSpec { MemoryMib = 8, Kernel = new FileSource { Path = kernel } } } });
            await fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name, RequestId = $"delete-vm{i}" });
        }

        Assert.Equal((0, count), (alone, together));
    }
}
