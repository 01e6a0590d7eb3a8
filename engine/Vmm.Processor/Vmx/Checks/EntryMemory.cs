using Vmm.Processor.Memory;

namespace Vmm.Processor.Vmx.Checks;

/// <summary>RAM and private pages as the hardware's own VM entry reads them. Every address that it reads is aligned.</summary>
internal sealed unsafe class EntryMemory(PhysicalMemory memory) : IEntryMemory
{
    public uint Read32(ulong address)
    {
        byte* page = memory.HostPage(address);
        return page == null ? uint.MaxValue : *(uint*)(page + (address & 0xFFC));
    }

    public ulong Read64(ulong address)
    {
        byte* page = memory.HostPage(address);
        return page == null ? ulong.MaxValue : *(ulong*)(page + (address & 0xFF8));
    }
}
