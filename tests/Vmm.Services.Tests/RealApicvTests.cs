using Google.Protobuf;
using Grpc.Core;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;
using ApicvUpdateState = Vmm.V1.ApicvUpdateState;
using Type = Vmm.V1.ApicvEvent.Types.Type;

namespace Vmm.Services.Tests;

/// <summary>APICv through the API, with the engine's machines and a guest that is a hypervisor.</summary>
public sealed class RealApicvTests : NestedGuestTest
{
    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public async Task An_inhibit_that_arrives_while_l2_is_active_follows_the_policy(ApicvPolicy policy)
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async(policy);
        using var watch = Vms.WatchApicv(new WatchApicvRequest { Name = Name });
        Assert.True(await watch.ResponseStream.MoveNext(Soon));
        Apicv before = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.True(before.Vcpus[0] is { Active: true, GuestMode: true, State: ApicvUpdateState.Applied }, $"{before}");
        Assert.Contains("Virtual-interrupt delivery", DecodeOf(before));

        ApicvChange change = await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv });
        Apicv after = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        bool deferred = policy == ApicvPolicy.Deferred;
        Assert.Equal((deferred ? ApicvUpdateState.Deferred : ApicvUpdateState.Applied, deferred), (change.Vcpus[0].State, change.Vcpus[0].Active));
        Assert.Equal(deferred, DecodeOf(after).Contains("Virtual-interrupt delivery"));
        Assert.True(after.Vcpus[0].GuestMode);

        // L2 leaves to L1, which finds vmcs01 refreshed before its first instruction.
        Task<ApicvChange> waiting = Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Hyperv, Wait = true }).ResponseAsync;
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        Assert.Equal(ApicvUpdateState.Applied, (await waiting).Vcpus[0].State);
        await ReadUntilAsync(console, "E");
        Assert.DoesNotContain("Virtual-interrupt delivery", DecodeOf(await Vms.GetApicvAsync(new GetApicvRequest { Name = Name })));
        var events = new List<ApicvEvent>();
        while (events.Count < (deferred ? 3 : 2))
        {
            Assert.True(await watch.ResponseStream.MoveNext(Soon));
            // The second vCPU waits for a start-up message, and applies everything at once.
            if (watch.ResponseStream.Current.Vcpu != 1)
                events.Add(watch.ResponseStream.Current);
        }

        Assert.Equal(deferred ? [Type.InhibitSet, Type.UpdateDeferred, Type.UpdateApplied] : [Type.InhibitSet, Type.UpdateApplied], events.Select(item => item.Type));
        Assert.All(events, item => Assert.Equal(1UL, item.Generation));
        Assert.True(events[0].Instructions > 0);
        Assert.Equal(deferred, events[^1].Instructions > events[0].Instructions);
    }

    [Fact]
    public async Task A_paused_machine_and_one_that_waits_apply_at_once()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async(ApicvPolicy.Switch);
        await Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
        ApicvChange change = await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Blockirq, Wait = true });
        // The second vCPU waits for a start-up message that never comes.
        Assert.Equal(2, change.Vcpus.Count);
        Assert.All(change.Vcpus, vcpu => Assert.Equal((ApicvUpdateState.Applied, false), (vcpu.State, vcpu.Active)));
    }

    [Fact]
    public async Task A_machine_without_apicv_stays_so()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async(ApicvPolicy.Deferred, ApicvInhibitReason.Absent);
        Apicv apicv = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.Equal([ApicvInhibitReason.Absent], apicv.Reasons);
        Assert.All(apicv.Vcpus, vcpu => Assert.False(vcpu.Active));
        await FailsAsync(StatusCode.FailedPrecondition, "APICV_INHIBIT_FIXED", Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = Name, Reason = ApicvInhibitReason.Absent }));
    }

    private static List<string> DecodeOf(Apicv apicv) => [.. apicv.Vcpus[0].Vmcs01.SelectMany(field => field.Decode)];
}
