using System.Collections.Frozen;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;

namespace Vmm.Processor.Vmx;

/// <summary>Saving and loading of a VMCS, field by field.</summary>
public static class VmcsSaving
{
    /// <summary>The fields through which the processor reaches memory by an address.</summary>
    private static readonly FrozenSet<VmcsField> Addresses = FrozenSet.Create(
        VmcsField.IoBitmapA, VmcsField.IoBitmapB, VmcsField.MsrBitmaps, VmcsField.VmExitMsrStoreAddress, VmcsField.VmExitMsrLoadAddress,
        VmcsField.VmEntryMsrLoadAddress, VmcsField.PmlAddress, VmcsField.VirtualApicAddress, VmcsField.ApicAccessAddress,
        VmcsField.PostedInterruptDescriptorAddress, VmcsField.EptPointer, VmcsField.EptpListAddress, VmcsField.VmreadBitmap,
        VmcsField.VmwriteBitmap, VmcsField.VirtualizationExceptionAddress);

    private static readonly FrozenDictionary<string, VmcsFieldEntry> ByName = VmcsCatalogue.Fields.ToFrozenDictionary(entry => entry.Name, StringComparer.Ordinal);

    /// <summary>
    /// The fields that are not zero. Of a VMCS that the hardware runs on, addresses of private pages are left out: where those are is the
    /// matter of this machine, and whoever loads puts its own in.
    /// </summary>
    /// <param name="vmcs">The VMCS.</param>
    /// <param name="isGuests">Whether it is a guest hypervisor's, in which an address is what the guest wrote.</param>
    public static VmcsState Save(this Vmcs vmcs, bool isGuests)
    {
        var fields = new SortedDictionary<string, ulong>(StringComparer.Ordinal);
        foreach (VmcsFieldEntry entry in VmcsCatalogue.Fields)
        {
            ulong value = vmcs[entry.Field] & entry.ValueMask;
            if (value != 0 && (isGuests || !IsPrivate(entry.Field, value)))
                fields.Add(entry.Name, value);
        }
        return new VmcsState { Fields = fields, AbortIndicator = vmcs.AbortIndicator };
    }

    /// <summary>Takes every field of a saved VMCS; those that it does not name are zero. What the fields say together is for VM entry to check.</summary>
    /// <param name="vmcs">The VMCS.</param>
    /// <param name="state">What was saved.</param>
    /// <param name="isGuests">Whether it is a guest hypervisor's.</param>
    /// <exception cref="InvalidStateException">There is no such field, a value is too wide for it, or an address is that of a private page.</exception>
    public static void Load(this Vmcs vmcs, VmcsState state, bool isGuests)
    {
        foreach ((string name, ulong value) in state.Fields)
        {
            InvalidStateException.ThrowUnless(ByName.TryGetValue(name, out VmcsFieldEntry? entry), $"Vmcs.Fields['{name}']", "there is no such field.");
            InvalidStateException.ThrowUnless((value & ~entry!.ValueMask) == 0, $"Vmcs.Fields['{name}']", $"0x{value:x} is too wide.");
            InvalidStateException.ThrowUnless(isGuests || !IsPrivate(entry.Field, value), $"Vmcs.Fields['{name}']", $"0x{value:x} is no address of the guest's.");
        }
        foreach (VmcsFieldEntry entry in VmcsCatalogue.Fields)
            vmcs[entry.Field] = state.Fields.GetValueOrDefault(entry.Name);
        vmcs.AbortIndicator = state.AbortIndicator;
        vmcs.PassedVersion = 0;
        vmcs.FailedRule = null;
    }

    private static bool IsPrivate(VmcsField field, ulong value) => value >= PhysicalMemory.PrivateBase && Addresses.Contains(field);
}
