using Google.Protobuf.Collections;
using Vmm.Machine;
using Vmm.V1;
using ApiUpdate = Vmm.V1.ApicvUpdateState;
using Engine = Vmm.Hypervisor.Apicv;
using MachineUpdate = Vmm.Machine.ApicvUpdateState;

namespace Vmm.Worker.Machines;

/// <summary>APICv as messages, and back.</summary>
internal static class ApicvMessages
{
    private const int Reasons = 8;

    /// <summary>Which reasons are fixed when a VM is created.</summary>
    public static bool IsFixed(ApicvInhibitReason reason) => reason is ApicvInhibitReason.Absent or ApicvInhibitReason.Disable;

    /// <summary>The engine's reason: the API counts them from 1 in the same order.</summary>
    public static Engine.ApicvInhibit ToInhibit(ApicvInhibitReason reason) => (Engine.ApicvInhibit)(1u << ((int)reason - 1));

    /// <summary>The engine's options; the default ones where a spec, such as one of an older server's, has none.</summary>
    public static Engine.ApicvOptions ToOptions(ApicvSpec? spec)
    {
        Engine.ApicvInhibit inhibits = Engine.ApicvInhibit.None;
        foreach (ApicvInhibitReason reason in spec?.FixedInhibits ?? [])
            inhibits |= ToInhibit(reason);
        return new Engine.ApicvOptions(inhibits, spec?.Policy switch
        {
            ApicvPolicy.Switch => Engine.ApicvPolicy.Switch,
            ApicvPolicy.UnsafeImmediate => Engine.ApicvPolicy.UnsafeImmediate,
            _ => Engine.ApicvPolicy.Deferred,
        });
    }

    /// <summary>Whether every vCPU has what had changed up to a generation.</summary>
    public static bool IsApplied(ApicvView view, ulong generation) => view.Vcpus.All(vcpu => StateOf(vcpu, generation) == ApiUpdate.Applied);

    /// <summary>What a change has come to.</summary>
    public static ApicvChange ToChange(ApicvView view, ulong generation, long run)
    {
        var change = new ApicvChange { Generation = generation, Run = run };
        Add(change.Reasons, view.Reasons);
        foreach (VcpuApicvView vcpu in view.Vcpus)
            change.Vcpus.Add(new VcpuApicvChange
            {
                Vcpu = vcpu.Vcpu,
                State = StateOf(vcpu, generation),
                Active = vcpu.IsActive,
                AppliedGeneration = vcpu.AppliedGeneration,
            });
        return change;
    }

    /// <summary>APICv of a VM.</summary>
    public static Apicv From(ApicvView view, long run)
    {
        var message = new Apicv { Policy = (ApicvPolicy)((int)view.Policy + 1), Generation = view.Generation, Run = run };
        Add(message.Reasons, view.Reasons);
        foreach (VcpuApicvView vcpu in view.Vcpus)
            message.Vcpus.Add(new VcpuApicv
            {
                Vcpu = vcpu.Vcpu,
                Active = vcpu.IsActive,
                State = ToState(vcpu.Update),
                AppliedGeneration = vcpu.AppliedGeneration,
                GuestMode = vcpu.IsGuestMode,
                ApicMode = vcpu.ApicMode,
                Vmcs01 = { vcpu.Controls.Select(From) },
            });
        return message;
    }

    /// <summary>An event.</summary>
    public static ApicvEvent From(Engine.ApicvEvent item, long run)
    {
        var message = new ApicvEvent
        {
            Type = item.Kind switch
            {
                Engine.ApicvEventKind.InhibitSet => ApicvEvent.Types.Type.InhibitSet,
                Engine.ApicvEventKind.InhibitCleared => ApicvEvent.Types.Type.InhibitCleared,
                Engine.ApicvEventKind.UpdateDeferred => ApicvEvent.Types.Type.UpdateDeferred,
                Engine.ApicvEventKind.UpdateApplied => ApicvEvent.Types.Type.UpdateApplied,
                _ => ApicvEvent.Types.Type.CurrentVmcsOverwritten,
            },
            Vcpu = item.Vcpu,
            Generation = item.Generation,
            Active = item.Active,
            Instructions = item.Instructions,
            Run = run,
        };
        Add(message.Changed, item.Changed);
        Add(message.Reasons, item.Reasons);
        return message;
    }

    /// <summary>A field of a VMCS.</summary>
    public static VmcsFieldValue From(VmcsFieldView field) => new()
    {
        Name = field.Name,
        Encoding = field.Encoding,
        Bits = field.Bits,
        Value = field.Value,
        Decode = { field.Decode },
    };

    // Later changes that still wait do not matter to one that was applied before them.
    private static ApiUpdate StateOf(VcpuApicvView vcpu, ulong generation) =>
        generation > 0 && vcpu.AppliedGeneration >= generation ? ApiUpdate.Applied : ToState(vcpu.Update);

    private static ApiUpdate ToState(MachineUpdate state) => state switch
    {
        MachineUpdate.Applied => ApiUpdate.Applied,
        MachineUpdate.Pending => ApiUpdate.Pending,
        _ => ApiUpdate.Deferred,
    };

    private static void Add(RepeatedField<ApicvInhibitReason> list, Engine.ApicvInhibit reasons)
    {
        for (int i = 0; i < Reasons; i++)
            if (((uint)reasons >> i & 1) != 0)
                list.Add((ApicvInhibitReason)(i + 1));
    }
}
