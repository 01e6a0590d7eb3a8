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
}
