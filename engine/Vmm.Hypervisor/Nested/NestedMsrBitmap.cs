using Vmm.Hypervisor.Apic;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// The MSR bitmaps of vmcs02, in private memory (SDM volume 3, section 25.6.9): everything exits, but for the registers that the
/// processor itself keeps and those of a virtualized x2APIC, where the bitmaps of vmcs12 let L2 through.
/// </summary>
internal sealed unsafe class NestedMsrBitmap : IDisposable
{
    private const int WriteHalf = 2048, HighPart = 1024;
    private const uint FirstX2Apic = 0x800;

    // SYSENTER and PAT; EFER, SYSCALL; the segment bases and TSC_AUX.
    private static readonly uint[] ProcessorOwned =
        [0x174, 0x175, 0x176, 0x277, 0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103];

    private readonly PhysicalMemory _memory;

    public NestedMsrBitmap(PhysicalMemory memory)
    {
        _memory = memory;
        Address = memory.AllocatePrivatePage();
        new Span<byte>(memory.HostPage(Address), PhysicalMemory.PageSize).Fill(0xFF);
    }

    /// <summary>The host-physical address of the bitmaps.</summary>
    public ulong Address { get; }

    /// <summary>Follows vmcs12, whose bitmaps are in use. They are read now: L1 changes them before it enters.</summary>
    public void Merge(NestedVmx nested)
    {
        byte* merged = _memory.HostPage(Address);
        byte* wanted = _memory.Page(nested.Vmcs12[VmcsField.MsrBitmaps]);
        foreach (uint msr in ProcessorOwned)
        {
            Merge(merged, wanted, msr, write: false);
            Merge(merged, wanted, msr, write: true);
        }
        bool extended = nested.Has(SecondaryControls.VirtualizeX2Apic);
        bool readable = extended && nested.Has(SecondaryControls.ApicRegisterVirtualization);
        bool delivers = extended && nested.Has(SecondaryControls.VirtualInterruptDelivery);
        // Without register virtualization a read means L1's own APIC, which is in L0.
        var reads = new Span<byte>(merged + (FirstX2Apic >> 3), 0x100 / 8);
        if (readable && wanted != null)
            new ReadOnlySpan<byte>(wanted + (FirstX2Apic >> 3), 0x100 / 8).CopyTo(reads);
        else
            reads.Fill(0xFF);
        Merge(merged, extended ? wanted : null, Register(ApicRegister.TaskPriority), write: false);
        Merge(merged, extended ? wanted : null, Register(ApicRegister.TaskPriority), write: true);
        Merge(merged, delivers ? wanted : null, Register(ApicRegister.EndOfInterrupt), write: true);
        Merge(merged, delivers ? wanted : null, Register(ApicRegister.SelfIpi), write: true);
    }

    /// <summary>The registers that go by without an exit.</summary>
    public uint[] Allowed(bool write)
    {
        byte* bitmap = _memory.HostPage(Address);
        return [.. Candidates.Where(msr => !Exits(bitmap, msr, write))];
    }

    /// <summary>Lets just these registers by.</summary>
    /// <exception cref="InvalidStateException">One of them never is.</exception>
    public void Allow(uint[] reads, uint[] writes)
    {
        byte* bitmap = _memory.HostPage(Address);
        new Span<byte>(bitmap, PhysicalMemory.PageSize).Fill(0xFF);
        foreach (bool write in (ReadOnlySpan<bool>)[false, true])
        {
            foreach (uint msr in write ? writes : reads)
            {
                InvalidStateException.ThrowUnless(Candidates.Contains(msr), "Nested.MsrsAllowed", $"0x{msr:x} always exits.");
                bitmap[Place(msr, write)] &= (byte)~(1 << (int)(msr & 7));
            }
        }
    }

    public void Dispose() => _memory.FreePrivatePage(Address);

    private static uint Register(uint offset) => FirstX2Apic + (offset >> 4);

    private static IEnumerable<uint> Candidates => ProcessorOwned.Concat(Enumerable.Range((int)FirstX2Apic, 0x100).Select(msr => (uint)msr));

    private static int Place(uint msr, bool write) => (msr >> 31 != 0 ? HighPart : 0) + (write ? WriteHalf : 0) + (int)((msr & 0x1FFF) >> 3);

    private static bool Exits(byte* bitmap, uint msr, bool write) => (bitmap[Place(msr, write)] >> (int)(msr & 7) & 1) != 0;

    /// <summary>Takes one bit over; where there is nothing to take it from, the access exits.</summary>
    private static void Merge(byte* merged, byte* wanted, uint msr, bool write)
    {
        int place = Place(msr, write);
        int bit = 1 << (int)(msr & 7);
        bool exits = wanted == null || (wanted[place] & bit) != 0;
        merged[place] = (byte)(exits ? merged[place] | bit : merged[place] & ~bit);
    }
}
