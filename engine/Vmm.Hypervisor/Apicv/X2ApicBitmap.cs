using Vmm.Hypervisor.Apic;
using Vmm.Processor.Memory;

namespace Vmm.Hypervisor.Apicv;

/// <summary>
/// The MSR bitmaps of L1 with APICv in x2APIC mode, in private memory (SDM volume 3, section 25.6.9): those registers go by without a
/// VM exit that the virtual-APIC page shows as they are, and the three writes that the processor emulates itself. The same for all
/// vCPUs.
/// </summary>
internal sealed unsafe class X2ApicBitmap : IDisposable
{
    private const int WriteLow = 2048;
    private const uint FirstMsr = 0x800;

    private readonly PhysicalMemory _memory;

    public X2ApicBitmap(PhysicalMemory memory)
    {
        _memory = memory;
        Address = memory.AllocatePrivatePage();
        byte* page = memory.HostPage(Address);
        new Span<byte>(page, PhysicalMemory.PageSize).Fill(0xFF);
        foreach (uint offset in LocalApic.RegistersInPage)
            Allow(page, FirstMsr + (offset >> 4));
        foreach (uint offset in (ReadOnlySpan<uint>)[ApicRegister.TaskPriority, ApicRegister.EndOfInterrupt, ApicRegister.SelfIpi])
            Allow(page + WriteLow, FirstMsr + (offset >> 4));
    }

    /// <summary>The host-physical address of the bitmaps.</summary>
    public ulong Address { get; }

    public void Dispose() => _memory.FreePrivatePage(Address);

    private static void Allow(byte* bitmap, uint msr) => bitmap[msr >> 3] &= (byte)~(1 << (int)(msr & 7));
}
