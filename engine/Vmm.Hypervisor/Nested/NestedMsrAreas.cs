using Vmm.Hypervisor.Exits;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// L1's MSR lists (SDM volume 3, sections 27.4, 28.4 and 28.6): 16 bytes an entry, with the index in bits 31:0, reserved bits to
/// 63:32, and the value in the second half. They are written and read as by WRMSR and RDMSR of whoever runs next.
/// </summary>
internal static class NestedMsrAreas
{
    private const uint FsBase = 0xC000_0100, GsBase = 0xC000_0101, BiosUpdateTrigger = 0x79, BiosSignature = 0x8B, SmmMonitor = 0x9B;

    /// <summary>Loads a list. Returns 0, or the number from 1 of the first entry that cannot be loaded.</summary>
    public static uint Load(Vcpu vcpu, ulong address, uint count)
    {
        if (count == 0)
            return 0;
        vcpu.Cpu.TakeGuestState(vcpu.Vmcs);
        for (uint k = 0; k < count; k++)
        {
            ulong head = vcpu.Nested.Read64(address + k * 16UL);
            var msr = (uint)head;
            if (k >= vcpu.Nested.Capabilities.MsrListLimit || head >> 32 != 0 || msr >> 8 == 8 || msr is FsBase or GsBase or BiosUpdateTrigger or BiosSignature or SmmMonitor
                || !MsrExits.TryWrite(vcpu, msr, vcpu.Nested.Read64(address + k * 16UL + 8)))
                return k + 1;
        }
        return 0;
    }

    /// <summary>Stores a list. False where an entry cannot be stored, which is a VMX abort.</summary>
    /// <param name="vcpu">The vCPU.</param>
    /// <param name="address">Where the list is.</param>
    /// <param name="count">Its entries.</param>
    /// <param name="timeStamp">The time-stamp counter at the exit; null for the one as it is.</param>
    public static bool Store(Vcpu vcpu, ulong address, uint count, ulong? timeStamp)
    {
        Span<byte> value = stackalloc byte[8];
        for (uint k = 0; k < count; k++)
        {
            ulong head = vcpu.Nested.Read64(address + k * 16UL);
            var msr = (uint)head;
            if (k >= vcpu.Nested.Capabilities.MsrListLimit || head >> 32 != 0 || msr >> 8 == 8 || msr == SmmMonitor
                || !MsrExits.TryRead(vcpu, msr, out ulong read))
                return false;
            if (msr == Msr.TimeStampCounter && timeStamp is { } atExit)
                read = atExit;
            BitConverter.TryWriteBytes(value, read);
            vcpu.Nested.WriteRegion(address + k * 16UL + 8, value);
        }
        return true;
    }
}
