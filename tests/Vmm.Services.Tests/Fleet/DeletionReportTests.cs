using Grpc.Core;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;
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

    [Fact]
    public async Task Whoever_finds_a_vm_gone_can_make_another_of_its_name()
    {
        await using MigrationFleet fleet = await MigrationFleet.StartAsync();
        string kernel = fleet.Write("kernel", "kernel"u8.ToArray());
        for (int i = 0; i < 30; i++)
        {
            var creation = new CreateVmRequest { Parent = "projects/default", VmId = $"vm{i}", Vm = new Vm { Spec = new VmSpec { MemoryMib = 8, Kernel = new FileSource { Path = kernel } } } };
            Vm vm = await fleet.Vms.CreateVmAsync(creation.Clone());
            V1.Worker holder = (await fleet.Registry.ListWorkersAsync(CancellationToken.None)).Single(worker => worker.Name == vm.Status.Worker);
            VmHostService.VmHostServiceClient worker = fleet.Connect(new WorkerAddress(holder.Name, holder.Address, holder.Incarnation));
            Task deletion = fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name }).ResponseAsync;
            Assert.Equal(StatusCode.NotFound, (await Assert.ThrowsAsync<RpcException>(async () =>
            {
                while (true)
                    await worker.GetVmAsync(new GetVmRequest { Name = vm.Name });
            })).StatusCode);
            Vm next = await worker.CreateVmAsync(creation);
            await deletion;
            Assert.Equal(next.Uid, (await fleet.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Uid);
            Assert.NotEqual(vm.Uid, next.Uid);
            await fleet.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
        }
    }
}
