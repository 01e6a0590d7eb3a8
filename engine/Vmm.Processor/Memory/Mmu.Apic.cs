using System.Runtime.CompilerServices;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Memory;

/// <content>The APIC-access page (SDM volume 3, section 30.4): no translation to it is ever cached, so every access comes here.</content>
public sealed unsafe partial class Mmu
{
    /// <summary>Not a page address: there is no APIC-access page.</summary>
    internal const ulong NoApicAccessPage = 1;

    /// <summary>The host-physical address of the APIC-access page, or <see cref="NoApicAccessPage"/>.</summary>
    internal ulong ApicAccessPage { get; private set; } = NoApicAccessPage;

    /// <summary>Whether a host-physical address is in the APIC-access page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool IsApicAccess(ulong physical) => (physical & ~0xFFFUL) == ApicAccessPage;

    /// <summary>Notes the VM exit for an access to the APIC-access page; returns false.</summary>
    internal bool RecordApicAccess(ApicAccessType type, ulong physical) =>
        RecordExit(new AccessExit(ExitReason.ApicAccess, (uint)type << 12 | physical & 0xFFF, 0, physical));

    /// <summary>An access through a linear address: served by the virtual-APIC page, or noted as a VM exit.</summary>
    /// <param name="physical">Where it meets the page.</param>
    /// <param name="data">What is read or written.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="access">Whether it is, or will be, a write.</param>
    /// <param name="kind">What is done now.</param>
    /// <param name="whole">Whether all of it is in the page.</param>
    private bool AccessApic(ulong physical, byte* data, int size, Access access, AccessKind kind, bool whole)
    {
        bool write = (access & Access.Write) != 0;
        var offset = (uint)(physical & 0xFFF);
        ApicVirtualization apic = _cpu.VirtualApic;
        // What is about to be written must be writable, and read where it is read first; a probe is for more than one write.
        if (!whole || kind == AccessKind.Probe || (write && !apic.VirtualizesWrite(offset, size)) || (kind == AccessKind.Read && !apic.VirtualizesRead(offset, size)))
            return RecordApicAccess(write ? ApicAccessType.Write : ApicAccessType.Read, physical);
        if (kind == AccessKind.Read)
            apic.Read(offset, data, size);
        else
            apic.Write(offset, data, size);
        return true;
    }

    // The offset goes with linear accesses only (SDM volume 3, table 28-6).
    private void SettleApicAccess(Vmcs vmcs, bool delivering)
    {
        var type = (ApicAccessType)(_exit.Qualification >> 12);
        bool linear = type != ApicAccessType.GuestPhysical;
        if (delivering)
            type = linear ? ApicAccessType.EventDelivery : ApicAccessType.GuestPhysicalEventDelivery;
        _state->NmiUnblocking = false;
        VmExit.Record(_state, ExitReason.ApicAccess, (uint)type << 12 | (linear ? _exit.Qualification & 0xFFF : 0));
        if (!delivering)
            vmcs[VmcsField.VmExitInstructionLength] = _state->FaultLength;
    }
}
