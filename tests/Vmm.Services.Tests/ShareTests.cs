using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Client;
using Vmm.Machine.Scheduling;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>What VMs are to have of the processors, from the API to the machine.</summary>
public sealed class ShareTests : ServerTest
{
    [Fact]
    public async Task A_share_has_defaults_reaches_the_machine_and_changes_while_the_vm_runs()
    {
        Vm vm = await CreateAsync();
        Assert.Equal((0, 0), (vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
        vm = await UpdateAsync(vm.Name, new VmSpec { CpuWeight = 300, CpuLimitMillicpus = 500 }, "spec.cpu_weight", "spec.cpu_limit_millicpus");
        Assert.Equal((300, 500), (vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
        await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        Assert.Equal(new ProcessorShare { Weight = 300, LimitMillicpus = 500 }, Factory.Last.Share);

        vm = await UpdateAsync(vm.Name, new VmSpec { CpuWeight = 1, CpuLimitMillicpus = 10 }, "spec.cpu_weight");
        Assert.Equal((1, 500), (vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
        Assert.Equal(new ProcessorShare { Weight = 1, LimitMillicpus = 500 }, Factory.Last.Share);

        // It lasts, and 0 stands for the default.
        await CloseAsync();
        await OpenAsync();
        vm = await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
        Assert.Equal((1, 500), (vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
        vm = await UpdateAsync(vm.Name, new VmSpec(), "*");
        Assert.Equal((0, 0), (vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
    }

    [Fact]
    public async Task Only_what_the_mask_names_changes()
    {
        Vm vm = await CreateAsync();
        vm = await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name, Labels = { ["a"] = "1" }, Spec = new VmSpec { CpuWeight = 7 } } });
        Assert.Equal(("1", 0), (vm.Labels["a"], vm.Spec.CpuWeight));
        vm = await UpdateAsync(vm.Name, new VmSpec { CpuWeight = 7, MemoryMib = 1 }, "spec.cpu_weight");
        Assert.Equal(("1", 7, 64), (vm.Labels["a"], vm.Spec.CpuWeight, vm.Spec.MemoryMib));
        vm = await UpdateAsync(vm.Name, new VmSpec { CpuLimitMillicpus = 16_000 }, "labels", "spec.cpu_limit_millicpus");
        Assert.Equal((0, 7, 16_000), (vm.Labels.Count, vm.Spec.CpuWeight, vm.Spec.CpuLimitMillicpus));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UpdateAsync(vm.Name, new VmSpec { MemoryMib = 1 }, "spec.memory_mib"));
    }

    [Theory]
    [InlineData(-1, 0, "vm.spec.cpu_weight")]
    [InlineData(10_001, 0, "vm.spec.cpu_weight")]
    [InlineData(0, -1, "vm.spec.cpu_limit_millicpus")]
    [InlineData(0, 9, "vm.spec.cpu_limit_millicpus")]
    [InlineData(0, 16_001, "vm.spec.cpu_limit_millicpus")]
    public async Task A_share_that_is_none_is_refused_and_changes_nothing(int weight, int limit, string field)
    {
        VmSpec spec = Spec();
        spec.CpuWeight = weight;
        spec.CpuLimitMillicpus = limit;
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => CreateAsync(spec: spec));
        Assert.Equal(field, Assert.Single(error.Fields).Subject);
        Assert.Empty((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);

        Vm vm = await Vms.GetVmAsync(new GetVmRequest { Name = (await StartAsync()).Name });
        error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UpdateAsync(vm.Name, spec, "*"));
        Assert.Equal(field, Assert.Single(error.Fields).Subject);
        Assert.Equal(vm, await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name }));
        Assert.Equal(new ProcessorShare(), Factory.Last.Share);
    }

    private async Task<Vm> UpdateAsync(string name, VmSpec spec, params string[] paths) =>
        await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = name, Spec = spec }, UpdateMask = new FieldMask { Paths = { paths } } });
}
