using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.Vmx;

namespace Vmm.Machine;

/// <summary>A nested state in the binary form of Linux, taken to pieces: no machine is needed for it.</summary>
/// <param name="VmxonPointer">The VMXON region, or null outside VMX operation.</param>
/// <param name="CurrentPointer">The current VMCS, or null for none.</param>
/// <param name="IsGuestMode">Whether L2 is active.</param>
/// <param name="IsRunPending">Whether L1 has entered L2 and the processor has not yet.</param>
/// <param name="IsEnlightened">Whether the VMCS is an enlightened one.</param>
/// <param name="IsVmxonBeforeSmi">Whether an SMI has interrupted VMX operation.</param>
/// <param name="IsGuestModeBeforeSmi">Whether an SMI has interrupted L2.</param>
/// <param name="PreemptionTimerDeadline">When the VMX-preemption timer runs out, in units of 32 cycles of L1's time-stamp counter; null where it does not count.</param>
/// <param name="Vmcs12">The current VMCS; null for none.</param>
/// <param name="Shadow">Its shadow VMCS; null for none.</param>
public sealed record NestedStateView(
    ulong? VmxonPointer, ulong? CurrentPointer, bool IsGuestMode, bool IsRunPending, bool IsEnlightened, bool IsVmxonBeforeSmi, bool IsGuestModeBeforeSmi,
    ulong? PreemptionTimerDeadline, NestedRegionView? Vmcs12, NestedRegionView? Shadow)
{
    /// <summary>Takes a nested state to pieces.</summary>
    /// <param name="state">The state.</param>
    /// <param name="view">What is in it.</param>
    /// <param name="error">What is wrong with it, in a sentence.</param>
    public static bool TryParse(ReadOnlySpan<byte> state, [NotNullWhen(true)] out NestedStateView? view, [NotNullWhen(false)] out string? error)
    {
        view = null;
        if (!NestedStateImage.TryParse(state, out NestedStateImage? image, out error))
            return false;
        view = new NestedStateView(
            image.VmxonPointer == NestedVmx.NoPointer ? null : image.VmxonPointer,
            image.CurrentPointer == NestedVmx.NoPointer ? null : image.CurrentPointer,
            image.IsGuestMode,
            image.IsRunPending,
            image.IsEnlightened,
            image.IsVmxonBeforeSmi,
            image.IsGuestModeBeforeSmi,
            image.PreemptionTimerDeadline,
            image.Vmcs12.IsEmpty ? null : NestedRegionView.Of(image.Vmcs12.Span),
            image.Shadow.IsEmpty ? null : NestedRegionView.Of(image.Shadow.Span));
        return true;
    }
}

/// <summary>A VMCS as it is in memory.</summary>
/// <param name="Revision">The revision identifier, without the shadow indicator.</param>
/// <param name="IsShadow">Whether it is a shadow VMCS.</param>
/// <param name="AbortIndicator">The VMX-abort indicator.</param>
/// <param name="IsLaunched">Whether its launch state is "launched".</param>
/// <param name="Fields">Every field that it has a place for, in the order of their places.</param>
public sealed record NestedRegionView(uint Revision, bool IsShadow, uint AbortIndicator, bool IsLaunched, IReadOnlyList<VmcsFieldView> Fields)
{
    internal static NestedRegionView Of(ReadOnlySpan<byte> region)
    {
        using var vmcs = new Vmcs();
        Vmcs12Layout.Load(region, vmcs);
        uint header = BinaryPrimitives.ReadUInt32LittleEndian(region);
        return new(
            header & ~Vmcs12Layout.ShadowIndicator,
            (header & Vmcs12Layout.ShadowIndicator) != 0,
            BinaryPrimitives.ReadUInt32LittleEndian(region[Vmcs12Layout.AbortIndicator..]),
            BinaryPrimitives.ReadUInt32LittleEndian(region[Vmcs12Layout.LaunchState..]) != 0,
            [.. Vmcs12Layout.Slots.Select(slot => VirtualizationView.Field(vmcs, VmcsCatalogue.Of(slot.Field)))]);
    }
}
