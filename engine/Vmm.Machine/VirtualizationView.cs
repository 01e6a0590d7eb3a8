using Vmm.Hypervisor;
using Vmm.Hypervisor.Apic;
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

    /// <summary>A field of a VMCS.</summary>
    public static VmcsFieldView Field(Vmcs vmcs, VmcsFieldEntry entry) =>
        new(entry.Name, entry.Encoding, WidthOf(entry), vmcs[entry.Field] & entry.ValueMask, VmxControlNames.Decode(entry.Field, vmcs[entry.Field]));

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
