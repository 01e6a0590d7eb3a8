using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <content>APICv of a VM with two vCPUs, of which one runs L2.</content>
internal sealed partial class FakeVmService
{
    public override Task<ApicvChange> SetApicvInhibit(SetApicvInhibitRequest request, ServerCallContext context)
    {
        Enter(request, nameof(SetApicvInhibit));
        return Task.FromResult(new ApicvChange
        {
            Reasons = { request.Reason },
            Generation = 1,
            Vcpus =
            {
                new VcpuApicvChange { Vcpu = 0, State = ApicvUpdateState.Applied, AppliedGeneration = 1 },
                new VcpuApicvChange { Vcpu = 1, State = ApicvUpdateState.Deferred, Active = true },
            },
        });
    }

    public override Task<ApicvChange> ClearApicvInhibit(ClearApicvInhibitRequest request, ServerCallContext context)
    {
        Enter(request, nameof(ClearApicvInhibit));
        return Task.FromResult(new ApicvChange { Generation = 2, Vcpus = { new VcpuApicvChange { State = ApicvUpdateState.Applied, Active = true, AppliedGeneration = 2 } } });
    }

    public override Task<Apicv> GetApicv(GetApicvRequest request, ServerCallContext context)
    {
        Enter(request, nameof(GetApicv));
        var vcpu = new VcpuApicv { Active = true, State = ApicvUpdateState.Deferred, GuestMode = true, ApicMode = "x2apic" };
        vcpu.Vmcs01.Add(new VmcsFieldValue
        {
            Name = "Secondary processor-based VM-execution controls",
            Encoding = 0x401E,
            Bits = 32,
            Value = 0x300,
            Decode = { "APIC-register virtualization", "Virtual-interrupt delivery" },
        });
        return Task.FromResult(new Apicv
        {
            Reasons = { ApicvInhibitReason.Blockirq, ApicvInhibitReason.ApicIdModified },
            Policy = ApicvPolicy.UnsafeImmediate,
            Generation = 3,
            Vcpus = { vcpu },
        });
    }

    public override async Task WatchApicv(WatchApicvRequest request, IServerStreamWriter<ApicvEvent> responseStream, ServerCallContext context)
    {
        Enter(request, nameof(WatchApicv));
        await responseStream.WriteAsync(new ApicvEvent { Type = ApicvEvent.Types.Type.Synced, Vcpu = -1 });
        await responseStream.WriteAsync(new ApicvEvent
        {
            Type = ApicvEvent.Types.Type.InhibitSet,
            Vcpu = -1,
            Changed = { ApicvInhibitReason.Hyperv },
            Reasons = { ApicvInhibitReason.Hyperv },
            Generation = 1,
            Instructions = 123,
        });
        await responseStream.WriteAsync(new ApicvEvent
        {
            Type = ApicvEvent.Types.Type.UpdateDeferred,
            Vcpu = 1,
            Reasons = { ApicvInhibitReason.Hyperv },
            Generation = 1,
            Active = true,
            Instructions = 45,
        });
    }

    public override Task<VcpuNested> GetVcpuNested(GetVcpuNestedRequest request, ServerCallContext context)
    {
        Enter(request, nameof(GetVcpuNested));
        return Task.FromResult(new VcpuNested
        {
            Vcpu = request.Vcpu,
            Level = 2,
            VmxOn = true,
            VmxonPointer = 0x1000,
            CurrentVmcsPointer = 0x2000,
            LaunchState = VmcsLaunchState.Launched,
            LastExit = new VmExit { Reason = 28, ReasonName = "Control-register accesses", Qualification = 0x303, Decode = "MOV CR3, RBX" },
            LastHardwareExit = new VmExit { Reason = 10, ReasonName = "CPUID" },
            InstructionsRetired = 77,
        });
    }

    public override Task<ReadVmcsResponse> ReadVmcs(ReadVmcsRequest request, ServerCallContext context)
    {
        Enter(request, nameof(ReadVmcs));
        var field = new VmcsFieldValue { Name = "Pin-based VM-execution controls", Encoding = 0x4000, Bits = 32, Value = 9, Decode = { "External-interrupt exiting", "NMI exiting" } };
        return Task.FromResult(new ReadVmcsResponse { Vmcs = request.Vmcs, Fields = { field } });
    }
}
