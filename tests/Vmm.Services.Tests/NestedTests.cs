using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>The guest's own VMX operation through the API.</summary>
public sealed class NestedTests : NestedGuestTest
{
    [Fact]
    public async Task A_vcpu_says_who_runs_on_which_vmcs_and_why_it_exited_last()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        VcpuNested l2 = await Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name });
        Assert.Equal((2, true, NestedGuest.Vmxon, NestedGuest.Vmcs), (l2.Level, l2.VmxOn, l2.VmxonPointer, l2.CurrentVmcsPointer));
        Assert.Equal((VmcsLaunchState.Launched, false), (l2.LaunchState, l2.ShadowVmcs));
        Assert.True(l2.InstructionsRetired > 0);

        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
        VcpuNested after = await Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name });
        Assert.Equal((18U, "VMCALL", 3U), (after.LastExit.Reason, after.LastExit.ReasonName, after.LastExit.InstructionLength));

        // The second vCPU has not done anything.
        VcpuNested idle = await Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name, Vcpu = 1 });
        Assert.Equal((1, false, false, false), (idle.Level, idle.VmxOn, idle.HasVmxonPointer, idle.HasCurrentVmcsPointer));
        Assert.Null(idle.LastExit);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name, Vcpu = 2 }));
    }

    [Fact]
    public async Task Every_vmcs_is_read_by_the_names_of_the_manual()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        VmcsFieldValue hlt = Assert.Single(await ReadAsync(VmcsKind.Vmcs12, "primary PROCESSOR-based VM-execution controls"));
        Assert.Equal(("Primary processor-based VM-execution controls", 0x4002U, 32), (hlt.Name, hlt.Encoding, hlt.Bits));
        Assert.Contains("HLT exiting", hlt.Decode);
        // L0 wants interrupts for itself, which L1 has not asked for.
        Assert.DoesNotContain("External-interrupt exiting", Assert.Single(await ReadAsync(VmcsKind.Vmcs12, "Pin-based VM-execution controls")).Decode);
        Assert.Contains("External-interrupt exiting", Assert.Single(await ReadAsync(VmcsKind.Vmcs02, "Pin-based VM-execution controls")).Decode);
        // What L1 wrote stands in vmcs12, and so L2 runs with it.
        foreach (VmcsKind kind in new[] { VmcsKind.Vmcs12, VmcsKind.Vmcs02 })
            Assert.Equal(0x1FUL, Assert.Single(await ReadAsync(kind, "Guest GDTR limit")).Value);
        IReadOnlyList<VmcsFieldValue> all = await ReadAsync(VmcsKind.Vmcs01);
        Assert.True(all.Count > 100);
        Assert.Equal(all.Count, all.Select(field => field.Encoding).Distinct().Count());
        Assert.Equal(["Guest RIP", "Guest RSP"], (await ReadAsync(VmcsKind.Vmcs01, "Guest RIP", "Guest RSP")).Select(field => field.Name));
    }

    [Fact]
    public async Task What_is_not_there_is_refused_with_its_reason()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        VmmError wrong = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () => await ReadAsync(VmcsKind.Vmcs12, "Guest RIP", "Guest soul"));
        Assert.Equal("fields[1]", Assert.Single(wrong.Fields).Subject);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () => await ReadAsync(VmcsKind.Unspecified));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () => await ReadAsync((VmcsKind)4));
        foreach (VmcsKind kind in new[] { VmcsKind.Vmcs12, VmcsKind.Vmcs02 })
            await FailsAsync(StatusCode.FailedPrecondition, "NO_CURRENT_VMCS", Vms.ReadVmcsAsync(new ReadVmcsRequest { Name = Name, Vcpu = 1, Vmcs = kind }));
        await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", async () => await ReadAsync(VmcsKind.Vmcs01));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name }));
    }

    [Fact]
    public async Task A_trace_follows_the_guest_from_L2_to_L1_and_back()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        using var trace = Vms.TraceExits(new TraceExitsRequest { Name = Name, Vcpus = { 0 }, Limit = 4 });
        Assert.True(await trace.ResponseStream.MoveNext(Soon));
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        var records = new List<TracedExit>();
        while (await trace.ResponseStream.MoveNext(Soon))
            records.AddRange(trace.ResponseStream.Current.Records);
        Assert.Equal(
            ["2 Exit L1 VMCALL", "2 Reflection L1 VMCALL", "1 Entry L0 ", "1 Exit L0 VMRESUME"],
            records.Select(record => $"{record.Level} {record.Kind} {record.Owner} {record.ReasonName}"));
        Assert.True(records[0].Instructions > 0);
    }

    [Fact]
    public async Task Nested_state_is_taken_put_back_while_paused_and_refused_when_malformed()
    {
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = await StartInL2Async();
        ByteString state = (await Vms.GetNestedStateAsync(new GetNestedStateRequest { Name = Name })).State;
        DecodedNestedState decoded = await Vms.DecodeNestedStateAsync(new DecodeNestedStateRequest { State = state });
        Assert.Equal((NestedGuest.Vmxon, NestedGuest.Vmcs, true), (decoded.VmxonPointer, decoded.CurrentVmcsPointer, decoded.GuestMode));
        Assert.Equal((0x11E5_7ED0u, VmcsLaunchState.Launched), (decoded.Vmcs12.Revision, decoded.Vmcs12.LaunchState));
        Assert.Contains("HLT exiting", decoded.Vmcs12.Fields.Single(field => field.Name == "Primary processor-based VM-execution controls").Decode);
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.SetNestedStateAsync(new SetNestedStateRequest { Name = Name, State = state }));

        await Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
        state = (await Vms.GetNestedStateAsync(new GetNestedStateRequest { Name = Name })).State;
        var broken = state.ToByteArray();
        broken[24] = 1;
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_NESTED_STATE", Vms.SetNestedStateAsync(new SetNestedStateRequest { Name = Name, State = ByteString.CopyFrom(broken) }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_NESTED_STATE", Vms.DecodeNestedStateAsync(new DecodeNestedStateRequest { State = ByteString.CopyFrom(broken) }));
        // What the header has nothing against, and VM entry would not pass: pin-based controls without those that must be 1.
        broken = state.ToByteArray();
        broken.AsSpan(128 + 744, 4).Clear();
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_NESTED_STATE", Vms.SetNestedStateAsync(new SetNestedStateRequest { Name = Name, State = ByteString.CopyFrom(broken) }));
        Assert.Contains("would not pass VM entry", error.Message, StringComparison.Ordinal);
        Assert.Equal(state, (await Vms.GetNestedStateAsync(new GetNestedStateRequest { Name = Name })).State);
        await Vms.SetNestedStateAsync(new SetNestedStateRequest { Name = Name, State = state });
        await Vms.ResumeVmAsync(new ResumeVmRequest { Name = Name });
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
    }

    private async Task<IReadOnlyList<VmcsFieldValue>> ReadAsync(VmcsKind kind, params string[] fields) =>
        (await Vms.ReadVmcsAsync(new ReadVmcsRequest { Name = Name, Vmcs = kind, Fields = { fields } })).Fields;
}
