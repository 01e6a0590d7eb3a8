using Vmm.Machine;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Worker.Machines;

/// <summary>The guest's own VMX operation as messages.</summary>
internal static class NestedMessages
{
    /// <summary>The field of the API with the VMX capability MSRs.</summary>
    public const string CapabilityField = "vm.spec.nested.vmx_capability_msrs";

    /// <summary>The VMX capability MSRs of a spec; none where a spec, such as one of an older server's, has none.</summary>
    public static IReadOnlyDictionary<uint, ulong> CapabilityMsrs(VmSpec spec) => spec.Nested?.VmxCapabilityMsrs.ToDictionary() ?? [];

    /// <summary>Checks the VMX capability MSRs of a spec.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: they offer what the processor does not have.</exception>
    public static void CheckCapabilities(VmSpec spec)
    {
        if (MachineSpec.RefusalOf(CapabilityMsrs(spec)) is { } refusal)
            throw ApiError.InvalidField(CapabilityField, $"cannot be: {refusal}.");
    }

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

    /// <summary>A nested state in the binary form of Linux, taken to pieces.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: it contradicts itself.</exception>
    public static DecodedNestedState Decode(ReadOnlySpan<byte> state)
    {
        if (!NestedStateView.TryParse(state, out NestedStateView? view, out string? error))
            throw ApiError.InvalidField("state", $"is no nested state: {error}", "INVALID_NESTED_STATE");
        var message = new DecodedNestedState
        {
            GuestMode = view.IsGuestMode,
            RunPending = view.IsRunPending,
            Enlightened = view.IsEnlightened,
            SmmVmxon = view.IsVmxonBeforeSmi,
            SmmGuestMode = view.IsGuestModeBeforeSmi,
            Vmcs12 = From(view.Vmcs12),
            ShadowVmcs12 = From(view.Shadow),
        };
        if (view.VmxonPointer is { } vmxon)
            message.VmxonPointer = vmxon;
        if (view.CurrentPointer is { } current)
            message.CurrentVmcsPointer = current;
        if (view.PreemptionTimerDeadline is { } deadline)
            message.PreemptionTimerDeadline = deadline;
        return message;
    }

    private static VmcsRegion? From(NestedRegionView? region) => region is null ? null : new VmcsRegion
    {
        Revision = region.Revision,
        Shadow = region.IsShadow,
        AbortIndicator = region.AbortIndicator,
        LaunchState = region.IsLaunched ? VmcsLaunchState.Launched : VmcsLaunchState.Clear,
        Fields = { region.Fields.Select(ApicvMessages.From) },
    };

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
