using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <content>APICv of a VM with two vCPUs, of which one runs L2.</content>
internal sealed partial class FakeVmService
{
    private readonly TaskCompletionSource _traceSent = new(TaskCreationOptions.RunContinuationsAsynchronously);

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
        await StallAsync(context);
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

    public override Task<TraceVmResponse> TraceVm(TraceVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(TraceVm));
        return Task.FromResult(request.Duration.ToTimeSpan() > TimeSpan.Zero ? new TraceVmResponse { EndTime = Timestamp.FromDateTime(DateTime.UnixEpoch + request.Duration.ToTimeSpan()) } : new TraceVmResponse());
    }

    public override async Task TraceExits(TraceExitsRequest request, IServerStreamWriter<TraceExitsResponse> responseStream, ServerCallContext context)
    {
        Enter(request, nameof(TraceExits));
        await responseStream.WriteAsync(new TraceExitsResponse());
        var exit = new TracedExit
        {
            Kind = ExitTraceKind.Exit,
            Level = 2,
            Owner = ExitOwner.L1,
            Instructions = 41,
            Reason = 48,
            ReasonName = "EPT violation",
            Qualification = 0x182,
            Decode = "write, page not present, of the translated address",
            GuestPhysicalAddress = 0xFEE0_0000,
            GuestLinearAddress = 0x7000,
            GuestRip = 0x1234,
        };
        TracedExit reflection = exit.Clone();
        reflection.Kind = ExitTraceKind.Reflection;
        var entry = new TracedExit { Kind = ExitTraceKind.Entry, Level = 1, Owner = ExitOwner.L0, Instructions = 42, Decode = "external interrupt 0x20", GuestRip = 0x99, LostBefore = 7 };
        await responseStream.WriteAsync(new TraceExitsResponse { Records = { exit, reflection } });
        await responseStream.WriteAsync(new TraceExitsResponse { Records = { entry, exit } });
        _traceSent.TrySetResult();
        await StallAsync(context);
        await responseStream.WriteAsync(new TraceExitsResponse { RunEnded = new VmEnd { Reason = VmEndReason.PowerOff }, Lost = 2 });
    }

    public override Task<NestedState> GetNestedState(GetNestedStateRequest request, ServerCallContext context)
    {
        Enter(request, nameof(GetNestedState));
        return Task.FromResult(new NestedState { State = Google.Protobuf.ByteString.CopyFrom(1, 2, 3) });
    }

    public override Task<SetNestedStateResponse> SetNestedState(SetNestedStateRequest request, ServerCallContext context)
    {
        Enter(request, nameof(SetNestedState));
        return Task.FromResult(new SetNestedStateResponse());
    }

    /// <summary>Completes when a trace has sent its records.</summary>
    public Task TraceSent => _traceSent.Task;

    /// <summary>Streams do not come to their end.</summary>
    public bool StreamsStall { get; set; }
}
