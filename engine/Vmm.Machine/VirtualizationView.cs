using Vmm.Hypervisor;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Machine;

/// <summary>L0's state as those outside see it. On the machine's thread, between two instructions.</summary>
internal static class VirtualizationView
{
    private static readonly VmcsField[] ApicvFields =
    [
        VmcsField.ProcessorBasedControls, VmcsField.SecondaryControls, VmcsField.TprThreshold, VmcsField.VirtualApicAddress,
        VmcsField.ApicAccessAddress, VmcsField.MsrBitmaps, VmcsField.GuestInterruptStatus, VmcsField.EoiExitBitmap0,
        VmcsField.EoiExitBitmap1, VmcsField.EoiExitBitmap2, VmcsField.EoiExitBitmap3,
    ];

    /// <summary>APICv of the whole machine.</summary>
    public static ApicvView Apicv(VirtualMachine machine) =>
        new(machine.Apicv.Reasons, machine.Apicv.Policy, machine.Apicv.Generation, [.. machine.Vcpus.Select(Apicv)]);

    /// <summary>L1's VMX operation on a vCPU.</summary>
    public static VcpuNestedView Nested(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        return new(
            vcpu.Index,
            vcpu.IsGuestMode ? 2 : 1,
            nested.IsOn,
            nested.IsOn ? nested.VmxonPointer : null,
            nested.HasCurrent ? nested.CurrentPointer : null,
            nested.IsLaunched,
            nested.IsShadow,
            nested.RunPending,
            nested.HasVmcs12 ? Exit(nested.Vmcs12) : null,
            Exit(vcpu.Vmcs),
            vcpu.InstructionsRetired);
    }

    /// <summary>The fields of a VMCS, or null where it does not exist.</summary>
    public static IReadOnlyList<VmcsFieldView>? Fields(Vcpu vcpu, VmcsOfVcpu which)
    {
        if (which != VmcsOfVcpu.Vmcs01 && !vcpu.Nested.HasVmcs12)
            return null;
        (Vmcs vmcs, VmxCapabilities capabilities) = which switch
        {
            VmcsOfVcpu.Vmcs01 => (vcpu.Vmcs01, vcpu.Cpu.Environment.Vmx),
            VmcsOfVcpu.Vmcs02 => (vcpu.Nested.Vmcs02, vcpu.Cpu.Environment.Vmx),
            _ => (vcpu.Nested.Vmcs12, vcpu.Nested.Capabilities),
        };
        return [.. VmcsCatalogue.Fields.Where(capabilities.Supports).Select(entry => Field(vmcs, entry))];
    }

    /// <summary>A field of a VMCS.</summary>
    public static VmcsFieldView Field(Vmcs vmcs, VmcsFieldEntry entry)
    {
        ulong value = vmcs[entry.Field] & entry.ValueMask;
        return new(entry.Name, entry.Encoding, WidthOf(entry), value, Decode(vmcs, entry.Field, value));
    }

    /// <summary>What a VMCS has recorded of its last exit.</summary>
    private static ExitView Exit(Vmcs vmcs)
    {
        uint reason = vmcs.Read32(VmcsField.ExitReason), interruption = vmcs.Read32(VmcsField.VmExitInterruptionInformation);
        ulong qualification = vmcs[VmcsField.ExitQualification];
        string[] decode = [ExitDecode.Qualification(reason, qualification), ExitDecode.Interruption(interruption)];
        return new(
            reason,
            ExitDecode.Reason(reason),
            qualification,
            string.Join("; ", decode.Where(part => part.Length > 0)),
            vmcs[VmcsField.GuestLinearAddress],
            vmcs[VmcsField.GuestPhysicalAddress],
            interruption,
            vmcs.Read32(VmcsField.VmExitInterruptionErrorCode),
            vmcs.Read32(VmcsField.IdtVectoringInformation),
            vmcs.Read32(VmcsField.VmExitInstructionLength));
    }

    private static IReadOnlyList<string> Decode(Vmcs vmcs, VmcsField field, ulong value)
    {
        string words = field switch
        {
            VmcsField.ExitReason => ExitDecode.Reason((uint)value),
            VmcsField.ExitQualification => ExitDecode.Qualification(vmcs.Read32(VmcsField.ExitReason), value),
            VmcsField.VmExitInterruptionInformation or VmcsField.IdtVectoringInformation or VmcsField.VmEntryInterruptionInformation => ExitDecode.Interruption((uint)value),
            VmcsField.GuestActivityState => ((ActivityState)value).ToString(),
            _ => "",
        };
        return words.Length > 0 ? [words] : VmxControlNames.Decode(field, value);
    }

    private static VcpuApicvView Apicv(Vcpu vcpu) => new(
        vcpu.Index,
        vcpu.Apicv.IsActive,
        vcpu.Apicv.IsDeferred ? ApicvUpdateState.Deferred : vcpu.Apicv.IsPending ? ApicvUpdateState.Pending : ApicvUpdateState.Applied,
        vcpu.Apicv.AppliedGeneration,
        vcpu.IsGuestMode,
        vcpu.Apic.Mode switch { ApicMode.XApic => "xapic", ApicMode.X2Apic => "x2apic", _ => "disabled" },
        [.. ApicvFields.Select(field => Field(vcpu.Vmcs01, VmcsCatalogue.Of(field)))]);

    private static int WidthOf(VmcsFieldEntry entry) => entry.Width switch
    {
        VmcsFieldWidth.Bits16 => 16,
        VmcsFieldWidth.Bits32 => 32,
        _ => 64,
    };
}
