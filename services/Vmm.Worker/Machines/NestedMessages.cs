using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Worker.Machines;

/// <summary>The guest's own VMX operation as messages.</summary>
internal static class NestedMessages
{
    /// <summary>The engine's name of a VMCS.</summary>
    public static VmcsOfVcpu ToVmcs(VmcsKind kind) => kind switch
    {
        VmcsKind.Vmcs01 => VmcsOfVcpu.Vmcs01,
        VmcsKind.Vmcs02 => VmcsOfVcpu.Vmcs02,
        _ => VmcsOfVcpu.Vmcs12,
    };

    /// <summary>A vCPU.</summary>
    public static VcpuNested From(VcpuNestedView view)
    {
        var message = new VcpuNested
        {
            Vcpu = view.Vcpu,
            Level = view.Level,
            VmxOn = view.IsOn,
            ShadowVmcs = view.IsShadow,
            RunPending = view.IsRunPending,
            LastHardwareExit = From(view.LastHardwareExit),
            InstructionsRetired = view.InstructionsRetired,
        };
        if (view.VmxonPointer is { } vmxon)
            message.VmxonPointer = vmxon;
        if (view.CurrentPointer is { } current)
        {
            message.CurrentVmcsPointer = current;
            message.LaunchState = view.IsLaunched ? VmcsLaunchState.Launched : VmcsLaunchState.Clear;
        }

        if (view.LastExit is { } exit)
            message.LastExit = From(exit);
        return message;
    }

    /// <summary>The fields of these names, in the order of the names; all of them where there are none.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: a name is no field's.</exception>
    public static IEnumerable<VmcsFieldValue> Select(IReadOnlyList<VmcsFieldView> fields, IReadOnlyList<string> names)
    {
        if (names.Count == 0)
            return fields.Select(ApicvMessages.From);
        var byName = fields.ToDictionary(field => field.Name, StringComparer.OrdinalIgnoreCase);
        var wrong = new List<FieldViolation>();
        var found = new List<VmcsFieldValue>();
        for (int i = 0; i < names.Count; i++)
        {
            if (byName.TryGetValue(names[i], out VmcsFieldView? field))
                found.Add(ApicvMessages.From(field));
            else
                wrong.Add(new FieldViolation($"fields[{i}]", $"is {ApiError.Quote(names[i])}, which this VMCS does not have."));
        }

        return wrong.Count == 0 ? found : throw ApiError.InvalidFields(wrong);
    }

    private static VmExit From(ExitView exit) => new()
    {
        Reason = exit.Reason,
        ReasonName = exit.Name,
        Qualification = exit.Qualification,
        Decode = exit.Decode,
        GuestLinearAddress = exit.GuestLinear,
        GuestPhysicalAddress = exit.GuestPhysical,
        InterruptionInformation = exit.InterruptionInformation,
        InterruptionErrorCode = exit.InterruptionErrorCode,
        IdtVectoringInformation = exit.IdtVectoringInformation,
        InstructionLength = exit.InstructionLength,
    };
}
