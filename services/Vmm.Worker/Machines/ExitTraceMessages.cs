using Vmm.Hypervisor.Tracing;
using Vmm.Processor.Vmx;
using Vmm.Protos;
using Vmm.V1;
using Api = Vmm.V1.ExitTraceKind;

namespace Vmm.Worker.Machines;

/// <summary>Traces of exits as messages, and what they are to have.</summary>
internal static class ExitTraceMessages
{
    /// <summary>The engine's filter.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: a reason is none of the manual's, or there is no such vCPU.</exception>
    public static ExitTraceFilter ToFilter(TraceExitsRequest request, int cpus)
    {
        var wrong = new List<FieldViolation>();
        UInt128 reasons = 0;
        for (int i = 0; i < request.Reasons.Count; i++)
        {
            if (ExitDecode.TryFindReason(request.Reasons[i], out uint reason))
                reasons |= UInt128.One << (int)reason;
            else
                wrong.Add(new FieldViolation($"reasons[{i}]", $"is {ApiError.Quote(request.Reasons[i])}, which is the number, the name or the part of the name of no or more than one exit reason."));
        }

        ulong vcpus = 0;
        for (int i = 0; i < request.Vcpus.Count; i++)
        {
            if (request.Vcpus[i] >= cpus)
                wrong.Add(new FieldViolation($"vcpus[{i}]", $"is {request.Vcpus[i]}; the VM has {cpus} vCPU(s), counted from 0."));
            vcpus |= 1UL << request.Vcpus[i];
        }

        if (wrong.Count > 0)
            throw ApiError.InvalidFields(wrong);
        ExitTraceFilter everything = ExitTraceFilter.Everything;
        return everything with
        {
            Vcpus = request.Vcpus.Count > 0 ? vcpus : everything.Vcpus,
            Levels = request.Level > 0 ? 1u << request.Level : everything.Levels,
            Kinds = request.Kinds.Count > 0 ? request.Kinds.Aggregate(0u, (kinds, kind) => kinds | 1u << ((int)kind - 1)) : everything.Kinds,
            Owners = request.Owner != ExitOwner.Unspecified ? 1u << ((int)request.Owner - 1) : everything.Owners,
            Reasons = request.Reasons.Count > 0 ? reasons : everything.Reasons,
            WithoutReason = request.Reasons.Count == 0,
        };
    }

    /// <summary>A record.</summary>
    public static TracedExit From(in ExitTraceRecord record)
    {
        var message = new TracedExit
        {
            Kind = (Api)((int)record.Kind + 1),
            Vcpu = record.Vcpu,
            Level = record.Level,
            Owner = (ExitOwner)((int)record.Owner + 1),
            Instructions = record.Instructions,
            InterruptionInformation = record.Interruption,
            InterruptionErrorCode = record.InterruptionError,
            GuestRip = record.Rip,
            VmInstructionError = record.InstructionError,
            LostBefore = record.LostBefore,
        };
        string qualification = "";
        if (record.Reason != ExitTraceRecord.NoReason)
        {
            message.Reason = record.Reason;
            message.ReasonName = ExitDecode.Reason(record.Reason);
            message.Qualification = record.Qualification;
            qualification = ExitDecode.Qualification(record.Reason, record.Qualification);
        }

        string interruption = ExitDecode.Interruption(record.Interruption);
        message.Decode = qualification.Length > 0 && interruption.Length > 0 ? $"{qualification}; {interruption}" : qualification + interruption;
        if (record.HasPhysical)
            message.GuestPhysicalAddress = record.Physical;
        if (record.HasLinear)
            message.GuestLinearAddress = record.Linear;
        return message;
    }
}
