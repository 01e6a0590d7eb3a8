using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <content>
/// Pages that the hypervisor keeps for itself, at host-physical addresses which no guest can form: they lie beyond every MAXPHYADDR
/// that a guest is told of, so that a paging-structure entry, an EPT entry or a VMCS field of a guest's with such an address is
/// refused. Devices do not see them either: <see cref="Page"/>, <see cref="TryRead"/> and <see cref="TryWrite"/> know RAM only.
/// </content>
public sealed unsafe partial class PhysicalMemory
{
    /// <summary>The width of host-physical addresses in bits. Guests are told of fewer.</summary>
    public const int AddressBits = 52;

    /// <summary>Where private pages begin: a guest's MAXPHYADDR is at most 51.</summary>
    public const ulong PrivateBase = 1UL << 51;

    private readonly Stack<int> _freePrivatePages = new();
    private nint[] _privatePages = [];
    private int _privateCount;

    /// <summary>Adds a private page, zeroed. Freed with this object at the latest. On the thread that runs the machine.</summary>
    /// <returns>Its host-physical address.</returns>
    public ulong AllocatePrivatePage()
    {
        if (!_freePrivatePages.TryPop(out int index))
        {
            index = _privateCount++;
            if (index == _privatePages.Length)
                Array.Resize(ref _privatePages, Math.Max(8, _privatePages.Length * 2));
        }
        void* page = NativeMemory.AlignedAlloc(PageSize, PageSize);
        NativeMemory.Clear(page, PageSize);
        _privatePages[index] = (nint)page;
        return PrivateBase + (ulong)index * PageSize;
    }

    /// <summary>Gives a private page back. An address that is not one's, or no longer, changes nothing.</summary>
    public void FreePrivatePage(ulong physical)
    {
        byte* page = PrivatePage(physical);
        if (page == null)
            return;
        var index = (int)((physical - PrivateBase) / PageSize);
        NativeMemory.AlignedFree(page);
        _privatePages[index] = 0;
        _freePrivatePages.Push(index);
    }

    /// <summary>
    /// What the processor's own structures (virtual-APIC pages, bitmaps, descriptors) may be in: RAM or a private page. Null where
    /// there is neither; the pointer is good for the rest of the page, and for a private page until it is freed.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* HostPage(ulong physical)
    {
        byte* page = Page(physical);
        return page != null ? page : PrivatePage(physical);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private byte* PrivatePage(ulong physical)
    {
        ulong index = (physical - PrivateBase) / PageSize;
        return physical >= PrivateBase && index < (ulong)_privatePages.Length ? (byte*)_privatePages[(int)index] : null;
    }

    private void FreePrivatePages()
    {
        foreach (nint page in _privatePages)
            NativeMemory.AlignedFree((void*)page);
        _privatePages = [];
    }
}
