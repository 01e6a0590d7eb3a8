using Grpc.Core;
using Vmm.V1;
using Xunit;
using Type = Vmm.V1.VmEvent.Types.Type;

namespace Vmm.Services.Tests;

/// <summary>vCPUs that are added to a VM.</summary>
public sealed class HotplugTests : ServerTest
{
    private const string Name = "projects/default/vms/one";

    private VmSpec OneToThree()
    {
        VmSpec spec = Spec();
        spec.MaxCpus = 3;
        return spec;
    }

    [Fact]
    public async Task A_vcpu_is_added_and_shows_in_the_vm_its_etag_and_in_watches()
    {
        Vm vm = await CreateAsync(spec: OneToThree());
        Assert.Equal((1, 3, 0), (vm.Spec.Cpus, vm.Spec.MaxCpus, vm.Status.Cpus));
        vm = await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        Assert.Equal((1, 3), (vm.Status.Cpus, Factory.Last.Spec.MaxCpus));
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project });
        for (int i = 0; i < 2; i++)
            Assert.True(await watch.ResponseStream.MoveNext(Soon));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.InjectNmiAsync(new InjectNmiRequest { Name = Name, Vcpu = 1 }));

        Vm added = await Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name, Etag = vm.Etag });
        Assert.Equal((2, 2, VmState.Running, 42UL), (added.Status.Cpus, Factory.Last.VcpuCount, added.Status.State, added.Status.InstructionsRetired));
        Assert.Equal(added, await Vms.GetVmAsync(new GetVmRequest { Name = Name }));
        Assert.NotEqual(vm.Etag, added.Etag);
        Assert.True(await watch.ResponseStream.MoveNext(Soon));
        VmEvent told = watch.ResponseStream.Current;
        Assert.Equal((Type.Modified, 2, added.Etag), (told.Type, told.Vm.Status.Cpus, told.Vm.Etag));
        await Vms.InjectNmiAsync(new InjectNmiRequest { Name = Name, Vcpu = 1 });
        Assert.Equal(2, (await Vms.GetApicvAsync(new GetApicvRequest { Name = Name })).Vcpus.Count);
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name, Etag = vm.Etag }));
    }

    [Fact]
    public async Task There_is_room_for_as_many_as_the_spec_says_while_the_vm_runs_or_is_paused()
    {
        await CreateAsync(spec: OneToThree());
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name }));
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        await Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name });
        await Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
        Assert.Equal((3, VmState.Paused), ((await Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name })).Status.Cpus, Vms.GetVm(new GetVmRequest { Name = Name }).Status.State));
        var error = await FailsAsync(StatusCode.FailedPrecondition, "NO_ROOM_FOR_VCPU", Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name }));
        Assert.Equal(("3", Name), (error.Metadata["max_cpus"], error.Preconditions[0].Subject));
        Assert.Equal(3, Factory.Last.VcpuCount);
        await StartAsync("two");
        await FailsAsync(StatusCode.FailedPrecondition, "NO_ROOM_FOR_VCPU", Vms.AddVcpuAsync(new AddVcpuRequest { Name = "projects/default/vms/two" }));

        // They belong to the run: the next one begins as the spec says.
        Assert.Equal(3, (await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true })).Status.Cpus);
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name }));
        Assert.Equal(1, (await Vms.StartVmAsync(new StartVmRequest { Name = Name })).Status.Cpus);
    }

    [Fact]
    public async Task A_request_with_the_same_id_adds_one_over_a_restart_too()
    {
        await StartAsync(spec: OneToThree());
        var request = new AddVcpuRequest { Name = Name, RequestId = "add-1" };
        Vm added = await Vms.AddVcpuAsync(request);
        Assert.Equal(added, await Vms.AddVcpuAsync(request));
        Assert.Equal(2, Factory.Last.VcpuCount);
        await CloseAsync();
        await OpenAsync();
        Assert.Equal(added, await Vms.AddVcpuAsync(request));
        Vm kept = await Vms.GetVmAsync(new GetVmRequest { Name = Name });
        Assert.Equal((VmState.Stopped, 2, 3), (kept.Status.State, kept.Status.Cpus, kept.Spec.MaxCpus));
    }
}
