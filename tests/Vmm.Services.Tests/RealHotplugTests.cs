using Google.Protobuf;
using Grpc.Core;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;
using ApicvUpdateState = Vmm.V1.ApicvUpdateState;

namespace Vmm.Services.Tests;

/// <summary>vCPUs that are added through the API to the engine's machines, whose L2 is active.</summary>
public sealed class RealHotplugTests : NestedGuestTest
{
    [Fact]
    public async Task An_added_vcpu_has_the_inhibits_that_another_defers_and_is_in_snapshots()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async(maxCpus: 4);
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        Assert.Equal(3, (await Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name })).Status.Cpus);
        Apicv apicv = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.Equal([0, 1, 2], apicv.Vcpus.Select(vcpu => vcpu.Vcpu));
        Assert.Equal([ApicvUpdateState.Deferred, ApicvUpdateState.Applied, ApicvUpdateState.Applied], apicv.Vcpus.Select(vcpu => vcpu.State));
        Assert.Equal([true, false, false], apicv.Vcpus.Select(vcpu => vcpu.Active));
        Assert.Equal([0UL, 1UL, 1UL], apicv.Vcpus.Select(vcpu => vcpu.AppliedGeneration));

        await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "s", Snapshot = new Snapshot { Vm = Name } });
        Vm two = await Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = "projects/default/snapshots/s", VmId = "two" });
        Assert.Equal((2, 4, 3), (two.Spec.Cpus, two.Spec.MaxCpus, two.Status.Cpus));
        Assert.Equal("wait-for-sipi", (await Vms.GetRegistersAsync(new GetRegistersRequest { Name = two.Name, Vcpu = 2 })).Activity);
        Assert.Equal(4, (await Vms.AddVcpuAsync(new AddVcpuRequest { Name = two.Name })).Status.Cpus);
        await FailsAsync(StatusCode.FailedPrecondition, "NO_ROOM_FOR_VCPU", Vms.AddVcpuAsync(new AddVcpuRequest { Name = two.Name }));
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = two.Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        ApicvChange applied = await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = two.Name, Reason = ApicvInhibitReason.Hyperv, Wait = true });
        Assert.All(applied.Vcpus, vcpu => Assert.Equal((ApicvUpdateState.Applied, false), (vcpu.State, vcpu.Active)));
        Assert.Equal(4, applied.Vcpus.Count);
    }

    [Fact]
    public async Task Inhibits_come_and_go_by_other_calls_while_vcpus_are_added_and_in_the_end_all_agree()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async(maxCpus: 16);
        using var ending = new CancellationTokenSource();
        Task[] others = [ToggleAsync(ApicvInhibitReason.Blockirq), ToggleAsync(ApicvInhibitReason.Hyperv)];
        for (int cpus = 3; cpus <= 16; cpus++)
        {
            Assert.Equal(cpus, (await Vms.AddVcpuAsync(new AddVcpuRequest { Name = Name })).Status.Cpus);
            Assert.Equal(Enumerable.Range(0, cpus), (await Vms.GetApicvAsync(new GetApicvRequest { Name = Name })).Vcpus.Select(vcpu => vcpu.Vcpu));
        }

        await ending.CancelAsync();
        await Task.WhenAll(others);
        Apicv quiet = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.Empty(quiet.Reasons);
        // L2 is active on the first, which has yet to come to what it deferred.
        Assert.Equal(ApicvUpdateState.Deferred, quiet.Vcpus[0].State);
        Assert.All(quiet.Vcpus.Skip(1), vcpu =>
        {
            Assert.Equal((ApicvUpdateState.Applied, true, quiet.Generation), (vcpu.State, vcpu.Active, vcpu.AppliedGeneration));
            Assert.Contains("Virtual-interrupt delivery", vcpu.Vmcs01.SelectMany(field => field.Decode));
        });

        async Task ToggleAsync(ApicvInhibitReason reason)
        {
            while (!ending.IsCancellationRequested)
            {
                await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = reason });
                await Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = Name, Reason = reason });
            }
        }
    }
}
