using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// VMCS shadowing as L0 uses it on vmcs01: while L1 has a current VMCS, its VMREAD and VMWRITE go to the cached vmcs12 without an exit
/// (SDM volume 3, sections 25.6.15 and 26.1.3). Only an access that would fail exits, and L0 says how. All vCPUs share the bitmaps.
/// </summary>
internal sealed unsafe class VmcsShadowing : IDisposable
{
    private readonly PhysicalMemory _memory;
    private readonly ulong _readBitmap, _writeBitmap, _region;

    /// <param name="memory">Where the bitmaps are, in private pages.</param>
    /// <param name="hardware">The processor's capability MSRs.</param>
    /// <param name="nested">Those that L1 sees.</param>
    public VmcsShadowing(PhysicalMemory memory, VmxCapabilities hardware, VmxCapabilities nested)
    {
        _memory = memory;
        _readBitmap = memory.AllocatePrivatePage();
        _writeBitmap = memory.AllocatePrivatePage();
        _region = memory.AllocatePrivatePage();
        // What the link pointer names: to be a shadow VMCS, it needs no more than its header. The fields are in vmcs12.
        *(uint*)memory.HostPage(_region) = hardware.RevisionId | Vmcs12Layout.ShadowIndicator;
        byte* reads = memory.HostPage(_readBitmap), writes = memory.HostPage(_writeBitmap);
        new Span<byte>(reads, PhysicalMemory.PageSize).Fill(0xFF);
        new Span<byte>(writes, PhysicalMemory.PageSize).Fill(0xFF);
        foreach (VmcsFieldEntry field in VmcsCatalogue.Fields)
        {
            if (!nested.Supports(field) || !hardware.Supports(field))
                continue;
            // A 64-bit field has two encodings, the odd one for its high half. Encodings are even, so both bits are in one byte.
            var bits = (byte)~((field.Width == VmcsFieldWidth.Bits64 ? 3 : 1) << (int)(field.Encoding & 7));
            reads[field.Encoding >> 3] &= bits;
            if (!field.IsReadOnly || (nested.VmwriteToAll && hardware.VmwriteToAll))
                writes[field.Encoding >> 3] &= bits;
        }
    }

    /// <summary>Follows a vCPU's current VMCS: vmcs01 has the control just while there is one.</summary>
    public void Follow(Vcpu vcpu, bool hasCurrent)
    {
        Vmcs vmcs01 = vcpu.Vmcs01;
        var secondary = (SecondaryControls)vmcs01.Read32(VmcsField.SecondaryControls);
        vmcs01[VmcsField.SecondaryControls] = (uint)(hasCurrent ? secondary | SecondaryControls.VmcsShadowing : secondary & ~SecondaryControls.VmcsShadowing);
        vmcs01[VmcsField.VmreadBitmap] = _readBitmap;
        vmcs01[VmcsField.VmwriteBitmap] = _writeBitmap;
        vmcs01[VmcsField.VmcsLinkPointer] = hasCurrent ? _region : NestedVmx.NoPointer;
        vmcs01.Shadow = hasCurrent ? vcpu.Nested.Vmcs12 : null;
    }

    public void Dispose()
    {
        _memory.FreePrivatePage(_readBitmap);
        _memory.FreePrivatePage(_writeBitmap);
        _memory.FreePrivatePage(_region);
    }
}
